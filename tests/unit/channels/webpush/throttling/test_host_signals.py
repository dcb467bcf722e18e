"""Host signals: what each response reveals about its push host."""

from datetime import UTC, datetime, timedelta

import pytest

from tidings.channels.throttling.signals import SignalKind
from tidings.channels.webpush.push_exchange import NoResponse, PushResponse
from tidings.channels.webpush.throttling.host_signals import HostSignal, classify_host

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
FCM, WINDOWS, OTHER = "fcm.googleapis.com", "db5p.notify.windows.com", "push.internal"
AFTER = {"retry-after": "30"}
WAIT = timedelta(seconds=30)


@pytest.mark.parametrize("status", [200, 201, 301, 400, 403, 404, 410, 413])
def test_a_host_that_rejects_a_message_is_healthy(status: int) -> None:
    assert classify_host(FCM, PushResponse(status, AFTER), NOW) == HostSignal(SignalKind.HEALTHY)


def test_no_response_is_a_timeout() -> None:
    assert classify_host(FCM, NoResponse("it hung"), NOW) == HostSignal(SignalKind.TIMEOUT)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("headers", [{}, {"retry-after": "soon"}])
def test_a_failure_without_a_valid_retry_after_is_a_server_error(status: int, headers: dict[str, str]) -> None:
    assert classify_host(OTHER, PushResponse(status, headers), NOW) == HostSignal(SignalKind.SERVER_ERROR)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (429, SignalKind.THROTTLED),
        (408, SignalKind.THROTTLED),
        (503, SignalKind.UNAVAILABLE),
        (500, SignalKind.UNAVAILABLE),
    ],
)
def test_retry_after_concerns_the_device_with_429_and_the_service_with_503(status: int, kind: SignalKind) -> None:
    assert classify_host(OTHER, PushResponse(status, AFTER), NOW) == HostSignal(kind, WAIT)


def test_406_throttles_at_windows_only() -> None:
    assert classify_host(WINDOWS, PushResponse(406, AFTER), NOW) == HostSignal(SignalKind.THROTTLED, WAIT)
    assert classify_host(OTHER, PushResponse(406, AFTER), NOW) == HostSignal(SignalKind.HEALTHY)
