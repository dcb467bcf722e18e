"""The Python client: notify from the host product's own process and transaction."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self, TypedDict, Unpack

from tidings.config.settings import Settings
from tidings.container import AppContainer, Core
from tidings.errors import ConfigError, ValidationFailed
from tidings.flow.notifications import get_notification
from tidings.model.audience import Audience, users
from tidings.model.notification import Notification, NotificationCounts
from tidings.model.plan_options import ChannelSelection
from tidings.model.priority import Priority
from tidings.model.request import NotifyRequest
from tidings.model.subject import SubjectRequest
from tidings.model.trace import DeliveryTrace, SkipTrace
from tidings.ports.clock import Clock, SystemClock
from tidings.ports.store import Store, Transaction
from tidings.schemas.json_body import validate_body
from tidings.schemas.plan_options import PlanOptionsBody
from tidings.stores.engine.background_loop import LoopThread
from tidings.stores.engine.error_mapping import map_errors
from tidings.stores.engine.sqlite import create_sync_engine
from tidings.stores.engine.transaction import adopt_sync, run_sync
from tidings.stores.factory import describe_schema_mismatch
from tidings.stores.schema import version
from tidings.stores.schema.ensure_current import ensure_current

#: largest number of deliveries, and of skips, in a trace; the API paginates instead
TRACE_LIMIT = 1000
#: notifications that `list_notifications` returns at most
_MAX_LISTED = 100


@dataclass(frozen=True, slots=True)
class NotificationTrace:
    """A notification with at most 1 000 deliveries and 1 000 skips."""

    notification: Notification
    counts: NotificationCounts
    deliveries: Sequence[DeliveryTrace]
    skips: Sequence[SkipTrace]


class NotificationOptions(TypedDict, total=False):
    """The options of `notify`. Defaults come from the template."""

    variables: Mapping[str, object]
    priority: Priority | str
    #: time to wait before sending; excludes `send_at`
    delay: timedelta
    #: earliest time to send, with a time zone
    send_at: datetime
    #: latest time to send, with a time zone
    expires_at: datetime
    #: restrict to these channels
    channels: Sequence[str]
    #: target of a click: a path or http(s) URL
    action_url: str
    #: label of a button that opens `action_url`
    action_text: str
    #: free text about the cause, shown by `explain`
    source: str
    #: what it is about; a newer notification on the same subject supersedes it
    subject: str | SubjectRequest
    #: which channels when, in the form of the HTTP API: `[{"channels": ["inapp"]}, …]`; empty = all at once
    steps: Sequence[Mapping[str, object]]
    #: how notifications are collected into one message, in the form of the HTTP API; False = not
    digest: Mapping[str, object] | Literal[False]
    #: how many a user receives in a window, in the form of the HTTP API; False = no limit
    throttle: Mapping[str, object] | Literal[False]
    #: of the channels that reach a user, in each step the one on which they were most engaged
    channel_selection: ChannelSelection


_OPTION_TYPES: Mapping[str, type] = {
    "variables": Mapping,
    "delay": timedelta,
    "send_at": datetime,
    "expires_at": datetime,
    "channels": Sequence,
    "action_url": str,
    "action_text": str,
    "source": str,
}


class NotificationHandle:
    """An accepted notification. With `conn=`, it exists once the caller's transaction is committed."""

    def __init__(self, runtime: AppContainer, notification: Notification) -> None:
        self._runtime = runtime
        self._notification = notification

    @property
    def id(self) -> str:
        """Return the notification's id."""
        return self._notification.id

    async def cancel(self) -> None:
        """Cancel the notification. Raises NotFound, or Conflict if all deliveries are final."""
        await self._runtime.pipeline.cancel(self.id)

    async def trace(self, *, user_id: str | None = None) -> NotificationTrace:
        """Return its deliveries and skips, of one user or of all. Raises NotFound."""
        store = self._runtime.store
        async with store.read_snapshot() as tx:
            notification = await get_notification(store, tx, self.id, hint="Was the transaction rolled back?")
            return await _load_trace(store, tx, notification, user_id)


