"""The system clock and the frozen test clock satisfy the contract of `ports.clock`."""

import time
from datetime import UTC, datetime, timedelta, timezone

import pytest

from tidings.ports.clock import Clock, SystemClock
from tidings.testing.clock import START, FrozenClock
from tidings.testing.contracts.clock_contract import ClockContract


class TestSystemClock(ClockContract):
    @pytest.fixture
    def clock(self) -> Clock:
        return SystemClock()

    def test_the_system_clock_returns_the_time_of_the_machine(self, clock: Clock) -> None:
        before = time.time()
        now = clock.now().timestamp()
        assert before - 0.001 <= now <= time.time() + 0.001

    def test_the_system_clock_ignores_the_time_zone_of_the_machine(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
    ) -> None:
        request.addfinalizer(time.tzset)
        monkeypatch.setenv("TZ", "America/St_Johns")
        request.addfinalizer(monkeypatch.undo)
        time.tzset()
        assert datetime.now().astimezone().utcoffset() != timedelta(0), "the machine's time zone must differ from UTC"
        assert clock.now().tzinfo is UTC
        assert abs(clock.now().timestamp() - time.time()) < 60


class TestFrozenClock(ClockContract):
    @pytest.fixture
    def clock(self) -> FrozenClock:
        return FrozenClock()

    def test_a_frozen_clock_stands_still_until_it_is_advanced(self, clock: FrozenClock) -> None:
        assert [clock.now() for _ in range(3)] == [START] * 3
        assert clock.advance(1.5) == clock.now() == START + timedelta(seconds=1.5)
        assert clock.advance(timedelta(hours=1)) == START + timedelta(hours=1, seconds=1.5)

    def test_a_frozen_clock_can_jump_back(self, clock: FrozenClock) -> None:
        clock.advance(timedelta(days=-1))
        clock.advance(-0.5)
        assert clock.now() == START - timedelta(days=1, seconds=0.5)


class TestAdvancedFrozenClock(ClockContract):
    @pytest.fixture
    def clock(self) -> FrozenClock:
        clock = FrozenClock(datetime(2026, 3, 29, 1, 59, 59, 999_999, tzinfo=UTC))
        clock.advance(timedelta(microseconds=1))
        return clock


@pytest.mark.parametrize("start", [datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1)))])  # noqa: DTZ001
def test_a_frozen_clock_accepts_utc_only(start: datetime) -> None:
    with pytest.raises(ValueError, match="UTC"):
        FrozenClock(start)
