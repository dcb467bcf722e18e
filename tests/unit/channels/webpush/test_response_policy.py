"""Every row of the outcome table."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.channels.webpush.push_exchange import PushResponse
from tidings.channels.webpush.response_policy import (
    RETRY_DELAYS,
    AttemptContext,
    Modification,
    RetryModified,
    decide_outcome,
    parse_retry_after,
    retry_or_give_up,
)
from tidings.model.outcome import MAX_ATTEMPTS, Accepted, InvalidTarget, Outcome, PermanentFailure, RetryLater

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
    tried: frozenset[Modification] = frozenset(),
) -> Outcome | RetryModified:
    return decide_outcome(host, PushResponse(status, headers or {}, body), AttemptContext(NOW, number, jitter, tried))


@pytest.mark.parametrize(
    ("host", "status", "headers"),
    [(FCM, 201, {}), (MOZILLA, 201, {}), (APPLE, 201, {}), (WINDOWS, 200, RECEIVED), (WINDOWS, 201, RECEIVED)]
    + [(OTHER, status, {}) for status in (200, 201, 202, 204)],
)
def test_delivered(host: str, status: int, headers: dict[str, str]) -> None:
    outcome = judge(host, status, headers=headers)
    assert isinstance(outcome, Accepted)
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
    assert isinstance(outcome, InvalidTarget)
    assert (outcome.action, outcome.status) == ("delete", status)


@pytest.mark.parametrize(
    ("host", "status", "body"),
    [
        (FCM, 403, "the VAPID credentials in the authorization header do not correspond to the credentials used …"),
        (FCM, 400, "UnauthorizedRegistration"),
        (FCM, 400, '{"error": "UNAUTHORIZED_REGISTRATION"}'),
        (MOZILLA, 401, '{"code": 401, "errno": 109, "message": "VAPID public key mismatch"}'),
        (MOZILLA, 401, '{"code": 401, "errno": 109, "message": "Request did not validate: Key mismatch"}'),
        (OTHER, 401, '{"code": 401, "errno": 109, "message": "VAPID public key mismatch"}'),
        (OTHER, 403, "the subscription was created with another VAPID key"),
        (FCM, 403, "MismatchSenderId"),
        (APPLE, 400, '{"reason": "VapidPkHashMismatch"}'),
        (APPLE, 403, '{"reason": "VapidPkHashMismatch"}'),
    ],
)
def test_rebind_only_if_the_text_says_that_the_key_differs(host: str, status: int, body: str) -> None:
    outcome = judge(host, status, body)
    assert isinstance(outcome, InvalidTarget)
    assert outcome.action == "rebind"


@pytest.mark.parametrize(
    ("host", "status", "body"),
    [
        (FCM, 400, "bad"),
        (FCM, 403, ""),
        (MOZILLA, 400, '{"errno": 111}'),
        (MOZILLA, 404, '{"errno": 999}'),
        (MOZILLA, 410, '{"errno": 102}'),
        (APPLE, 400, '{"reason": "BadTtl"}'),
        (APPLE, 400, '{"reason": "BadUrgency"}'),
        (WINDOWS, 400, ""),
        (WINDOWS, 403, ""),
        (OTHER, 400, ""),
        (OTHER, 400, "invalid token in the path"),
        (FCM, 403, "the registration token is not valid"),
        (OTHER, 403, ""),
        (OTHER, 406, ""),
        (OTHER, 451, ""),
        *((host, status, "") for host in HOSTS for status in (301, 302, 307, 308)),
    ],
)
def test_halt_alerts_and_deletes_nothing(host: str, status: int, body: str) -> None:
    outcome = judge(host, status, body)
    assert isinstance(outcome, PermanentFailure)
    assert outcome.operator_alert
    assert outcome.status == status


TOKEN_REFUSALS = [
    *((host, 401, "") for host in HOSTS),
    *((MOZILLA, 401, body) for body in ('{"errno": 110}', '{"code": 401, "errno": 109, "error": "Unauthorized"}')),
    (MOZILLA, 401, '{"errno": 109, "message": "Request did not validate Invalid bearer token: Auth > 24 hours"}'),
    (OTHER, 403, '{"errno": 109}'),
    (FCM, 403, "the key in the authorization header: aud claim must match"),
    (FCM, 403, "the JWT has expired"),
    (FCM, 400, "invalid JWT provided"),
    *((APPLE, 403, f'{{"reason": "{reason}"}}') for reason in ("BadJwtToken", "ExpiredJwtToken", "BadVapidPublicKey")),
    (APPLE, 403, '{"reason": "BadAuthorizationHeader"}'),
    (WINDOWS, 403, "the token's signature is invalid"),
    (OTHER, 403, "The clock of the sender is wrong: exp is too far in the future"),
    (OTHER, 403, "invalid VAPID credentials"),
]


@pytest.mark.parametrize(("host", "status", "body"), TOKEN_REFUSALS)
def test_a_refused_token_is_replaced_once_and_then_costs_no_attempt(host: str, status: int, body: str) -> None:
    assert judge(host, status, body) == RetryModified(Modification.FRESH_TOKEN)
    for number in (1, MAX_ATTEMPTS, 50):
        again = judge(host, status, body, number=number, tried=frozenset({Modification.FRESH_TOKEN}))
        assert isinstance(again, RetryLater)
        assert (again.counts_as_attempt, again.status) == (False, status)
        assert "token" in again.why


@pytest.mark.parametrize(
    ("status", "reason", "is_suspect"),
    [(400, "BadTtl", False), (400, "BadUrgency", False), (400, "SomethingNew", True), (403, "Forbidden", True)],
)
def test_only_an_unknown_reason_makes_the_device_suspect(status: int, reason: str, is_suspect: bool) -> None:
    outcome = judge(APPLE, status, f'{{"reason": "{reason}"}}')
    assert isinstance(outcome, PermanentFailure)
    assert outcome.is_target_suspect == is_suspect


@pytest.mark.parametrize(
    ("host", "status"),
    [(host, status) for host in HOSTS for status in (429, 500, 502, 503, 504, 599)] + [(WINDOWS, 406), (OTHER, 408)],
)
def test_retry(host: str, status: int) -> None:
    assert judge(host, status) == RetryLater(NOW + timedelta(seconds=2), f"{service(host)} answered {status}", status)


def service(host: str) -> str:
    return {FCM: "FCM", MOZILLA: "Mozilla", APPLE: "Apple", WINDOWS: "Windows", OTHER: "the push service"}[host]


def test_retries_wait_two_four_eight_seconds_and_then_end() -> None:
    waits = [retry_or_give_up("x", AttemptContext(NOW, number, 0.0)) for number in (1, 2, 3)]
    assert [wait.until - NOW for wait in waits if isinstance(wait, RetryLater)] == [
        timedelta(seconds=s) for s in (2, 4, 8)
    ]
    assert retry_or_give_up("it hung", AttemptContext(NOW, 4, 0.0)) == PermanentFailure(
        "gave up after 4 attempts: it hung"
    )


@given(number=st.integers(1, 3), jitter=st.floats(0, 1, exclude_max=True))
def test_jitter_only_ever_adds(number: int, jitter: float) -> None:
    outcome = retry_or_give_up("x", AttemptContext(NOW, number, jitter))
    assert isinstance(outcome, RetryLater)
    assert timedelta(seconds=2**number) <= outcome.until - NOW <= timedelta(seconds=2**number * 1.25)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("number", [1, 4, 50])
def test_a_retry_after_spends_no_attempt(host: str, status: int, number: int) -> None:
    outcome = judge(host, status, headers={"retry-after": "120"}, number=number)
    assert isinstance(outcome, RetryLater)
    assert not outcome.counts_as_attempt
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
    assert parse_retry_after(value, NOW) == timedelta(seconds=seconds)


@pytest.mark.parametrize("value", [None, "", "soon", "inf", "nan", "1e9", "Mon, 99 Foo 2026 99:99:99 GMT", "٣"])
def test_a_retry_after_that_cannot_be_read_is_none(value: str | None) -> None:
    assert parse_retry_after(value, NOW) is None


@given(st.text(max_size=60))
def test_no_retry_after_raises(value: str) -> None:
    wait = parse_retry_after(value, NOW)
    assert wait is None or timedelta(seconds=2) <= wait <= timedelta(hours=24)


@pytest.mark.parametrize("host", HOSTS)
def test_413_is_shortened(host: str) -> None:
    assert judge(host, 413) == RetryModified(Modification.SMALLER)


def test_apples_bad_topic_is_sent_once_more_without_it() -> None:
    body = '{"reason": "BadWebPushTopic"}'
    assert judge(APPLE, 400, body) == RetryModified(Modification.NO_TOPIC)
    assert isinstance(judge(APPLE, 400, body, tried=frozenset({Modification.NO_TOPIC})), PermanentFailure)


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ({}, PermanentFailure),
        ({"x-wns-status": "dropped"}, PermanentFailure),
        ({"x-wns-status": "channelthrottled"}, RetryLater),
    ],
)
def test_2xx_from_windows_needs_the_delivery_header(headers: dict[str, str], kind: type[Outcome]) -> None:
    assert isinstance(judge(WINDOWS, 200, headers=headers), kind)


def test_the_response_text_is_stored_without_secrets() -> None:
    outcome = judge(
        OTHER, 400, "bad token eyJ0eXAiOiJKV1QiLCJhbGciOiJFUzI1NiJ9 at https://push.internal/secret\x00\n end"
    )
    assert outcome == PermanentFailure(
        "the push service answered 400: bad token … at … end", 400, operator_alert=True, is_target_suspect=True
    )
    outcome = judge(WINDOWS, 400, headers={"x-wns-error-description": "TTL missing"})
    assert isinstance(outcome, PermanentFailure)
    assert outcome.why == "Windows answered 400: TTL missing"


@given(
    host=st.sampled_from(HOSTS),
    status=st.integers(100, 999),
    body=st.text(max_size=300),
    headers=st.dictionaries(st.sampled_from(["retry-after", "x-wns-status"]), st.text(max_size=20)),
    number=st.integers(0, 10),
)
def test_every_response_has_an_outcome(host: str, status: int, body: str, headers: dict[str, str], number: int) -> None:
    outcome = judge(host, status, body, headers, number=number)
    assert isinstance(outcome, Accepted | RetryLater | PermanentFailure | InvalidTarget | RetryModified)
    if isinstance(outcome, RetryLater):
        assert outcome.until > NOW
    if isinstance(outcome, InvalidTarget) and outcome.action == "delete":
        assert status in (404, 410)


def test_every_attempt_after_the_first_has_a_delay() -> None:
    assert len(RETRY_DELAYS) == MAX_ATTEMPTS - 1