class Tidings:
    """The client for Python programs. It accepts and reads; a server or worker on the same database sends.

    `async with Tidings.from_env() as tidings:` opens it. `notify_sync` works without opening it.
    """

    def __init__(self, settings: Settings, *, clock: Clock | None = None) -> None:
        self.settings = settings
        self._clock = clock or SystemClock()
        self._stack = AsyncExitStack()
        self._runtime: AppContainer | None = None
        self._sync_backend: _SyncBackend | None = None
        self._open_lock = threading.Lock()

    @classmethod
    def from_env(cls, **settings: object) -> Self:
        """Read `TIDINGS_*`, `.env` and `tidings.toml`. Keyword arguments take precedence. Raises ConfigError."""
        return cls(Settings.load(**settings))  # type: ignore[arg-type]  # `load` validates names and values

    @classmethod
    def for_container(cls, runtime: AppContainer) -> Self:
        """Return an open client of a container that the caller opened, such as that of a worker in this process."""
        client = cls(runtime.settings, clock=runtime.clock)
        client._runtime = runtime
        return client

    async def __aenter__(self) -> Self:
        self._runtime = await self._stack.enter_async_context(AppContainer.open(self.settings, clock=self._clock))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runtime = None
        self.close()
        await self._stack.__aexit__(kind, error, trace)

    def close(self) -> None:
        """Close the connections of `notify_sync`. Leaving `async with` does the same."""
        if self._sync_backend is not None:
            self._sync_backend.close()
            self._sync_backend = None

    async def notify(
        self,
        template: str,
        *,
        to: str | Sequence[str] | Audience,
        conn: object = None,
        **options: Unpack[NotificationOptions],
    ) -> NotificationHandle:
        """Notify a user, several users, or an audience. `NotificationOptions` lists the options.

        to: a user id, several user ids, or an audience; conn: a SQLAlchemy AsyncConnection or AsyncSession on Tidings'
        database. With it, the notification is part of the caller's transaction and is sent after its commit.
        Raises ValidationFailed naming each invalid argument and the fix; nothing is stored then.
        """
        if self._runtime is None:
            raise RuntimeError("the client is not open; use: async with Tidings.from_env() as tidings: …")
        request = _build_request(template, to, options, self._clock.now())
        pipeline, store = self._runtime.pipeline, self._runtime.store
        if conn is None:
            return NotificationHandle(self._runtime, await pipeline.submit(request))
        return NotificationHandle(self._runtime, await pipeline.accept(await store.adopt(conn), request))

    async def list_notifications(self, user_id: str, *, limit: int = 20) -> Sequence[NotificationTrace]:
        """Return the newest notifications with deliveries to a user or skips, newest first, each with only these.

        limit: 1 to 100. Raises ValueError for another one.
        """
        if not 1 <= limit <= _MAX_LISTED:
            raise ValueError(f"limit must be between 1 and {_MAX_LISTED}")
        if self._runtime is None:
            raise RuntimeError("the client is not open; use: async with Tidings.from_env() as tidings: …")
        store = self._runtime.store
        async with store.read_snapshot() as tx:
            page = await store.notifications.list_page(tx, before=None, limit=limit, user_id=user_id)
            return [await _load_trace(store, tx, notification, user_id) for notification in page]

    def notify_sync(
        self,
        template: str,
        *,
        to: str | Sequence[str] | Audience,
        conn: object = None,
        **options: Unpack[NotificationOptions],
    ) -> str:
        """Notify as `notify` does, without an event loop. Returns the notification's id.

        conn: a SQLAlchemy Connection or Session.
        """
        request = _build_request(template, to, options, self._clock.now())
        with self._open_lock:
            if self._sync_backend is None or self._sync_backend.pid != os.getpid():
                self._sync_backend = _create_sync_backend(self.settings, self._clock)
            backend = self._sync_backend
        return backend.accept(request, conn).id


async def _load_trace(
    store: Store, tx: Transaction, notification: Notification, user_id: str | None
) -> NotificationTrace:
    return NotificationTrace(
        notification,
        await store.notifications.get_counts(tx, notification.id),
        await store.deliveries.list_with_attempts(tx, notification.id, user_id=user_id, after=None, limit=TRACE_LIMIT),
        await store.deliveries.list_skips(tx, notification.id, user_id=user_id, after=None, limit=TRACE_LIMIT),
    )


class _SyncBackend(Protocol):
    """Accepts notifications for callers without an event loop."""

    #: id of the process that opened it; connections and threads do not survive a fork
    pid: int

    def accept(self, request: NotifyRequest, conn: object) -> Notification: ...
    def close(self) -> None: ...


