"""The pace per destination: the least time between two messages, and the waits that a service asks for.

It is kept in memory, per process. With several workers a service may see more; its own limit then holds a message back,
which spends no attempt.
"""

from datetime import datetime, timedelta

from cachetools import LRUCache

#: destinations whose pace is remembered
_MAX_DESTINATIONS = 10_000
#: a message whose turn comes this soon waits for it; otherwise it is deferred
MAX_WAIT = timedelta(seconds=2)


class Pace:
    """The pace of one destination."""

    __slots__ = ("deferred_until", "next_at")

    def __init__(self, now: datetime) -> None:
        #: when the next message may be sent
        self.next_at = now
        #: the turn of the last message that was deferred
        self.deferred_until = now


class PaceRegistry:
    """The paces of all destinations of a process."""

    def __init__(self) -> None:
        self._paces: LRUCache[str, Pace] = LRUCache(_MAX_DESTINATIONS)

    def reserve(self, key: str, interval: timedelta, now: datetime) -> tuple[datetime, bool]:
        """Return a message's turn, and whether it is reserved. Without a reservation the message comes back then.

        interval: least time between two messages. Messages that are deferred come back one interval apart.
        """
        pace = self._get(key, now)
        turn = max(now, pace.next_at)
        if turn - now <= MAX_WAIT:
            pace.next_at = turn + interval
            return turn, True
        pace.deferred_until = max(turn, pace.deferred_until + interval)
        return pace.deferred_until, False

    def pause(self, key: str, until: datetime, now: datetime) -> None:
        """Send nothing to a destination until an instant."""
        pace = self._get(key, now)
        pace.next_at = max(pace.next_at, until)

    def _get(self, key: str, now: datetime) -> Pace:
        pace = self._paces.get(key)
        if pace is None:
            pace = self._paces[key] = Pace(now)
        return pace
