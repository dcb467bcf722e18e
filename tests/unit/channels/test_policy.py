"""Every row of the outcome table."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.channels.webpush.answer import Answer
from tidings.channels.webpush.policy import Again, Attempt, Change, decide, retry, told_wait
from tidings.model.outcome import Deferred, Delivered, Gone, Outcome, Refused

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
FCM = "fcm.googleapis.com"
MOZILLA = "updates.push.services.mozilla.com"
APPLE = "web.push.apple.com"
WINDOWS = "db5p.notify.windows.com"
OTHER = "push.internal"
HOSTS = [FCM, MOZILLA, APPLE, WINDOWS, OTHER]
RECEIVED = {"x-wns-status": "received"}


def judge(
    host: str,
    status: int,
    body: str = "",
    headers: dict[str, str] | None = None,
    *,
    number: int = 1,
    jitter: float = 0.0,
    tried: frozenset[Change] = frozenset(),
) -> Outcome | Again:
    return decide(host, Answer(status, headers or {}, body), Attempt(NOW, number, jitter, tried))


@pytest.mark.parametrize(
    ("host", "status", "headers"),
    [(FCM, 201, {}), (MOZILLA, 201, {}), (APPLE, 201, {}), (WINDOWS, 200, RECEIVED), (WINDOWS, 201, RECEIVED)]
    + [(OTHER, status, {}) for status in (200, 201, 202, 204)],
)
def test_delivered(host: str, status: int, headers: dict[str, str]) -> None:
    outcome = judge(host, status, headers=headers)
    assert isinstance(outcome, Delivered)
    assert outcome.status == status


@pytest.mark.parametrize(
    ("host", "status", "body"),
    [(host, status, "") for host in HOSTS for status in (404, 410)]
    + [(MOZILLA, 404, '{"errno": 102}')]
    + [(MOZILLA, 410, f'{{"code": 410, "errno": {errno}}}') for errno in (103, 105, 106)]
    + [(APPLE, 410, '{"reason": "Unregistered"}'), (APPLE, 404, "<html>"), (FCM, 410, "gone")],
)
def test_delete(host: str, status: int, body: str) -> None:
    outcome = judge(host, status, body)
    assert isinstance(outcome, Gone)
    assert (outcome.remedy, outcome.status) == ("delete", status)


@pytest.mark.parametrize(
    ("host", "status", "body"),
    [
        (FCM, 403, "the VAPID credentials in the authorization header do not correspond to the credentials used …"),
        (FCM, 400, "UnauthorizedRegistration"),
        (FCM, 400, '{"error": "UNAUTHORIZED_REGISTRATION"}'),
        (MOZILLA, 401, '{"code": 401, "errno": 109, "error": "Unauthorized"}'),
        (APPLE, 400, '{"reason": "VapidPkHashMismatch"}'),
        (APPLE, 403, '{"reason": "VapidPkHashMismatch"}'),
        (WINDOWS, 403, ""),
    ],
)
def test_rebind(host: str, status: int, body: str) -> None:
    outcome = judge(host, status, body)
    assert isinstance(outcome, Gone)
    assert outcome.remedy == "rebind"


@pytest.mark.parametrize(
    ("host", "status", "body"),
    [
        (FCM, 403, "the key in the authorization header: aud claim must match"),
        (FCM, 400, "bad"),
        (FCM, 401, ""),
        (MOZILLA, 401, '{"errno": 110}'),
        (MOZILLA, 401, ""),
        (MOZILLA, 400, '{"errno": 111}'),
        (MOZILLA, 404, '{"errno": 999}'),
        (MOZILLA, 410, '{"errno": 102}'),
        (APPLE, 403, '{"reason": "BadJwtToken"}'),
        (APPLE, 403, '{"reason": "BadAuthorizationHeader"}'),
        (APPLE, 403, '{"reason": "BadVapidPublicKey"}'),
        (APPLE, 400, '{"reason": "BadTtl"}'),
        (APPLE, 400, '{"reason": "BadUrgency"}'),
        (WINDOWS, 400, ""),
        (WINDOWS, 401, ""),
        (OTHER, 400, ""),
        (OTHER, 401, ""),
        (OTHER, 403, ""),
        (OTHER, 406, ""),
        (OTHER, 451, ""),
        *((host, status, "") for host in HOSTS for status in (301, 302, 307, 308)),
    ],
)
def test_halt_alerts_and_deletes_nothing(host: str, status: int, body: str) -> None:
    outcome = judge(host, status, body)
    assert isinstance(outcome, Refused)
    assert outcome.alert
    assert outcome.status == status


@pytest.mark.parametrize(
    ("host", "status"),
    [(host, status) for host in HOSTS for status in (429, 500, 502, 503, 504, 599)] + [(WINDOWS, 406), (OTHER, 408)],
)
def test_retry(host: str, status: int) -> None:
    assert judge(host, status) == Deferred(NOW + timedelta(seconds=2), f"{service(host)} answered {status}", status)


def service(host: str) -> str:
    return {FCM: "FCM", MOZILLA: "Mozilla", APPLE: "Apple", WINDOWS: "Windows", OTHER: "the push service"}[host]


def test_retries_wait_two_four_eight_seconds_and_then_end() -> None:
    waits = [retry("x", Attempt(NOW, number, 0.0)) for number in (1, 2, 3)]
    assert [wait.until - NOW for wait in waits if isinstance(wait, Deferred)] == [
        timedelta(seconds=s) for s in (2, 4, 8)
    ]
    assert retry("it hung", Attempt(NOW, 4, 0.0)) == Refused("gave up after 4 attempts: it hung")


@given(number=st.integers(1, 3), jitter=st.floats(0, 1, exclude_max=True))
def test_jitter_only_ever_adds(number: int, jitter: float) -> None:
    outcome = retry("x", Attempt(NOW, number, jitter))
    assert isinstance(outcome, Deferred)
    assert timedelta(seconds=2**number) <= outcome.until - NOW <= timedelta(seconds=2**number * 1.25)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("number", [1, 4, 50])
def test_waiting_as_told_spends_no_attempt(host: str, status: int, number: int) -> None:
    outcome = judge(host, status, headers={"retry-after": "120"}, number=number)
    assert isinstance(outcome, Deferred)
    assert not outcome.spends_attempt
    assert outcome.until == NOW + timedelta(seconds=120)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3),
        (" 120 ", 120),
        ("0", 2),
        ("-5", 2),
        ("1.5", 2),
        ("2.5", 2.5),
        ("315360000", 86_400),
        ("9" * 400, 86_400),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 2),
        (format_datetime(NOW + timedelta(days=3650), usegmt=True), 86_400),
        ("Sunday, 22-Nov-26 12:01:00 GMT", 60),
    ],
)
def test_retry_after_is_read_in_both_forms_and_kept_sane(value: str, seconds: float) -> None:
    assert told_wait(value, NOW) == timedelta(seconds=seconds)


@pytest.mark.parametrize("value", [None, "", "soon", "inf", "nan", "1e9", "Mon, 99 Foo 2026 99:99:99 GMT", "٣"])
def test_a_retry_after_that_cannot_be_read_is_none(value: str | None) -> None:
    assert told_wait(value, NOW) is None


@given(st.text(max_size=60))
def test_no_retry_after_raises(value: str) -> None:
    wait = told_wait(value, NOW)
    assert wait is None or timedelta(seconds=2) <= wait <= timedelta(hours=24)


@pytest.mark.parametrize("host", HOSTS)
def test_413_is_shortened_once_then_refused(host: str) -> None:
    assert judge(host, 413) == Again(Change.SMALLER)
    assert isinstance(judge(host, 413, tried=frozenset({Change.SMALLER})), Refused)


def test_apples_bad_topic_is_sent_once_more_without_it() -> None:
    body = '{"reason": "BadWebPushTopic"}'
    assert judge(APPLE, 400, body) == Again(Change.NO_TOPIC)
    assert isinstance(judge(APPLE, 400, body, tried=frozenset({Change.NO_TOPIC})), Refused)


@pytest.mark.parametrize(
    ("headers", "kind"),
    [({}, Refused), ({"x-wns-status": "dropped"}, Refused), ({"x-wns-status": "channelthrottled"}, Deferred)],
)
def test_windows_2xx_alone_proves_nothing(headers: dict[str, str], kind: type[Outcome]) -> None:
    assert isinstance(judge(WINDOWS, 200, headers=headers), kind)


def test_what_the_service_said_is_kept_without_anything_secret() -> None:
    outcome = judge(
        OTHER, 400, "bad token eyJ0eXAiOiJKV1QiLCJhbGciOiJFUzI1NiJ9 at https://push.internal/secret\x00\n end"
    )
    assert outcome == Refused("the push service answered 400: bad token … at … end", 400, alert=True)
    outcome = judge(WINDOWS, 400, headers={"x-wns-error-description": "TTL missing"})
    assert isinstance(outcome, Refused)
    assert outcome.why == "Windows answered 400: TTL missing"


@given(
    host=st.sampled_from(HOSTS),
    status=st.integers(100, 999),
    body=st.text(max_size=300),
    headers=st.dictionaries(st.sampled_from(["retry-after", "x-wns-status"]), st.text(max_size=20)),
    number=st.integers(0, 10),
)
def test_every_answer_has_an_outcome(host: str, status: int, body: str, headers: dict[str, str], number: int) -> None:
    outcome = judge(host, status, body, headers, number=number)
    assert isinstance(outcome, Delivered | Deferred | Refused | Gone | Again)
    if isinstance(outcome, Deferred):
        assert outcome.until > NOW
    if isinstance(outcome, Gone) and outcome.remedy == "delete":
        assert status in (404, 410)
