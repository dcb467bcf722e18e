"""Broadcaster within one process."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tidings.ports.broadcaster import UserChange

#: events that wait for a subscriber; one that falls further behind is ended and must read the feed again
MAX_WAITING_EVENTS = 1000


class MemorySubscription:
    """Implements `ports.broadcaster.Subscription` with a bounded queue."""

    def __init__(self, max_waiting: int = MAX_WAITING_EVENTS) -> None:
        self._queue: asyncio.Queue[UserChange] = asyncio.Queue(max_waiting)
        #: whether an event was lost
        self.is_behind = False

    def put(self, change: UserChange) -> None:
        """Queue an event. If the queue is full, the subscription ends after the events in it."""
        if self.is_behind:
            return
        try:
            self._queue.put_nowait(change)
        except asyncio.QueueFull:
            self.is_behind = True

    async def __aiter__(self) -> AsyncIterator[UserChange]:
        while not (self.is_behind and self._queue.empty()):
            yield await self._queue.get()


class MemoryBroadcaster:
    """Implements `ports.broadcaster.Broadcaster` for the subscribers of this process."""

    def __init__(self) -> None:
        self._subscriptions: dict[str, set[MemorySubscription]] = {}

    @property
    def subscribed_users(self) -> set[str]:
        """The ids of the users with a subscriber."""
        return set(self._subscriptions)

    async def publish(self, changes: Sequence[UserChange]) -> None:
        for change in changes:
            for subscription in self._subscriptions.get(change.user_id, ()):
                subscription.put(change)

    @asynccontextmanager
    async def subscribe(self, user_id: str) -> AsyncIterator[MemorySubscription]:
        subscription = MemorySubscription()
        self._subscriptions.setdefault(user_id, set()).add(subscription)
        try:
            yield subscription
        finally:
            remaining = self._subscriptions[user_id]
            remaining.discard(subscription)
            if not remaining:
                del self._subscriptions[user_id]
