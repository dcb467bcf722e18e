"""Fake channels: record every message in order, return scripted responses and trigger events during sends."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto

from tidings.channels.inapp import InAppChannel
from tidings.model.contact_point import ContactPoint
from tidings.model.delivery import OutboundMessage
from tidings.model.outcome import Accepted, InvalidTarget, Outcome, PermanentFailure, RetryLater
from tidings.model.template import RenderedMessage
from tidings.ports.channel import ComposeContext
from tidings.testing.clock import FrozenClock

#: the duration of each send, so that no two attempts of a delivery start at the same instant
SEND_DURATION = timedelta(milliseconds=1)


class ProviderResponse(Enum):
    """The provider's response to a message."""

    ACCEPTED = auto()
    #: counts as an attempt
    SERVER_ERROR = auto()
    #: asks for a wait; does not count as an attempt
    THROTTLED = auto()
    REJECTED = auto()
    GONE = auto()
    REBIND = auto()

    def to_outcome(self, message: OutboundMessage, now: datetime) -> Outcome:
        """Return the outcome that a real channel would derive."""
        match self:
            case ProviderResponse.ACCEPTED:
                return Accepted(status=201)
            case ProviderResponse.SERVER_ERROR:
                return RetryLater(now + timedelta(seconds=2**message.attempt), "busy", status=500)
            case ProviderResponse.THROTTLED:
                return RetryLater(now + timedelta(seconds=30), "too many", status=429, counts_as_attempt=False)
            case ProviderResponse.REJECTED:
                return PermanentFailure("too large", status=413)
            case ProviderResponse.GONE:
                return InvalidTarget("unsubscribed", status=410)
            case ProviderResponse.REBIND:
                return InvalidTarget("another key", status=403, action="rebind")


@dataclass(frozen=True)
class ReceivedMessage:
    """A message that the provider received."""

    message: OutboundMessage
    response: ProviderResponse
    #: when it was received
    at: datetime


@dataclass
class ProviderLog:
    """The messages received by the provider, in order, and the cancellations confirmed meanwhile."""

    received: list[ReceivedMessage] = field(default_factory=list)
    #: notification → total number of messages received when its cancellation was confirmed
    received_at_cancellation: dict[str, int] = field(default_factory=dict)
    #: delivery → sends whose outcome was never recorded: the worker crashed or lost its lease
    unknown_outcomes: Counter[str] = field(default_factory=Counter)
    #: called with each message whose send starts
    on_start: Callable[[OutboundMessage], None] = lambda _message: None

    def received_after_cancellation(self) -> list[ReceivedMessage]:
        """Return the messages received after their notification's cancellation was confirmed."""
        return [
            received
            for position, received in enumerate(self.received)
            if position >= self.received_at_cancellation.get(received.message.notification_id, position + 1)
        ]


class FakeChannel:
    """The channel of one process. All processes share the provider log."""

    name = "webpush"

    def __init__(self, provider_log: ProviderLog, clock: FrozenClock) -> None:
        self._provider_log = provider_log
        self._clock = clock
        #: responses to the next messages; later ones are accepted
        self.responses: list[ProviderResponse] = []
        #: number of messages before the event
        self.messages_until_event = 0
        #: called once, while a message is in flight
        self.on_message: Callable[[], Awaitable[None]] | None = None
        #: at the event the process crashes: before (False) or after (True) the message is received; None = no crash
        self.crashes_after_receipt: bool | None = None
        self.crashed = asyncio.Event()
        #: delivery → messages received whose response the process has not seen
        self.unanswered: Counter[str] = Counter()

    async def open(self) -> None:
        """Nothing to start."""

    def compose(self, content: RenderedMessage, _context: ComposeContext) -> bytes:
        return content.title.encode()

    async def send(self, message: OutboundMessage) -> Outcome:
        return await self.exchange(message, self._respond)

    async def exchange(
        self,
        message: OutboundMessage,
        respond: Callable[[OutboundMessage], Awaitable[tuple[ProviderResponse, Outcome]]],
    ) -> Outcome:
        """Send a message and return the outcome, unless the process crashes. respond: receives the message."""
        if not self.crashed.is_set():
            self._provider_log.on_start(message)
        self._clock.advance(SEND_DURATION)
        is_event_due = self.messages_until_event == 0
        self.messages_until_event -= 1
        if self.crashed.is_set() or (is_event_due and self.crashes_after_receipt is False):
            await self._crash()
        response, outcome = await respond(message)
        self._provider_log.received.append(ReceivedMessage(message, response, self._clock.now()))
        self.unanswered[message.delivery_id] += 1
        if is_event_due and self.crashes_after_receipt:
            await self._crash()
        if is_event_due and self.on_message is not None:
            on_message, self.on_message = self.on_message, None
            await on_message()
        self.unanswered[message.delivery_id] -= 1
        return outcome

    async def _respond(self, message: OutboundMessage) -> tuple[ProviderResponse, Outcome]:
        response = self.responses.pop(0) if self.responses else ProviderResponse.ACCEPTED
        if response is ProviderResponse.REBIND and isinstance(message.target, ContactPoint):
            # only the subscriptions of browsers belong to a key
            response = ProviderResponse.GONE
        return response, response.to_outcome(message, self._clock.now())

    async def close(self) -> None:
        """Nothing to end."""

    def reset(self) -> None:
        """Clear all scripted responses and events."""
        self.responses, self.on_message, self.crashes_after_receipt, self.messages_until_event = [], None, None, -1

    async def _crash(self) -> None:
        self.crashed.set()
        await asyncio.Event().wait()


class FeedChannel:
    """The in-app channel of one process, with the crashes and the log of its fake channel."""

    name = "inapp"

    def __init__(self, channel: FakeChannel, feed: InAppChannel) -> None:
        self._channel = channel
        self._feed = feed

    async def open(self) -> None:
        """Nothing to start."""

    def compose(self, content: RenderedMessage, context: ComposeContext) -> bytes:
        return self._feed.compose(content, context)

    async def send(self, message: OutboundMessage) -> Outcome:
        return await self._channel.exchange(message, self._respond)

    async def close(self) -> None:
        """Nothing to end."""

    async def _respond(self, message: OutboundMessage) -> tuple[ProviderResponse, Outcome]:
        outcome = await self._feed.send(message)
        is_stored = isinstance(outcome, Accepted)
        return ProviderResponse.ACCEPTED if is_stored else ProviderResponse.THROTTLED, outcome
