"""Whether a refused token means the push host or one device."""

from datetime import timedelta

from tidings.channels.webpush.throttling.token_refusals import (
    MIN_CONTRADICTIONS,
    RECENT_ACCEPTANCE,
    TokenRefusals,
    TokenVerdict,
)
from tidings.testing.clock import START

SECOND = timedelta(seconds=1)


def test_a_host_that_never_accepted_refuses_at_once() -> None:
    assert TokenRefusals().on_refused(1, START) is TokenVerdict.HOST_REFUSES


def test_a_host_that_just_accepted_refuses_with_the_second_refusal_in_a_row() -> None:
    refusals = TokenRefusals()
    refusals.on_accepted(1, START, START)
    assert refusals.on_refused(2, START + SECOND) is TokenVerdict.UNCLEAR
    assert refusals.on_refused(2, START + 2 * SECOND) is TokenVerdict.HOST_REFUSES


def test_an_acceptance_long_ago_does_not_delay_the_verdict() -> None:
    refusals = TokenRefusals()
    refusals.on_accepted(1, START, START)
    assert refusals.on_refused(2, START + RECENT_ACCEPTANCE) is TokenVerdict.HOST_REFUSES


def test_a_device_that_is_refused_while_others_are_accepted_is_the_cause() -> None:
    refusals, now = TokenRefusals(), START
    verdicts = []
    for _ in range(MIN_CONTRADICTIONS + 1):
        verdicts.append(refusals.on_refused(666, now))
        refusals.on_accepted(1, now + SECOND, now + SECOND)
        now += 2 * SECOND
    assert verdicts[-1] is TokenVerdict.TARGET_REFUSED
    assert TokenVerdict.TARGET_REFUSED not in verdicts[:-1]
    assert refusals.on_refused(2, now) is TokenVerdict.UNCLEAR, "other devices are judged on their own"


def test_requests_that_were_in_flight_when_the_service_changed_its_mind_prove_nothing() -> None:
    refusals, now = TokenRefusals(), START
    for _ in range(MIN_CONTRADICTIONS + 5):
        now += SECOND
        assert refusals.on_refused(1, now) is not TokenVerdict.TARGET_REFUSED
        refusals.on_accepted(2, START, now)


def test_a_device_that_is_accepted_again_starts_anew() -> None:
    refusals, now = TokenRefusals(), START
    for _ in range(MIN_CONTRADICTIONS):
        refusals.on_refused(1, now)
        refusals.on_accepted(2, now + SECOND, now + SECOND)
        now += 2 * SECOND
    refusals.on_accepted(1, now, now)
    assert refusals.on_refused(1, now + SECOND) is TokenVerdict.UNCLEAR
