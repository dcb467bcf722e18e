"""What each answer says about its host."""

from datetime import UTC, datetime, timedelta

import pytest

from tidings.channels.webpush.answer import Answer, NoAnswer
from tidings.channels.webpush.signs import Kind, Sign, sign_of

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
FCM, WINDOWS, OTHER = "fcm.googleapis.com", "db5p.notify.windows.com", "push.internal"
AFTER = {"retry-after": "30"}
WAIT = timedelta(seconds=30)


@pytest.mark.parametrize("status", [200, 201, 301, 400, 401, 403, 404, 410, 413])
def test_a_host_that_refuses_a_message_works(status: int) -> None:
    assert sign_of(FCM, Answer(status, AFTER), NOW) == Sign(Kind.WELL)


def test_no_answer_is_silence() -> None:
    assert sign_of(FCM, NoAnswer("it hung"), NOW) == Sign(Kind.SILENT)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("headers", [{}, {"retry-after": "soon"}])
def test_a_failure_without_a_readable_wait_is_only_a_failure(status: int, headers: dict[str, str]) -> None:
    assert sign_of(OTHER, Answer(status, headers), NOW) == Sign(Kind.AILING)


@pytest.mark.parametrize(("status", "kind"), [(429, Kind.FULL), (408, Kind.FULL), (503, Kind.SHUT), (500, Kind.SHUT)])
def test_a_wait_is_about_the_device_with_429_and_about_the_service_with_503(status: int, kind: Kind) -> None:
    assert sign_of(OTHER, Answer(status, AFTER), NOW) == Sign(kind, WAIT)


def test_406_throttles_at_windows_only() -> None:
    assert sign_of(WINDOWS, Answer(406, AFTER), NOW) == Sign(Kind.FULL, WAIT)
    assert sign_of(OTHER, Answer(406, AFTER), NOW) == Sign(Kind.WELL)
