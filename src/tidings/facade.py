"""The library: notify from inside the host product's own process and transaction (MISSION B2)."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypedDict, Unpack

from tidings.errors import ConfigError, Invalid, NotFound
from tidings.model.audience import Audience, users
from tidings.model.notification import Counts, Notification
from tidings.model.priority import Priority
from tidings.model.request import NotifyRequest
from tidings.model.trace import DeliveryTrace, SkipTrace
from tidings.ports.clock import Clock, SystemClock
from tidings.runtime import Engine, Runtime, schema_fault
from tidings.settings import Settings
from tidings.stores import schema_version
from tidings.stores.apart import Apart
from tidings.stores.connection import at_once, borrowed_blocking
from tidings.stores.prepare import prepare
from tidings.stores.sqlite import blocking_engine
from tidings.stores.store import translated

#: deliveries and skips in one trace of the library; the API pages through all of them
TRACE_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class Trace:
    """What became of a notification: at most 1 000 deliveries and 1 000 skips."""

    notification: Notification
    counts: Counts
    deliveries: Sequence[DeliveryTrace]
    skips: Sequence[SkipTrace]


class Options(TypedDict, total=False):
    """What `notify` takes beside template, audience and connection. What is left out is as the template says."""

    variables: Mapping[str, object]
    priority: Priority | str
    #: how long to wait; excludes `send_at`
    delay: timedelta
    #: not before, with a time zone
    send_at: datetime
    #: nothing is sent after this
    expires_at: datetime
    #: only these channels
    channels: Sequence[str]
    #: path or http(s) URL that a click opens
    action_url: str
    #: label of a button that opens it
    action_text: str
    #: what caused it, for people and for explain
    source: str


_KINDS: Mapping[str, type] = {
    "variables": Mapping,
    "delay": timedelta,
    "send_at": datetime,
    "expires_at": datetime,
    "channels": Sequence,
    "action_url": str,
    "action_text": str,
    "source": str,
}


class Handle:
    """A notification that was accepted; with `conn=` it exists once the caller's transaction commits."""

    def __init__(self, runtime: Runtime, notification: Notification) -> None:
        self._runtime = runtime
        self._notification = notification

    @property
    def id(self) -> str:
        """Return the notification's id."""
        return self._notification.id

    async def cancel(self) -> None:
        """Cancel for good. Raises NotFound, or Conflict when everything has been sent already."""
        await self._runtime.pipeline.cancel(self.id)

    async def trace(self, *, user_id: str | None = None) -> Trace:
        """Return what became of it, of one user or of all. Raises NotFound."""
        store = self._runtime.store
        async with store.read() as tx:
            notification = await store.notifications.get(tx, self.id)
            if notification is None:
                raise NotFound(
                    f"no notification {self.id}; was the transaction rolled back?", code="unknown_notification"
                )
            return Trace(
                notification,
                await store.notifications.counts(tx, self.id),
                await store.deliveries.trace(tx, self.id, user_id=user_id, after=None, limit=TRACE_LIMIT),
                await store.deliveries.skips(tx, self.id, user_id=user_id, after=None, limit=TRACE_LIMIT),
            )


class Tidings:
    """The way in for Python programs. It accepts and reads; a server or worker on the same database sends.

    `async with Tidings.from_env() as tidings:` opens it; `notify_sync` needs no opening.
    """

    def __init__(self, settings: Settings, *, clock: Clock | None = None) -> None:
        self.settings = settings
        self._clock = clock or SystemClock()
        self._stack = AsyncExitStack()
        self._runtime: Runtime | None = None
        self._blocking: _Blocking | None = None
        self._opening = threading.Lock()

    @classmethod
    def from_env(cls, **settings: object) -> Self:
        """Read `TIDINGS_*`, `.env` and `tidings.toml`; keyword arguments win. Raises ConfigError."""
        return cls(Settings.load(**settings))  # type: ignore[arg-type]  # names and values are checked there

    async def __aenter__(self) -> Self:
        self._runtime = await self._stack.enter_async_context(Runtime.open(self.settings, clock=self._clock))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runtime = None
        self.close()
        await self._stack.__aexit__(kind, error, trace)

    def close(self) -> None:
        """Close what `notify_sync` opened; leaving `async with` does it too."""
        if self._blocking is not None:
            self._blocking.close()
            self._blocking = None

    async def notify(
        self,
        template: str,
        *,
        to: str | Sequence[str] | Audience,
        conn: object = None,
        **options: Unpack[Options],
    ) -> Handle:
        """Notify a user, several, or an audience; `Options` lists what else can be said.

        conn: a SQLAlchemy AsyncConnection or AsyncSession on Tidings' database; the notification is then part of the
        caller's transaction and goes out after its commit.
        Raises Invalid naming each wrong argument and the fix; nothing is stored then.
        """
        if self._runtime is None:
            raise RuntimeError("open it first: async with Tidings.from_env() as tidings: …")
        request = _request(template, to, options, self._clock.now())
        pipeline, store = self._runtime.pipeline, self._runtime.store
        if conn is None:
            return Handle(self._runtime, await pipeline.submit(request))
        return Handle(self._runtime, await pipeline.accept(await store.join(conn), request))

    def notify_sync(
        self,
        template: str,
        *,
        to: str | Sequence[str] | Audience,
        conn: object = None,
        **options: Unpack[Options],
    ) -> str:
        """Do what `notify` does, for programs without an event loop. Returns the notification's id.

        conn: a SQLAlchemy Connection or Session.
        """
        request = _request(template, to, options, self._clock.now())
        with self._opening:
            if self._blocking is None or self._blocking.process != os.getpid():
                self._blocking = _blocking(self.settings, self._clock)
            blocking = self._blocking
        return blocking.accept(request, conn).id


