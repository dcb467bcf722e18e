"""A clock that tests set themselves, so that they neither sleep nor depend on real time."""

from datetime import UTC, datetime, timedelta

#: default time of a frozen clock: a Sunday noon, UTC
START = datetime(2026, 11, 22, 12, tzinfo=UTC)


class FrozenClock:
    """An implementation of `ports.clock.Clock` that moves only by `advance`."""

    def __init__(self, start: datetime = START) -> None:
        """Arguments: start — an instant in UTC. Raises ValueError for another time zone."""
        if start.tzinfo is not UTC:
            raise ValueError("start must be in UTC, for example datetime(2026, 1, 1, tzinfo=UTC)")
        self._now = start

    def now(self) -> datetime:
        """Return the current instant of this clock."""
        return self._now

    def advance(self, by: timedelta | float) -> datetime:
        """Move the clock by a timedelta or a number of seconds, which may be negative. Returns the new instant."""
        self._now += by if isinstance(by, timedelta) else timedelta(seconds=by)
        return self._now
