"""The channel of the machine: keeps every message in order, answers as told, and things happen while it sends."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto

from tidings.model.delivery import Message
from tidings.model.outcome import Deferred, Delivered, Gone, Outcome, Refused
from tidings.model.template import Content
from tidings.testing.clock import FrozenClock

#: each send takes this long, so that no two tries at one delivery begin at the same instant
TAKES = timedelta(milliseconds=1)


class Answer(Enum):
    """What the provider says to a message."""

    DELIVERED = auto()
    #: a failure that spends an attempt
    LATER = auto()
    #: told to wait, which spends none
    WAIT = auto()
    REFUSED = auto()
    GONE = auto()
    REBIND = auto()

    def outcome(self, message: Message, now: datetime) -> Outcome:
        """Return what a real channel would make of it."""
        match self:
            case Answer.DELIVERED:
                return Delivered(status=201)
            case Answer.LATER:
                return Deferred(now + timedelta(seconds=2**message.attempt), "busy", status=500)
            case Answer.WAIT:
                return Deferred(now + timedelta(seconds=30), "too many", status=429, spends_attempt=False)
            case Answer.REFUSED:
                return Refused("too large", status=413)
            case Answer.GONE:
                return Gone("unsubscribed", status=410)
            case Answer.REBIND:
                return Gone("another key", status=403, remedy="rebind")


@dataclass(frozen=True)
class Sent:
    """A message that arrived."""

    message: Message
    answer: Answer


@dataclass
class Post:
    """What arrived at the provider, in order, and what was promised about it."""

    sent: list[Sent] = field(default_factory=list)
    #: notification → how many messages had arrived in all when its cancellation was confirmed
    cancelled: dict[str, int] = field(default_factory=dict)
    #: delivery → sends whose outcome the ledger cannot know: the worker died, or lost its lease
    lost: Counter[str] = field(default_factory=Counter)

    def too_late(self) -> list[Sent]:
        """Return what arrived although it had been cancelled."""
        return [
            one
            for place, one in enumerate(self.sent)
            if place >= self.cancelled.get(one.message.notification_id, place + 1)
        ]


class Wire:
    """The channel of one process, to the one post."""

    name = "webpush"

    def __init__(self, post: Post, clock: FrozenClock) -> None:
        self._post = post
        self._clock = clock
        #: for the next messages; after them all are taken
        self.answers: list[Answer] = []
        #: how many more messages arrive before something happens
        self.until = 0
        #: what happens while a message is on its way, once
        self.meanwhile: Callable[[], Awaitable[None]] | None = None
        #: whether the process dies when its time has come: before the message arrives (False) or after (True)
        self.dies: bool | None = None
        self.died = asyncio.Event()
        #: delivery → messages that arrived and were not answered
        self.unanswered: Counter[str] = Counter()

    async def open(self) -> None:
        """Nothing to start."""

    def encode(self, content: Content, *, notification_id: str, delivery_id: str) -> bytes:
        return content.title.encode()

    async def send(self, message: Message) -> Outcome:
        self._clock.advance(TAKES)
        it_is_time = self.until == 0
        self.until -= 1
        if self.died.is_set() or (it_is_time and self.dies is False):
            await self._die()
        answer = self.answers.pop(0) if self.answers else Answer.DELIVERED
        self._post.sent.append(Sent(message, answer))
        self.unanswered[message.delivery_id] += 1
        if it_is_time and self.dies:
            await self._die()
        if it_is_time and self.meanwhile is not None:
            happens, self.meanwhile = self.meanwhile, None
            await happens()
        self.unanswered[message.delivery_id] -= 1
        return answer.outcome(message, self._clock.now())

    async def close(self) -> None:
        """Nothing to end."""

    def calm(self) -> None:
        """Let nothing happen any more."""
        self.answers, self.meanwhile, self.dies, self.until = [], None, None, -1

    async def _die(self) -> None:
        self.died.set()
        await asyncio.Event().wait()
