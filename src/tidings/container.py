"""The composition root: creates store, queue, cache, packs, channels and pipeline from the settings.

No other module chooses adapters.
"""

import platform
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

import structlog

from tidings.audience_service import AudienceService
from tidings.backend_health import BackendHealth
from tidings.caches.factory import create_cache
from tidings.channels.plugin import (
    ChannelContext,
    ChannelHooks,
    ChannelPlugin,
    HasArrivalReports,
    HasBackgroundTasks,
    HasCategorySettings,
    HasPreparation,
    load_channel_plugins,
)
from tidings.channels.webhook import (
    StatusEventSender,
    create_status_event_sender,
    create_variables_endpoints,
    load_webhook_settings,
)
from tidings.config.settings import Role, Settings
from tidings.flow.catalog import Catalog
from tidings.flow.deliver.render_cache import RenderCache
from tidings.flow.fanout.limits import RateLimitPolicy
from tidings.flow.pipeline import Pipeline, PipelineConfig, PipelineMetrics
from tidings.flow.recover.reconciler import Reconciler
from tidings.flow.recurring.runner import RecurringRunner
from tidings.flow.recurring.variables import VariableResolver
from tidings.inbox_service import InboxService
from tidings.model.ids import new_id
from tidings.model.preference import parse_default
from tidings.model.stream import CountBy, StreamAccess
from tidings.observability import metrics
from tidings.observability.alerts import AlertRegistry
from tidings.observability.provider_metrics import create_hook_series
from tidings.observability.provider_silence import check_silence, create_hooks
from tidings.packs.discovery import (
    KNOWN_CHANNELS,
    check_texts,
    check_triggers,
    collect_migrations,
    list_pack_settings,
    load_catalog,
    load_packs,
)
from tidings.packs.events.repository import find_stream, has_ticket
from tidings.packs.streams.epochs import StreamEpochs
from tidings.packs.streams.room_node import RoomDefaults, RoomNode
from tidings.packs.streams.viewers import Timing, ViewerRegistry
from tidings.packs.trigger_file import load_trigger_file
from tidings.ports.broadcaster import Broadcaster
from tidings.ports.cache import Cache
from tidings.ports.channel import Channel, HasCircuits
from tidings.ports.clock import Clock, SystemClock
from tidings.ports.pack import Pack
from tidings.ports.pack_context import PackServices
from tidings.ports.plugin import BackgroundTask
from tidings.ports.queue import Queue
from tidings.ports.rate_limits import RateLimiter
from tidings.ports.recurring import VariablesEndpoints
from tidings.ports.renderer import Evaluator
from tidings.preferences import CACHE_NAME, PreferenceService
from tidings.presence.factory import create_presence
from tidings.queues.memory_queue import MemoryQueue
from tidings.rate_limits.factory import create_rate_limiter
from tidings.realtime.memory_broadcaster import MemoryBroadcaster
from tidings.recurring_service import RecurringService
from tidings.rendering.minijinja_renderer import MinijinjaRenderer
from tidings.stores.factory import create_store, describe_schema_mismatch, ensure_schema
from tidings.stores.schema import retention
from tidings.stores.store import SqlStore

log = structlog.get_logger(__name__)

#: users whose addresses are stored together when an older version's users are completed
PROFILES_PER_TRANSACTION = 500
#: retention of the heartbeats of crashed processes, for operators
HEARTBEAT_RETENTION = timedelta(days=1)
#: retention of the sums of quotas, for operators
QUOTA_RETENTION = timedelta(days=35)
#: retention of status events that no worker sends any more; the retries of one last a day
STATUS_EVENT_RETENTION = timedelta(days=2)
#: seconds without a failed statement, after which a successful write means that the database has recovered
DATABASE_STABLE_FOR = 2.0


