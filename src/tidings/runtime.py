"""Settings → store, queue, packs, channels, pipeline. The only place that picks adapters."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import entry_points
from typing import Self

import structlog

from tidings.caches.opened import open_cache
from tidings.channels.webpush import WebPushChannel, WebPushPlugin
from tidings.channels.webpush.base64url import encode as base64url
from tidings.channels.webpush.endpoints import EndpointPolicy
from tidings.channels.webpush.subscription import parse_subscription
from tidings.channels.webpush.vapid import generate_key
from tidings.errors import ConfigError
from tidings.flow import choices
from tidings.flow.choices import Choices
from tidings.flow.deliver.renderings import Renderings
from tidings.flow.intake.catalog import Catalog
from tidings.flow.pipeline import Pipeline, Sizes
from tidings.flow.plan.limit import WINDOW, Limits
from tidings.flow.recovery import Recovery
from tidings.insight import counters
from tidings.model.subscription import VapidKey
from tidings.ports.cache import Cache
from tidings.ports.channel import Channel
from tidings.ports.clock import Clock, SystemClock
from tidings.ports.pack import Pack
from tidings.ports.queue import Queue
from tidings.ports.store import Transaction
from tidings.queues.local import LocalQueue
from tidings.settings import Role, Settings
from tidings.stores import postgres, retention, sqlite
from tidings.stores.schema_version import Status
from tidings.stores.sealing import Sealer
from tidings.stores.store import SqlStore
from tidings.wording import MinijinjaWording

log = structlog.get_logger(__name__)

#: an old VAPID key is kept at least this long: a browser may have been given it a moment before the rotation
OLD_KEY_KEPT = timedelta(days=1)
#: channels that a preference or a notification may name; those without a plug-in are skipped as not set up
KNOWN_CHANNELS = ("webpush", "email", "sms", "inapp")
#: heartbeats of processes that ended without a word are kept this long, for whoever looks for them
PROCESSES_KEPT = timedelta(days=1)


#: connections to PostgreSQL per process, unless a setting says how many
_POOL = {Role.SERVE: 50, Role.API: 50, Role.WORKER: 20, Role.CLIENT: 5}


class PushKeys:
    """The Web Push side that browsers see: which key to subscribe with, and whether a subscription is sound."""

    def __init__(self, keys: Sequence[VapidKey], policy: EndpointPolicy) -> None:
        self._policy = policy
        self.set_keys(keys)

    def set_keys(self, keys: Sequence[VapidKey]) -> None:
        """Replace the known keys, newest first; at least one is not retired."""
        live = [key for key in keys if key.retired_at is None]
        self._current = live[0]
        self.ids = frozenset(key.id for key in live)

    def public_key(self) -> tuple[str, str]:
        """Return (public key as base64url, key id) for new subscriptions."""
        return base64url(self._current.public), self._current.id

    def current(self) -> tuple[str, datetime]:
        """Return the id of the key for new subscriptions, and since when it is that."""
        return self._current.id, self._current.created_at

    def knows(self, key_id: str) -> bool:
        """Say whether a key is one that this server still signs with."""
        return key_id in self.ids

    def register(self, body: object) -> tuple[str, bytes, bytes]:
        """Return (endpoint, p256dh, auth) of a `PushSubscription.toJSON()`. Raises Invalid naming the field."""
        device = parse_subscription(body, self._policy)
        return device.endpoint, device.p256dh, device.auth


@dataclass(frozen=True)
class Engine:
    """The parts that need nothing opened: enough to accept notifications on a connection somebody else gives."""

    settings: Settings
    clock: Clock
    packs: Sequence[Pack]
    catalog: Catalog
    wording: MinijinjaWording
    store: SqlStore
    queue: Queue
    pipeline: Pipeline

    @classmethod
    def of(cls, settings: Settings, clock: Clock, role: Role = Role.CLIENT) -> Self:
        """Put the parts together. Raises ConfigError naming the setting and the fix."""
        settings = settings.ensure_secrets()
        packs = installed_packs()
        catalog = Catalog.of(packs, channels=("webpush",), known_channels=KNOWN_CHANNELS)
        limits = Limits.parse(settings.user_limit, settings.category_limits)
        wording = MinijinjaWording(catalog.filters, settings.frontend_url)
        store = _store(settings, role, catalog)
        queue = _queue(settings, role, clock)
        sizes = Sizes(
            page=settings.page_size, batch=settings.batch_size, lease=timedelta(seconds=settings.lease_seconds)
        )
        pipeline = Pipeline(store, queue, catalog, wording, clock, sizes=sizes, limits=limits, observe=counters.observe)
        return cls(settings, clock, packs, catalog, wording, store, queue, pipeline)

    async def prepare(self) -> None:
        """Bring the schema up to date, or refuse where the settings say that nobody but a person does."""
        if self.settings.migrate:
            await self.store.upgrade()
        elif fault := schema_fault(await self.store.schema_status()):
            raise ConfigError("TIDINGS_MIGRATE", f"is off, and {fault}; run: tidings db upgrade")

    async def close(self) -> None:
        """Close what was opened meanwhile."""
        await self.queue.close()
        await self.queue.release()
        await self.store.close()


@dataclass(frozen=True, slots=True)
class Processed:
    """What one run of the schedule found (MISSION M22)."""

    #: accepted work that was handed to the queue
    tasks: int
    #: retries and delays that came due, in batches
    batches: int
    #: what the queue had lost
    redriven: int


@dataclass(frozen=True)
class Runtime:
    """A running system without its doors: no HTTP, no loops until a worker is started."""

    settings: Settings
    role: Role
    clock: Clock
    store: SqlStore
    queue: Queue
    packs: Sequence[Pack]
    catalog: Catalog
    channels: Mapping[str, Channel]
    webpush: WebPushChannel
    push: PushKeys
    pipeline: Pipeline
    recovery: Recovery
    renderings: Renderings
    choices: Choices

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: Settings, *, clock: Clock | None = None, role: Role = Role.CLIENT
    ) -> AsyncIterator[Self]:
        """Open the store (migrating it, unless the settings say not to), load packs and keys.

        Raises ConfigError naming the setting and the fix, BackendError when the database does not answer.
        """
        engine = Engine.of(settings, clock or SystemClock(), role)
        store = engine.store
        cache = _cache(engine.settings)
        try:
            await engine.prepare()
            async with store.begin() as tx:
                # Of processes that start together one is let through at a time: the rows it writes are locked until
                # it commits, so that the next one finds the VAPID key that the first one made.
                declared = sorted(engine.catalog.categories.values(), key=lambda category: category.code)
                await store.sync_categories(tx, declared)
                keys = await _vapid_keys(store, tx, engine.clock)
            counters.reads(counters.STATEMENTS, lambda: store.statements)
            if cache is not None:
                counters.reads_cache(choices.CACHE, lambda: cache.stats)
            yield cls._assembled(engine, role, keys, cache)
        finally:
            if cache is not None:
                await cache.close()
            await engine.close()

    @classmethod
    def _assembled(cls, engine: Engine, role: Role, keys: Sequence[VapidKey], cache: Cache | None) -> Self:
        settings = engine.settings
        policy = EndpointPolicy.parse(",".join(settings.push_extra_hosts))
        webpush = _plugin("tidings.channels", "webpush").create(
            keys, settings.vapid_subject, policy, engine.clock, settings.workers, settings.push_ca_file
        )
        # the lock file of `tidings serve` on SQLite keeps others away; PostgreSQL is everybody's
        alone = settings.sqlite_path is not None
        return cls(
            settings=settings,
            role=role,
            clock=engine.clock,
            store=engine.store,
            queue=engine.queue,
            packs=engine.packs,
            catalog=engine.catalog,
            channels={webpush.name: webpush},
            webpush=webpush,
            push=PushKeys(keys, policy),
            pipeline=engine.pipeline,
            recovery=Recovery(engine.store, engine.queue, engine.clock, exclusive=alone),
            renderings=Renderings(engine.wording, engine.catalog.templates),
            choices=Choices(engine.store, cache),
        )

    async def process(self) -> Processed:
        """Pick up everything that is due now: accepted work, retries and delays, what the queue lost (MISSION M22).

        A process whose queue nobody takes from leaves that to those that send. Raises BackendError.
        """
        if not (self.queue.shared or self.pipeline.attended):
            return Processed(0, 0, 0)
        tasks = batches = 0
        while found := await self.pipeline.dispatch():
            tasks += found
        while woken := await self.pipeline.wake_due():
            batches += woken
        return Processed(tasks, batches, await self.recovery.find_lost())

    async def tidy(self) -> None:
        """Erase what has been kept long enough: old work, jobs, answers, dead subscriptions, heartbeats."""
        now = self.clock.now()
        await self.recovery.tidy()
        await self.queue.tidy()
        async with self.store.begin() as tx:
            await self.store.limits.purge(tx, now - WINDOW)
            await self.store.processes.purge(tx, now - PROCESSES_KEPT)
        tidied = await retention.tidy(self.store, now, timedelta(days=self.settings.retention_days))
        if tidied.notifications:
            log.info("old_notifications_erased", count=tidied.notifications, partitions=tidied.dropped)

    async def schema_fault(self) -> str | None:
        """Say what is wrong with the database's schema for this program, None = nothing. Raises BackendError.

        A newer one is fine: in a rolling upgrade the processes of the old version go on until they are replaced.
        """
        found = await self.store.schema_status()
        return None if found.current is not None and found.current > found.head else schema_fault(found)

    async def reload_keys(self) -> None:
        """Take over a key that `rotate_keys` added, here or in another process; retire what nobody needs any more."""
        async with self.store.read() as tx:
            keys = await self.store.vapid_keys.all(tx)
        if frozenset(key.id for key in keys if key.retired_at is None) != self.push.ids:
            # the channel first: it must be able to sign before a browser is given the key
            self.webpush.set_keys(keys)
            self.push.set_keys(keys)
        if len(self.push.ids) > 1:
            await self._retire_keys()

    async def rotate_keys(self) -> VapidKey:
        """Add a key for new subscriptions. Old ones keep theirs until their browser has subscribed again."""
        key = generate_key(self.clock.now())
        async with self.store.begin() as tx:
            await self.store.vapid_keys.add(tx, key)
        await self.reload_keys()
        return key

    async def _retire_keys(self) -> None:
        current, since = self.push.current()
        now = self.clock.now()
        if now < since + OLD_KEY_KEPT:
            return
        async with self.store.begin() as tx:
            used = await self.store.vapid_keys.in_use(tx)
            for key in await self.store.vapid_keys.all(tx):
                if key.id != current and key.retired_at is None and not used.get(key.id):
                    await self.store.vapid_keys.retire(tx, key.id, now)


def installed_packs() -> list[Pack]:
    """Return every pack that registered under the entry-point group `tidings.packs`, in order of name."""
    found = [entry.load() for entry in sorted(entry_points(group="tidings.packs"), key=lambda entry: entry.name)]
    for pack in found:
        if not isinstance(pack, Pack):
            raise ConfigError("tidings.packs", f"an entry point names {type(pack).__name__}, which is no Pack")
    return found


def _plugin(group: str, name: str) -> WebPushPlugin:
    for entry in entry_points(group=group, name=name):
        plugin = entry.load()
        if isinstance(plugin, WebPushPlugin):
            return plugin
    raise ConfigError(group, f"the built-in {name} is not registered; is Tidings installed (`pip install`)?")


async def _vapid_keys(store: SqlStore, tx: Transaction, clock: Clock) -> Sequence[VapidKey]:
    """Return the keys, newest first; the first start makes one (MISSION M6)."""
    keys = await store.vapid_keys.all(tx)
    if not any(key.retired_at is None for key in keys):
        await store.vapid_keys.add(tx, generate_key(clock.now()))
        keys = await store.vapid_keys.all(tx)
    return keys


def _store(settings: Settings, role: Role, catalog: Catalog) -> SqlStore:
    path = settings.sqlite_path
    if path is not None:
        engines = sqlite.engines(path)
    elif settings.database.startswith("sqlite:"):
        raise ConfigError("TIDINGS_DATABASE", "must name a file: sqlite:///path/to/tidings.db")
    else:
        engines = postgres.engines(settings.database, pool_size=settings.database_pool or _POOL[role])
    return SqlStore(*engines, Sealer(settings.secret_key), catalog.audiences)


def _queue(settings: Settings, role: Role, clock: Clock) -> Queue:
    if settings.redis is None:
        return LocalQueue(clock)
    # what speaks to Redis takes its time to load, and most installations do not need it
    from tidings.queues.opened import open_queue

    return open_queue(settings.redis, settings.queue_prefix, clock, consumes=role.sends)


def _cache(settings: Settings) -> Cache | None:
    # on SQLite the lock file keeps every other server away, so nobody else changes what users chose
    return open_cache(settings.redis, settings.queue_prefix, choices.CACHE, alone=settings.sqlite_path is not None)


def schema_fault(found: Status) -> str | None:
    """Say what is wrong with a schema for this program, None = nothing."""
    if found.up_to_date:
        return None
    return f"the database has {f'schema {found.current}' if found.current else 'no schema'}, not {found.head}"
