"""Requests and failures of the last minute."""

from datetime import timedelta

from tidings.channels.throttling.request_window import RequestWindow
from tidings.testing.clock import START


def record(window: RequestWindow, seconds: float, times: int = 1, *, is_failure: bool = False) -> None:
    for _ in range(times):
        window.record(START + timedelta(seconds=seconds), is_failure=is_failure)


def test_requests_leave_the_window_after_a_minute_and_stay_in_the_total() -> None:
    window = RequestWindow()
    record(window, 0, 3, is_failure=True)
    record(window, 30, 5)
    assert window.count(START + timedelta(seconds=59)) == (8, 3)
    assert window.count(START + timedelta(seconds=61)) == (5, 0)
    assert window.count(START + timedelta(seconds=200)) == (0, 0)
    assert (window.requests_total, window.failures_total) == (8, 3)


def test_the_rate_is_that_of_the_last_seconds() -> None:
    window = RequestWindow()
    record(window, 0, 600)
    assert window.measure_rate(START) == 600
    record(window, 10, 20)
    record(window, 11, 20)
    assert window.measure_rate(START + timedelta(seconds=11)) == 20
    assert window.measure_rate(START + timedelta(seconds=30)) == 0


def test_a_clock_that_is_set_back_forgets_the_future() -> None:
    window = RequestWindow()
    record(window, 3600, 5, is_failure=True)
    assert window.count(START) == (0, 0)
    assert window.compute_failure_share(START) == 0