@dataclass(frozen=True)
class Core:
    """The components that work without opening connections. They can accept on a connection of the caller."""

    settings: Settings
    clock: Clock
    packs: Sequence[Pack]
    plugins: Mapping[str, ChannelPlugin]
    catalog: Catalog
    renderer: MinijinjaRenderer
    store: SqlStore
    queue: Queue
    pipeline: Pipeline
    alerts: AlertRegistry
    #: what reads the calls of providers, by channel, configured or not
    hooks: Mapping[str, ChannelHooks]

    @classmethod
    def build(cls, settings: Settings, clock: Clock, role: Role = Role.CLIENT) -> Self:
        """Create the components. Raises ConfigError naming the setting and the fix."""
        settings = settings.ensure_secrets()
        packs = load_packs()
        for pack in packs:
            list_pack_settings(pack)
        plugins = load_channel_plugins()
        catalog, rate_limits = build_catalog(packs, plugins, settings)
        renderer = MinijinjaRenderer(catalog.filters, settings.frontend_url)
        if role is not Role.CLIENT:
            check_texts(packs, renderer)
            check_triggers(catalog, renderer)
        store = create_store(
            settings,
            role,
            catalog.audiences,
            collect_migrations(packs, plugins),
            has_status_events=load_webhook_settings(settings).events_url is not None,
        )
        hooks = create_hooks(plugins, settings)
        queue = _create_queue(settings, role, clock)
        alerts = AlertRegistry(clock)
        config = PipelineConfig(
            page_size=settings.page_size,
            batch_size=settings.batch_size,
            lease_duration=timedelta(seconds=settings.lease_seconds),
            schedule_defaults=settings.schedule_defaults,
            rate_limits=rate_limits,
            is_exclusive=settings.is_exclusive,
            channels_with_hooks=[name for name in catalog.channels if name in hooks and hooks[name].providers],
            receipt_categories={
                name: plugin.list_receipt_categories(settings)
                for name, plugin in plugins.items()
                if isinstance(plugin, HasArrivalReports)
            },
            soft_bounce_policies={name: one.feedback.soft_bounces for name, one in hooks.items()},
        )
        pipeline = Pipeline(
            store,
            queue,
            catalog,
            renderer,
            clock,
            config=config,
            metrics=PipelineMetrics(
                on_outcomes=metrics.count_outcomes,
                on_steps=metrics.count_steps,
                on_digests_closed=metrics.count_digests,
            ),
            alerts=alerts,
        )
        return cls(settings, clock, packs, plugins, catalog, renderer, store, queue, pipeline, alerts, hooks)

    def list_hooks(self) -> Sequence[tuple[str, str]]:
        """Return (channel, provider) of the hooks that are on."""
        return [(name, provider) for name, hooks in self.hooks.items() for provider in hooks.providers]

    async def ensure_schema(self) -> None:
        """Migrate the schema. With `migrate` off, raise ConfigError if the schema is not current."""
        await ensure_schema(self.store, self.settings)

    async def close(self) -> None:
        """Close the queue and the store."""
        await self.queue.stop()
        await self.queue.aclose()
        await self.store.close()


@dataclass(frozen=True, slots=True)
class DueWorkResult:
    """The numbers of items that one run enqueued."""

    #: accepted work, in tasks
    tasks: int
    #: due retries and delayed deliveries, in batches
    batches: int
    #: re-enqueued stuck tasks
    redriven: int