class _SqliteSyncBackend:
    """Uses a blocking connection, its own or the caller's."""

    def __init__(self, core: Core, path: Path) -> None:
        self.pid = os.getpid()
        self._core = core
        self._engine = create_sync_engine(path)
        self._ensure_schema(path)

    def accept(self, request: NotifyRequest, conn: object) -> Notification:
        if conn is not None:
            return run_sync(self._core.pipeline.accept(adopt_sync(conn), request))
        with map_errors(), self._engine.begin() as connection:
            return run_sync(self._core.pipeline.accept(adopt_sync(connection), request))

    def _ensure_schema(self, path: Path) -> None:
        migrations = self._core.store.pack_migrations
        # read without the write lock, which the caller may hold: the first call may be within the caller's transaction
        reader = create_sync_engine(path, is_writable=False)
        with map_errors(), reader.connect() as connection:
            mismatch = describe_schema_mismatch(version.read_statuses(connection, migrations))
        reader.dispose()
        if mismatch is None:
            return
        if not self._core.settings.migrate:
            raise ConfigError("TIDINGS_MIGRATE", f"is off, and {mismatch}; run: tidings db upgrade")
        with map_errors(), self._engine.connect() as connection:
            ensure_current(connection, migrations)

    def close(self) -> None:
        self._engine.dispose()


class _PostgresSyncBackend:
    """Uses the caller's connection, or the connections of an event loop in a background thread."""

    def __init__(self, core: Core) -> None:
        self.pid = os.getpid()
        self._core = core
        self._loop_thread = LoopThread()
        try:
            self._loop_thread.run(core.ensure_schema())
        except BaseException:
            self.close()
            raise

    def accept(self, request: NotifyRequest, conn: object) -> Notification:
        if conn is not None:
            return run_sync(self._core.pipeline.accept(adopt_sync(conn), request))
        return self._loop_thread.run(self._core.pipeline.submit(request))

    def close(self) -> None:
        self._loop_thread.run(self._core.close())
        self._loop_thread.close()


def _create_sync_backend(settings: Settings, clock: Clock) -> _SyncBackend:
    core = Core.build(settings, clock)
    path = core.settings.sqlite_path
    return _PostgresSyncBackend(core) if path is None else _SqliteSyncBackend(core, path)


def _build_request(
    template: str, to: str | Sequence[str] | Audience, options: NotificationOptions, now: datetime
) -> NotifyRequest:
    if unknown := sorted(set(options) - set(NotificationOptions.__annotations__)):
        raise TypeError(
            f"notify() has no option {', '.join(unknown)}; known are {', '.join(NotificationOptions.__annotations__)}"
        )
    for name, kind in _OPTION_TYPES.items():
        if (value := options.get(name)) is not None and not isinstance(value, kind):
            raise ValidationFailed.for_field(name, f"must be a {kind.__name__}, not {type(value).__name__}")
    if isinstance(options.get("channels"), str):
        raise ValidationFailed.for_field("channels", 'must be a list of channel names, such as ["webpush"]')
    delay, send_at, priority = options.get("delay"), options.get("send_at"), options.get("priority")
    if delay is not None and send_at is not None:
        raise ValidationFailed.for_field("delay", "must not be combined with send_at")
    if priority is not None and priority not in tuple(Priority):
        raise ValidationFailed.for_field("priority", f"must be one of {', '.join(Priority)}")
    plan = {
        field.alias or name: options.get(name)
        for name, field in PlanOptionsBody.model_fields.items()
        if name in options
    }
    return NotifyRequest(
        template_code=template,
        audience=_to_audience(to),
        variables=options.get("variables") or {},
        priority=None if priority is None else Priority(priority),
        send_at=send_at if delay is None else now + delay,
        expires_at=options.get("expires_at"),
        channels=tuple(options.get("channels", ())),
        action_url=options.get("action_url"),
        action_text=options.get("action_text"),
        source=options.get("source"),
        subject=_to_subject(options.get("subject")),
        **validate_body(plan, PlanOptionsBody).to_request_fields(),
    )


def _to_subject(subject: str | SubjectRequest | None) -> SubjectRequest | None:
    if subject is None or isinstance(subject, SubjectRequest):
        return subject
    if not isinstance(subject, str):
        raise ValidationFailed.for_field("subject", f"must be a str or SubjectRequest, not {type(subject).__name__}")
    return SubjectRequest(subject)


def _to_audience(to: str | Sequence[str] | Audience) -> Audience:
    if isinstance(to, str):
        return users(to)
    if isinstance(to, Sequence):
        return users(*to)
    return to
