"""Suite for `ports.clock.Clock`: time-zone aware instants in UTC that every other port can store."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from tidings.ports.clock import Clock

#: resolution of the databases and Redis
RESOLUTION = timedelta(microseconds=1)


class ClockContract:
    """Provide a fixture `clock`. A clock may jump, so the suite does not check how it advances."""

    def test_it_tells_aware_instants_in_utc(self, clock: Clock) -> None:
        now = clock.now()
        assert now.tzinfo is UTC, "records are compared and printed without converting"
        assert now.utcoffset() == timedelta(0)

    def test_it_tells_plain_datetimes(self, clock: Clock) -> None:
        # a subclass may compare or print differently, and database drivers reject it
        assert type(clock.now()) is datetime

    def test_its_instants_are_this_century(self, clock: Clock) -> None:
        # ids and scores store milliseconds since 1970 in 48 bits, which is exact as a double
        assert datetime(2000, 1, 1, tzinfo=UTC) <= clock.now() < datetime(2100, 1, 1, tzinfo=UTC)

    def test_its_instants_survive_being_written_down(self, clock: Clock) -> None:
        now = clock.now()
        assert datetime.fromisoformat(now.isoformat()) == now
        assert (
            datetime(1970, 1, 1, tzinfo=UTC) + (now - datetime(1970, 1, 1, tzinfo=UTC)) // RESOLUTION * RESOLUTION
            == now
        )

    def test_asking_does_not_move_it_back(self, clock: Clock) -> None:
        instants = [clock.now() for _ in range(1000)]
        assert max(instants) - min(instants) < timedelta(minutes=1)
        assert sum(later < earlier for earlier, later in pairwise(instants)) <= 1