@dataclass(frozen=True)
class AppContainer:
    """All opened components of a process. HTTP and the worker's loops are started separately."""

    settings: Settings
    role: Role
    clock: Clock
    store: SqlStore
    queue: Queue
    packs: Sequence[Pack]
    catalog: Catalog
    #: installed channels by name, configured or not
    plugins: Mapping[str, ChannelPlugin]
    #: configured channels by name
    channels: Mapping[str, Channel]
    #: what reads the calls of providers, by channel, configured or not
    hooks: Mapping[str, ChannelHooks]
    #: the services of the channels
    channel_context: ChannelContext
    pipeline: Pipeline
    reconciler: Reconciler
    #: evaluates the expressions of triggers
    evaluator: Evaluator
    render_cache: RenderCache
    preferences: PreferenceService
    #: saved audiences, and estimates of audiences
    audiences: AudienceService
    #: recurring notifications as callers change them
    recurring: RecurringService
    #: schedules and makes their runs
    recurring_runner: RecurringRunner
    #: the endpoints that are asked for their variables
    variables_endpoints: VariablesEndpoints
    #: the changes of feeds, for the browsers connected to this process
    broadcaster: Broadcaster
    inbox: InboxService
    #: the live rooms of this process
    rooms: RoomNode
    #: counts the calls of routes
    rate_limiter: RateLimiter
    alerts: AlertRegistry
    #: sends the host product what becomes of deliveries; None = it wants no events
    status_event_sender: StatusEventSender | None
    #: as observed by this process
    database_health: BackendHealth

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: Settings, *, clock: Clock | None = None, role: Role = Role.CLIENT
    ) -> AsyncIterator[Self]:
        """Open the store, migrate it (setting `migrate`), load packs and prepare the channels.

        Raises ConfigError naming the setting and the fix, BackendError when the database does not respond.
        """
        core = Core.build(settings, clock or SystemClock(), role)
        store = core.store
        cache = _create_cache(core.settings)
        runtime: Self | None = None
        try:
            await core.ensure_schema()
            metrics.create_series(core.catalog.channels, [CACHE_NAME])
            create_hook_series(core.list_hooks())
            metrics.register_gauge(metrics.SQL_STATEMENTS, lambda: store.statement_count)
            if cache is not None:
                metrics.register_cache(CACHE_NAME, lambda: cache.stats)
            runtime = cls._build(core, role, cache)
            metrics.register_providers(runtime.channels)
            for name in runtime.channels:
                plugin = runtime.plugins[name]
                if isinstance(plugin, HasPreparation):
                    await plugin.prepare(runtime.channel_context)
            metrics.register_breakers(runtime.open_circuits)
            registry = runtime.rooms.registry
            metrics.register_gauge(metrics.ROOM_CONNECTIONS, lambda: registry.total)
            metrics.register_gauge(metrics.ROOMS, registry.count_rooms)
            yield runtime
        finally:
            if runtime is not None:
                await runtime.rate_limiter.close()
                await runtime.rooms.presence.close()
                await runtime.variables_endpoints.close()
                if runtime.status_event_sender is not None:
                    await runtime.status_event_sender.close()
            if cache is not None:
                await cache.close()
            await core.close()

    @classmethod
    def _build(cls, core: Core, role: Role, cache: Cache | None) -> Self:
        settings = core.settings
        broadcaster = MemoryBroadcaster()
        channels: dict[str, Channel] = {}
        context = ChannelContext(settings, core.clock, core.store, core.alerts, broadcaster, channels)
        channels |= {name: core.plugins[name].create(context) for name in core.catalog.channels}
        database_health = BackendHealth("database", stable_for=DATABASE_STABLE_FOR)
        audiences = AudienceService(core.store, core.clock, core.catalog, core.pipeline.fan_out, channels)
        endpoints = create_variables_endpoints(load_webhook_settings(settings), core.clock)
        runner = _create_recurring_runner(core, endpoints)
        return cls(
            settings=settings,
            role=role,
            clock=core.clock,
            store=core.store,
            queue=core.queue,
            packs=core.packs,
            catalog=core.catalog,
            plugins=core.plugins,
            channels=channels,
            hooks=core.hooks,
            channel_context=context,
            pipeline=core.pipeline,
            reconciler=Reconciler(core.store, core.queue, core.clock, is_exclusive=settings.is_exclusive),
            evaluator=core.renderer,
            render_cache=RenderCache(core.renderer, core.catalog),
            preferences=PreferenceService(core.store, cache),
            audiences=audiences,
            recurring=RecurringService(
                core.store,
                core.clock,
                core.catalog,
                core.renderer,
                audiences,
                endpoints,
                runner,
                on_finished=metrics.count_recurring_run,
            ),
            recurring_runner=runner,
            variables_endpoints=endpoints,
            broadcaster=broadcaster,
            inbox=InboxService(core.store, core.clock, broadcaster),
            rooms=_create_rooms(core, broadcaster, database_health),
            rate_limiter=create_rate_limiter(settings.redis, settings.queue_prefix, core.clock),
            alerts=core.alerts,
            status_event_sender=create_status_event_sender(
                load_webhook_settings(settings), core.store, core.clock, core.alerts
            ),
            database_health=database_health,
        )

    def open_circuits(self) -> Mapping[str, bool]:
        """Return whether a circuit is open now, for the servers that the channels of this process send to."""
        return {
            target: is_open
            for channel in self.channels.values()
            if isinstance(channel, HasCircuits)
            for target, is_open in channel.open_circuits().items()
        }

    def create_plugin_tasks(self) -> Sequence[tuple[str, BackgroundTask]]:
        """Return (owner, task) of the background tasks of the configured channels and of the packs.

        The owner is the name of a channel, or `pack.` and the name of a pack.
        """
        of_channels = [
            (name, task)
            for name in self.channels
            if isinstance(plugin := self.plugins[name], HasBackgroundTasks)
            for task in plugin.create_tasks(self.channel_context)
        ]
        services = PackServices(self.store, self.pipeline, self.clock)
        return of_channels + [
            (f"pack.{pack.name}", task)
            for pack in self.packs
            if pack.create_tasks is not None
            for task in pack.create_tasks(services)
        ]

    async def run_due_work(self) -> DueWorkResult:
        """Enqueue all due work: accepted work, retries and delayed deliveries, stuck tasks.

        Does nothing if no worker consumes this process's queue. Raises BackendError.
        """
        if not (self.queue.is_shared or self.pipeline.has_local_consumer):
            return DueWorkResult(0, 0, 0)
        tasks = batches = 0
        while relayed := await self.pipeline.outbox_relay.relay():
            tasks += relayed
        await self.pipeline.close_due_digests()
        while batched := await self.pipeline.batch_due():
            batches += batched
        return DueWorkResult(tasks, batches, await self.reconciler.requeue_stuck())

    async def run_maintenance(self) -> None:
        """Delete what exceeds its retention: old work, jobs, stored responses, dead subscriptions, heartbeats."""
        now = self.clock.now()
        await self.reconciler.purge()
        await self.queue.purge()
        async with self.store.transaction() as tx:
            await self.store.user_rate_limits.purge(tx, now)
            await self.store.quotas.purge(tx, (now - QUOTA_RETENTION).date())
            await self.store.processes.purge(tx, now - HEARTBEAT_RETENTION)
            await self.store.status_events.purge(tx, now - STATUS_EVENT_RETENTION)
        await self._sync_old_profiles(now)
        configured = {name: one for name, one in self.hooks.items() if one.providers and name in self.channels}
        await check_silence(self.store, configured, self.alerts, now)
        keep_for = timedelta(days=self.settings.retention_days)
        if keep_for:
            await self.inbox.purge(now - keep_for)
            async with self.store.transaction() as tx:
                await self.store.receipts.purge(tx, now - keep_for)
                await self.store.digests.purge(tx, now - keep_for)
                await self.store.recurring.purge_runs(tx, now - keep_for)
        result = await retention.run_retention(self.store, now, keep_for)
        if result.notifications_deleted:
            log.info(
                "old_notifications_erased", count=result.notifications_deleted, partitions=result.partitions_dropped
            )

    async def _sync_old_profiles(self, now: datetime) -> None:
        """Store the addresses of users who were stored before contact points existed."""
        while True:
            async with self.store.read_snapshot() as tx:
                people = await self.store.contact_points.list_missing_profiles(tx, limit=PROFILES_PER_TRANSACTION)
            if not people:
                return
            async with self.store.transaction() as tx:
                await self.store.contact_points.sync_profiles(tx, people, now)

    async def check_schema(self) -> str | None:
        """Return how the database's schema differs from this program's, None if it is usable. Raises BackendError.

        A newer schema is usable: in a rolling upgrade, processes of the old version run until they are replaced.
        """
        return describe_schema_mismatch(
            [status for status in await self.store.schema_statuses() if not status.is_newer]
        )


