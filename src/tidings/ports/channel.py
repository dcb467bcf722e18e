"""A channel: a transport to users, such as Web Push. Each has a file or folder under `tidings.channels`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

from tidings.model.delivery import OutboundMessage, Target
from tidings.model.outcome import Outcome, RetryLater
from tidings.model.priority import Priority
from tidings.model.provider import ProviderStatus
from tidings.model.template import Category, RenderedMessage


@dataclass(frozen=True, slots=True)
class ComposeContext:
    """What a channel needs besides the rendered message."""

    notification_id: str
    delivery_id: str
    user_id: str
    category: Category
    #: a message replaces an earlier one with the same key where it is shown, or belongs to the same thread
    collapse_key: str
    #: the receiving side does not show the message later, if it can respect that
    expires_at: datetime
    timezone: str
    #: order among the notifications with this collapse key: the higher the newer
    sequence: int = 1


class Channel(Protocol):
    """Composes rendered messages and sends them to one target at a time. Never accesses the database."""

    #: short name used in preferences, deliveries and the API: `webpush`, `email`, …
    name: str

    async def open(self) -> None:
        """Start what the channel needs (connections, sender processes). Raises ConfigError if that fails."""
        ...

    def compose(self, content: RenderedMessage, context: ComposeContext) -> bytes:
        """Return the payload of one message. Raises ValidationFailed if it cannot be composed."""
        ...

    async def send(self, message: OutboundMessage) -> Outcome:
        """Send one message and return its outcome. Expected failures are outcomes; only bugs raise."""
        ...

    async def close(self) -> None:
        """Wait for the sends in flight, then free resources."""
        ...


@runtime_checkable
class HasPreview(Protocol):
    """A channel that can describe a message before it is sent: its size, what it costs, what to correct."""

    def preview(self, content: RenderedMessage, category: Category) -> Mapping[str, object]:
        """Return the properties of a message as JSON values, names in camelCase. Raises ValidationFailed."""
        ...


class Destination(Protocol):
    """A server that several targets share, such as a push host. Sends in flight are limited per destination."""

    name: str

    def share(self, slots: int) -> int:
        """Return how many of the `slots` concurrent sends this destination may use now, at least 1."""
        ...

    def is_closed(self, *, is_full: bool) -> bool:
        """Return whether nothing more may be sent there now. is_full: all slots of its share are in use."""
        ...

    def defer(self, priority: Priority, expires_at: datetime) -> RetryLater:
        """Return when a deferred delivery is retried. Deferring spends no attempt."""
        ...


@runtime_checkable
class HasCircuits(Protocol):
    """A channel with circuit breakers."""

    def open_circuits(self) -> Mapping[str, bool]:
        """Return target → whether its circuit is open now. Targets are few, and one that was returned once stays."""
        ...


@runtime_checkable
class HasProviders(Protocol):
    """A channel that sends over providers whose state operators see."""

    def list_providers(self) -> Sequence[ProviderStatus]:
        """Return the state of each provider in this process. One that was returned once stays."""
        ...


@runtime_checkable
class HasDestinations(Protocol):
    """A channel that knows the destination of each target, so that one that hangs does not delay the others."""

    def destination(self, target: Target) -> Destination | None:
        """Return the destination of a target, None if it has none."""
        ...


@runtime_checkable
class HasLocalSends(Protocol):
    """A channel that sends into the database of the installation: many of its sends share a transaction.

    Its sends do not take the slots of those that wait for providers.
    """

    @property
    def max_local_sends(self) -> int:
        """The sends at once, per worker."""
        ...


@runtime_checkable
class HasSenders(Protocol):
    """A channel whose recipients may opt out of one sender, such as a number, and not of another."""

    @property
    def senders(self) -> Sequence[str]:
        """The senders that its messages may have."""
        ...
