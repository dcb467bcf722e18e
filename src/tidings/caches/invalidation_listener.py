"""A pub/sub listener for cache invalidations of other processes, with proof that it is up to date.

Pub/sub does not report lost messages. The listener therefore pings on the same connection: a pong proves that every
message published before the ping has arrived.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable

import msgspec
import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

log = structlog.get_logger(__name__)

#: seconds between pings
PING_INTERVAL = 0.4
#: seconds after an answered ping for which the listener counts as current. A process that cannot publish an
#: invalidation waits this long; afterwards no process uses entries that it might have missed an invalidation for
MAX_STALENESS = 1.0
#: seconds until an unanswered ping or subscription ends the connection
RESPONSE_TIMEOUT = 2.0
#: seconds between attempts to subscribe
RECONNECT_DELAY = 1.0


class Invalidation(msgspec.Struct, frozen=True):
    """The message that removes cached values in every process."""

    keys: list[str] = []
    pattern: str | None = None


class InvalidationListener:
    """A subscription that is renewed until `close`. `on_gap` is called whenever messages may have been missed."""

    def __init__(
        self,
        client: Redis,
        channel: str,
        *,
        on_invalidation: Callable[[Invalidation], None],
        on_gap: Callable[[], None],
    ) -> None:
        """on_invalidation: called with each message. on_gap: called when messages may be missing. Neither may raise."""
        self._client = client
        self._channel = channel
        self._on_invalidation = on_invalidation
        self._on_gap = on_gap
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False
        self._is_subscribed = False
        self._ping_number = 0
        #: when the last ping was sent (monotonic seconds); None = it was answered
        self._unanswered_ping_at: float | None = None
        #: until when the listener counts as current (monotonic seconds)
        self._current_until = 0.0

    @property
    def is_current(self) -> bool:
        """Whether every invalidation published more than `MAX_STALENESS` ago has certainly arrived."""
        return time.monotonic() < self._current_until

    def start(self) -> None:
        """Start listening. Repeated calls have no effect."""
        if self._task is None:
            self._task = asyncio.create_task(self._listen_until_closed())

    async def close(self) -> None:
        """Stop listening."""
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        self._mark_gap()

    def _mark_gap(self) -> None:
        self._current_until, self._unanswered_ping_at, self._is_subscribed = 0.0, None, False
        self._on_gap()

    async def _listen_until_closed(self) -> None:
        # The flag backs up the cancellation, here and below: the client library may swallow one.
        while not self._is_closed:
            try:
                await self._listen()
            except (RedisError, OSError, TimeoutError) as error:
                log.debug("invalidation_listener_error", error=type(error).__name__)
            finally:
                self._mark_gap()
            if not self._is_closed:
                await asyncio.sleep(RECONNECT_DELAY)

    async def _listen(self) -> None:
        pubsub = self._client.pubsub()
        try:
            async with asyncio.timeout(RESPONSE_TIMEOUT):
                await pubsub.subscribe(self._channel)
            waiting_since, pinged_at = time.monotonic(), 0.0
            while not self._is_closed:
                now = time.monotonic()
                if self._is_subscribed and self._unanswered_ping_at is None and now >= pinged_at + PING_INTERVAL:
                    await self._ping(pubsub, now)
                    pinged_at = waiting_since = now
                # `get_message` limits only the read; before it, it may reconnect for any length of time
                async with asyncio.timeout(RESPONSE_TIMEOUT):
                    message = await pubsub.get_message(timeout=PING_INTERVAL)
                if message is not None:
                    self._on_message(message["type"], message["data"])
                if self._is_subscribed and self._unanswered_ping_at is None:
                    continue
                if time.monotonic() > waiting_since + RESPONSE_TIMEOUT:
                    raise TimeoutError
        finally:
            with contextlib.suppress(RedisError, OSError):
                await pubsub.aclose()  # type: ignore[no-untyped-call]  # untyped in redis-py

    async def _ping(self, pubsub: PubSub, now: float) -> None:
        self._ping_number += 1
        self._unanswered_ping_at = now
        async with asyncio.timeout(RESPONSE_TIMEOUT):
            await pubsub.ping(str(self._ping_number))

    def _on_message(self, kind: str, data: object) -> None:
        if kind == "subscribe":
            # the first subscription, or one that the client library renewed after a lost connection
            self._mark_gap()
            self._is_subscribed = True
        elif kind == "pong" and self._unanswered_ping_at is not None and data == str(self._ping_number).encode():
            # messages published before the ping arrived before its pong
            self._current_until, self._unanswered_ping_at = self._unanswered_ping_at + MAX_STALENESS, None
        elif kind == "message" and isinstance(data, bytes):
            try:
                invalidation = msgspec.msgpack.decode(data, type=Invalidation)
            except msgspec.MsgspecError:
                # from another version of Tidings: the invalidated keys are unknown
                self._on_gap()
            else:
                self._on_invalidation(invalidation)
