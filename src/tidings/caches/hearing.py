"""Hears what other processes drop, and says whether that can be relied on."""

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

#: seconds between two questions whether the connection lives
BEAT = 0.4
#: seconds that an answered question is proof for, counted from when it was asked: whoever drops something that cannot
#: be published waits so long, and then nobody trusts what they heard any more
TRUSTED_FOR = 1.0
#: seconds in which the server must answer
QUIET = 2.0
#: seconds until the next attempt to listen
AGAIN_AFTER = 1.0


class Dropped(msgspec.Struct, frozen=True):
    """What is published about a drop."""

    keys: list[str] = []
    pattern: str | None = None


class Hearing:
    """One subscription, renewed until it is closed. What was missed in between nobody knows: `deaf` is called."""

    def __init__(
        self, client: Redis, channel: str, *, dropped: Callable[[Dropped], None], deaf: Callable[[], None]
    ) -> None:
        """dropped: called for each drop; deaf: called whenever drops may have been missed. Neither may raise."""
        self._client = client
        self._channel = channel
        self._dropped = dropped
        self._deaf = deaf
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._subscribed = False
        #: number of the last question, and when it was asked while nobody answered it
        self._question = 0
        self._asked: float | None = None
        #: until when everything that was published before is known to have been heard
        self._proven_until = 0.0

    @property
    def listens(self) -> bool:
        """Whether every drop published longer than `TRUSTED_FOR` ago was heard, and most likely all later ones."""
        return time.monotonic() < self._proven_until

    def start(self) -> None:
        """Begin to listen; calling it again does nothing."""
        if self._task is None:
            self._task = asyncio.create_task(self._listen_on())

    async def close(self) -> None:
        """Stop listening."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        self._lost()

    def _lost(self) -> None:
        self._proven_until, self._asked, self._subscribed = 0.0, None, False
        self._deaf()

    async def _listen_on(self) -> None:
        # a flag beside the cancellation, here and below: a client that swallowed one would listen for ever
        while not self._closed:
            try:
                await self._listen()
            except (RedisError, OSError, TimeoutError) as error:
                log.debug("cache_hears_nothing", error=type(error).__name__)
            finally:
                self._lost()
            if not self._closed:
                await asyncio.sleep(AGAIN_AFTER)

    async def _listen(self) -> None:
        pubsub = self._client.pubsub()
        try:
            async with asyncio.timeout(QUIET):
                await pubsub.subscribe(self._channel)
            silent_from, asked_at = time.monotonic(), 0.0
            while not self._closed:
                now = time.monotonic()
                if self._subscribed and self._asked is None and now >= asked_at + BEAT:
                    await self._ask(pubsub, now)
                    asked_at = silent_from = now
                # its own limit is for the reading alone; a lost connection it opens anew first, however long that takes
                async with asyncio.timeout(QUIET):
                    message = await pubsub.get_message(timeout=BEAT)
                if message is not None:
                    self._heard(message["type"], message["data"])
                if self._subscribed and self._asked is None:
                    continue
                if time.monotonic() > silent_from + QUIET:
                    raise TimeoutError
        finally:
            with contextlib.suppress(RedisError, OSError):
                await pubsub.aclose()  # type: ignore[no-untyped-call]  # the client's own

    async def _ask(self, pubsub: PubSub, now: float) -> None:
        self._question += 1
        self._asked = now
        async with asyncio.timeout(QUIET):
            await pubsub.ping(str(self._question))

    def _heard(self, kind: str, data: object) -> None:
        if kind == "subscribe":
            # the first, or one after a connection that the client replaced by itself
            self._lost()
            self._subscribed = True
        elif kind == "pong" and self._asked is not None and data == str(self._question).encode():
            # what was published before the question came before its answer
            self._proven_until, self._asked = self._asked + TRUSTED_FOR, None
        elif kind == "message" and isinstance(data, bytes):
            try:
                note = msgspec.msgpack.decode(data, type=Dropped)
            except msgspec.MsgspecError:
                # of a version that says it differently: nothing is known about what it dropped
                self._deaf()
            else:
                self._dropped(note)
