"""A clock that moves only when told, so that tests neither sleep nor flake."""

from datetime import UTC, datetime, timedelta

#: where a frozen clock stands unless told otherwise: a Sunday noon, UTC
START = datetime(2026, 11, 22, 12, tzinfo=UTC)


class FrozenClock:
    """Implements `ports.clock.Clock`."""

    def __init__(self, start: datetime = START) -> None:
        """start: an instant in UTC. Raises ValueError for any other."""
        if start.tzinfo is not UTC:
            raise ValueError("a clock stands at an instant in UTC: datetime(2026, 1, 1, tzinfo=UTC)")
        self._now = start

    def now(self) -> datetime:
        """Return the instant the clock stands at."""
        return self._now

    def advance(self, by: timedelta | float) -> datetime:
        """Move the clock by a time span, or by so many seconds; back if negative. Returns the new instant."""
        self._now += by if isinstance(by, timedelta) else timedelta(seconds=by)
        return self._now