def build_catalog(
    packs: Sequence[Pack], plugins: Mapping[str, ChannelPlugin], settings: Settings
) -> tuple[Catalog, RateLimitPolicy]:
    """Return the catalog of packs and channels, and the rate limits.

    Raises ConfigError if a setting names an unknown category or channel, or if a channel's settings or the file of
    triggers are wrong.
    """
    catalog = load_catalog(
        packs,
        channels=[name for name, plugin in _sort_channels(plugins) if plugin.is_configured(settings)],
        traits={name: plugin.traits for name, plugin in plugins.items()},
        triggers=load_trigger_file(settings.triggers_file),
        preference_defaults=[parse_default(item) for item in settings.preference_defaults],
    )
    rate_limits = RateLimitPolicy.parse(
        settings.user_limit, settings.category_limits, settings.frequency_caps, settings.installation_cap
    )
    catalog.check_categories("TIDINGS_CATEGORY_LIMITS", rate_limits.per_category)
    for plugin in plugins.values():
        if isinstance(plugin, HasCategorySettings):
            for setting, codes in plugin.list_categories(settings).items():
                catalog.check_categories(setting, codes)
    return catalog, rate_limits


def _sort_channels(plugins: Mapping[str, ChannelPlugin]) -> list[tuple[str, ChannelPlugin]]:
    """Return the channels in the order in which they are planned: the known ones first."""
    order = {name: position for position, name in enumerate(KNOWN_CHANNELS)}
    return sorted(plugins.items(), key=lambda item: (order.get(item[0], len(order)), item[0]))


