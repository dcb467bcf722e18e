"""The far end that some sends share. A channel that knows its far ends lets one that hangs not hold up the others."""

from datetime import datetime
from typing import Protocol, runtime_checkable

from tidings.model.outcome import Deferred
from tidings.model.priority import Priority
from tidings.model.subscription import PushSubscription


class Destination(Protocol):
    """One far end, such as a push host."""

    name: str

    def share(self, places: int) -> int:
        """Return how many of the places may be taken by sends to it now, at least 1."""
        ...

    def is_closed(self, *, full: bool) -> bool:
        """Return whether nothing more may be sent there now. full: its share of the places is taken."""
        ...

    def not_now(self, priority: Priority, expires_at: datetime) -> Deferred:
        """Return when a delivery that is held back comes again; it spends no attempt."""
        ...


@runtime_checkable
class Addressing(Protocol):
    """A channel that knows the far end of each target."""

    def destination(self, target: PushSubscription) -> Destination | None:
        """Return the far end of a target, None if it has none of its own."""
        ...
