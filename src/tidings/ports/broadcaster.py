"""A broadcaster passes the changes of users' feeds and of their live rooms to the connections of their browsers.

Events are hints: the database is the source of truth. A subscriber that misses an event notices it by the version.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from tidings.model.inbox import InboxChange
from tidings.model.stream import StreamChange

#: what browsers of a user are notified of
UserChange = InboxChange | StreamChange


class Subscription(Protocol):
    """The events of one user, from the moment of the subscription on."""

    def __aiter__(self) -> AsyncIterator[UserChange]:
        """Yield the events in the order of publication. Ends if the subscriber fell behind: it must read again."""
        ...


class Broadcaster(Protocol):
    """Publishes committed changes."""

    async def publish(self, changes: Sequence[UserChange]) -> None:
        """Pass changes to the subscribers of their users. Never waits for a subscriber."""
        ...

    def subscribe(self, user_id: str) -> AbstractAsyncContextManager[Subscription]:
        """Subscribe to the events of a user for the duration of the block.

        Subscribe first and read the feed afterwards, so that nothing between the two is missed.
        """
        ...