class _Blocking(Protocol):
    """Accepting for callers without an event loop."""

    #: the process it was opened in: neither connections nor threads survive a fork
    process: int

    def accept(self, request: NotifyRequest, conn: object) -> Notification: ...
    def close(self) -> None: ...


class _OnSqlite:
    """On a blocking connection, its own or the caller's."""

    def __init__(self, parts: Engine, path: Path) -> None:
        self.process = os.getpid()
        self._parts = parts
        self._engine = blocking_engine(path)
        with translated(), self._engine.connect() as connection:
            if parts.settings.migrate:
                prepare(connection)
            elif fault := schema_fault(schema_version.status(connection)):
                raise ConfigError("TIDINGS_MIGRATE", f"is off, and {fault}; run: tidings db upgrade")

    def accept(self, request: NotifyRequest, conn: object) -> Notification:
        if conn is not None:
            return at_once(self._parts.pipeline.accept(borrowed_blocking(conn), request))
        with translated(), self._engine.begin() as connection:
            return at_once(self._parts.pipeline.accept(borrowed_blocking(connection), request))

    def close(self) -> None:
        self._engine.dispose()


class _OnPostgresql:
    """On the caller's connection, or on those of an event loop in a thread of its own."""

    def __init__(self, parts: Engine) -> None:
        self.process = os.getpid()
        self._parts = parts
        self._apart = Apart()
        try:
            self._apart.run(parts.prepare())
        except BaseException:
            self.close()
            raise

    def accept(self, request: NotifyRequest, conn: object) -> Notification:
        if conn is not None:
            return at_once(self._parts.pipeline.accept(borrowed_blocking(conn), request))
        return self._apart.run(self._parts.pipeline.submit(request))

    def close(self) -> None:
        self._apart.run(self._parts.close())
        self._apart.close()


def _blocking(settings: Settings, clock: Clock) -> _Blocking:
    parts = Engine.of(settings, clock)
    path = parts.settings.sqlite_path
    return _OnPostgresql(parts) if path is None else _OnSqlite(parts, path)


def _request(template: str, to: str | Sequence[str] | Audience, options: Options, now: datetime) -> NotifyRequest:
    if unknown := sorted(set(options) - set(Options.__annotations__)):
        raise TypeError(f"notify() takes no {', '.join(unknown)}; it takes {', '.join(Options.__annotations__)}")
    for name, kind in _KINDS.items():
        if (value := options.get(name)) is not None and not isinstance(value, kind):
            raise Invalid.field(name, f"must be a {kind.__name__}, not {type(value).__name__}")
    if isinstance(options.get("channels"), str):
        raise Invalid.field("channels", 'must be a list of names, such as ["webpush"]')
    delay, send_at, priority = options.get("delay"), options.get("send_at"), options.get("priority")
    if delay is not None and send_at is not None:
        raise Invalid.field("delay", "excludes send_at; give one of them")
    if priority is not None and priority not in tuple(Priority):
        raise Invalid.field("priority", f"must be one of {', '.join(Priority)}")
    return NotifyRequest(
        template_code=template,
        audience=_audience(to),
        variables=options.get("variables") or {},
        priority=None if priority is None else Priority(priority),
        send_at=send_at if delay is None else now + delay,
        expires_at=options.get("expires_at"),
        channels=tuple(options.get("channels", ())),
        action_url=options.get("action_url"),
        action_text=options.get("action_text"),
        source=options.get("source"),
    )


def _audience(to: str | Sequence[str] | Audience) -> Audience:
    if isinstance(to, str):
        return users(to)
    if isinstance(to, Sequence):
        return users(*to)
    return to
