"""An outage is logged twice, however many operations fail and however often the back end flaps."""

from collections.abc import Iterator, Mapping, Sequence

import pytest
from structlog.testing import capture_logs

from tidings.backend_health import FIRST_DAMPING, FLAPPING_WITHIN, MAX_DAMPING, BackendHealth
from tidings.errors import BackendError

Logs = Sequence[Mapping[str, object]]
REFUSED = BackendError("the queue refuses a command")


class Seconds:
    """A monotonic clock that a test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def logs() -> Iterator[Logs]:
    with capture_logs() as found:
        yield found


def test_an_outage_is_logged_once_at_its_begin_and_once_at_its_end(seconds: Seconds, logs: Logs) -> None:
    health = BackendHealth("queue", timer=seconds)
    states = [(health.is_available, health.down_seconds)]
    assert not health.record_success()
    assert [health.record_failure(REFUSED) for _ in range(3)] == [True, False, False]
    seconds.now += 2.5
    states.append((health.is_available, health.down_seconds))
    assert [health.record_success() for _ in range(3)] == [True, False, False]
    states.append((health.is_available, health.down_seconds))
    assert states == [(True, None), (False, 2.5), (True, None)]
    assert logs == [
        {
            "event": "backend_unavailable",
            "log_level": "warning",
            "backend": "queue",
            "error": "the queue refuses a command",
        },
        {"event": "backend_recovered", "log_level": "info", "backend": "queue", "down_seconds": 2.5},
    ]


def test_a_success_soon_after_a_failure_does_not_end_a_partial_outage(seconds: Seconds, logs: Logs) -> None:
    health = BackendHealth("database", stable_for=2.0, timer=seconds)
    for _ in range(30):
        health.record_failure(REFUSED)
        seconds.now += 1.0
        assert not health.record_success()
    seconds.now += 1.0
    assert health.record_success()
    assert [entry["event"] for entry in logs] == ["backend_unavailable", "backend_recovered"]
    assert logs[1]["down_seconds"] == 31.0


def test_a_flapping_backend_must_stay_up_for_longer_each_time(seconds: Seconds) -> None:
    health = BackendHealth("queue", timer=seconds)
    waits = []
    for _ in range(6):
        health.record_failure(REFUSED)
        failed_at = seconds.now
        while not health.record_success():
            seconds.now += FIRST_DAMPING / 2
        waits.append(seconds.now - failed_at)
        seconds.now += FLAPPING_WITHIN / 2
    assert waits == [0.0, 1.0, 2.0, 4.0, MAX_DAMPING, MAX_DAMPING]
    seconds.now += FLAPPING_WITHIN
    health.record_failure(REFUSED)
    assert health.record_success(), "it was up for long enough to count as another outage"


def test_the_error_of_another_backend_is_ignored_where_one_is_asked_for(logs: Logs) -> None:
    health = BackendHealth("database")
    assert not health.record_own_failure(BackendError("the queue does not answer", backend="queue"))
    assert health.is_available
    assert health.record_own_failure(BackendError("the database does not answer", backend="database"))
    assert [entry["event"] for entry in logs] == ["backend_unavailable"]