def _create_queue(settings: Settings, role: Role, clock: Clock) -> Queue:
    if settings.redis is None:
        return MemoryQueue(clock)
    # imported here, because the Redis client loads slowly and most installations do not use it
    from tidings.queues.factory import create_queue

    return create_queue(settings.redis, settings.queue_prefix, clock, is_consumer=role.has_worker)


def _create_recurring_runner(core: Core, endpoints: VariablesEndpoints) -> RecurringRunner:
    services = PackServices(core.store, core.pipeline, core.clock)
    return RecurringRunner(
        core.store,
        core.clock,
        core.pipeline.accept,
        VariableResolver(core.catalog, services, endpoints),
        core.alerts,
        default_timezone=core.settings.schedule_defaults.timezone,
        on_finished=metrics.count_recurring_run,
    )


def _create_rooms(core: Core, broadcaster: Broadcaster, database_health: BackendHealth) -> RoomNode:
    settings = core.settings
    registry = ViewerRegistry(
        Timing(settings.stream_heartbeat),
        max_per_user=settings.stream_user_connections,
        max_per_address=settings.stream_address_connections,
        max_total=settings.stream_connections,
    )
    return RoomNode(
        StreamEpochs(core.store, core.pipeline, core.clock, find_stream, has_ticket),
        create_presence(settings.redis, settings.queue_prefix),
        broadcaster,
        core.clock,
        registry,
        # a process that is restarted on the same address removes the leases of the one before
        node=f"{platform.node()}:{settings.host}:{settings.port}#{new_id(core.clock.now())}",
        defaults=RoomDefaults(
            settings.stream_grace, CountBy(settings.stream_count_by), StreamAccess(settings.stream_access)
        ),
        database_health=database_health,
    )


def _create_cache(settings: Settings) -> Cache | None:
    return create_cache(settings.redis, settings.queue_prefix, CACHE_NAME, is_exclusive=settings.is_exclusive)
