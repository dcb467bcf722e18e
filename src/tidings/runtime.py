"""Settings → store, queue, packs, channels, pipeline. The only place that picks adapters."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import entry_points
from pathlib import Path
from typing import Self

from tidings.channels.webpush import WebPushChannel, WebPushPlugin
from tidings.channels.webpush.base64url import encode as base64url
from tidings.channels.webpush.endpoints import EndpointPolicy
from tidings.channels.webpush.subscription import parse_subscription
from tidings.channels.webpush.vapid import generate_key
from tidings.errors import ConfigError
from tidings.flow.deliver.renderings import Renderings
from tidings.flow.intake.catalog import Catalog
from tidings.flow.pipeline import Pipeline, Sizes
from tidings.flow.recovery import Recovery
from tidings.insight import counters
from tidings.model.subscription import VapidKey
from tidings.ports.channel import Channel
from tidings.ports.clock import Clock, SystemClock
from tidings.ports.pack import Pack
from tidings.ports.store import Transaction
from tidings.queues.local import LocalQueue
from tidings.settings import Settings
from tidings.stores.sealing import Sealer
from tidings.stores.sqlite import engines
from tidings.stores.store import SqlStore
from tidings.wording import MinijinjaWording

#: an old VAPID key is kept at least this long: a browser may have been given it a moment before the rotation
OLD_KEY_KEPT = timedelta(days=1)
#: channels that a preference or a notification may name; those without a plug-in are skipped as not set up
KNOWN_CHANNELS = ("webpush", "email", "sms", "inapp")


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
    queue: LocalQueue
    pipeline: Pipeline

    @classmethod
    def of(cls, settings: Settings, clock: Clock) -> Self:
        """Put the parts together. Raises ConfigError naming the setting and the fix."""
        settings = settings.ensure_secrets()
        packs = installed_packs()
        catalog = Catalog.of(packs, channels=("webpush",), known_channels=KNOWN_CHANNELS)
        wording = MinijinjaWording(catalog.filters, settings.frontend_url)
        store = SqlStore(*engines(_sqlite_path(settings)), Sealer(settings.secret_key), catalog.audiences)
        queue = LocalQueue(clock)
        sizes = Sizes(
            page=settings.page_size, batch=settings.batch_size, lease=timedelta(seconds=settings.lease_seconds)
        )
        pipeline = Pipeline(store, queue, catalog, wording, clock, sizes=sizes, observe=counters.observe)
        return cls(settings, clock, packs, catalog, wording, store, queue, pipeline)


@dataclass(frozen=True)
class Runtime:
    """A running system without its doors: no HTTP, no loops until `worker()` is started."""

    settings: Settings
    clock: Clock
    store: SqlStore
    queue: LocalQueue
    packs: Sequence[Pack]
    catalog: Catalog
    channels: Mapping[str, Channel]
    webpush: WebPushChannel
    push: PushKeys
    pipeline: Pipeline
    recovery: Recovery
    renderings: Renderings

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, *, clock: Clock | None = None) -> AsyncIterator[Self]:
        """Open the store (migrating it), load packs and keys.

        Raises ConfigError naming the setting and the fix, BackendError when the database does not answer.
        """
        engine = Engine.of(settings, clock or SystemClock())
        store = engine.store
        try:
            await store.upgrade()
            async with store.begin() as tx:
                await store.sync_categories(tx, list(engine.catalog.categories.values()))
                keys = await _vapid_keys(store, tx, engine.clock)
            counters.STATEMENTS.set_function(lambda: store.statements)
            yield cls._assembled(engine, keys)
        finally:
            await store.close()

    @classmethod
    def _assembled(cls, engine: Engine, keys: Sequence[VapidKey]) -> Self:
        settings = engine.settings
        policy = EndpointPolicy.parse(",".join(settings.push_extra_hosts))
        webpush = _plugin("tidings.channels", "webpush").create(
            keys, settings.vapid_subject, policy, engine.clock, settings.workers, settings.push_ca_file
        )
        return cls(
            settings=settings,
            clock=engine.clock,
            store=engine.store,
            queue=engine.queue,
            packs=engine.packs,
            catalog=engine.catalog,
            channels={webpush.name: webpush},
            webpush=webpush,
            push=PushKeys(keys, policy),
            pipeline=engine.pipeline,
            recovery=Recovery(engine.store, engine.queue, engine.clock),
            renderings=Renderings(engine.wording, engine.catalog.templates),
        )

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


def _sqlite_path(settings: Settings) -> Path:
    path = settings.sqlite_path
    if path is None:
        raise ConfigError("TIDINGS_DATABASE", "must be sqlite:///path/to/file")
    return path
