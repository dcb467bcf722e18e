"""A retry becomes final after the last attempt, or when it would be after the expiry."""

from datetime import timedelta

import pytest
from msgspec import structs

from tidings.flow.record.retry_policy import apply_retry_policy, retry_renewed_target
from tidings.model.outcome import MAX_ATTEMPTS, Accepted, InvalidTarget, Outcome, PermanentFailure, RetryLater
from tidings.testing.contracts.samples import NOW, make_attempt_result, make_claimed_delivery, make_notification

LATER = NOW + timedelta(seconds=8)


@pytest.mark.parametrize(
    "outcome", [Accepted(), PermanentFailure("no"), InvalidTarget("gone"), RetryLater(LATER, "busy")]
)
def test_other_outcomes_stay_as_they_are(outcome: Outcome) -> None:
    attempted = make_attempt_result(make_claimed_delivery(make_notification()), outcome)
    assert apply_retry_policy(attempted) == attempted


def test_the_last_attempt_is_final_for_every_channel() -> None:
    attempted = make_attempt_result(
        make_claimed_delivery(make_notification()), RetryLater(LATER, "internal error: KeyError", 500)
    )
    last = structs.replace(attempted, number=MAX_ATTEMPTS)
    assert apply_retry_policy(structs.replace(attempted, number=MAX_ATTEMPTS - 1)).outcome == attempted.outcome
    assert apply_retry_policy(last).outcome == PermanentFailure(
        "gave up after 4 attempts: internal error: KeyError", 500
    )


def test_a_retry_after_spends_no_attempt() -> None:
    retry = make_attempt_result(
        make_claimed_delivery(make_notification()), RetryLater(LATER, "told to wait", 429, counts_as_attempt=False)
    )
    assert apply_retry_policy(structs.replace(retry, number=MAX_ATTEMPTS + 5)).outcome == retry.outcome


@pytest.mark.parametrize(("until", "ends"), [(timedelta(), True), (timedelta(microseconds=-1), False)])
def test_no_retry_comes_after_the_expiry(until: timedelta, ends: bool) -> None:
    attempted = make_attempt_result(make_claimed_delivery(make_notification()), RetryLater(LATER, "busy", 503))
    outcome = RetryLater(attempted.expires_at + until, "busy", 503)
    found = apply_retry_policy(structs.replace(attempted, outcome=outcome)).outcome
    late = PermanentFailure("expired before the next attempt; last answer: busy", 503, is_expired=True)
    assert found == (late if ends else outcome)


def test_the_end_of_an_endpoint_that_was_renewed_during_the_send_is_retried_on_its_successor() -> None:
    claimed = make_claimed_delivery(make_notification())
    assert claimed.target is not None
    ended = make_attempt_result(claimed, InvalidTarget("gone", 410))
    for versions in ({}, {claimed.target.id: claimed.target.version}):
        assert retry_renewed_target(ended, versions) == ended
    renewed = {claimed.target.id: claimed.target.version + 1}
    retried = retry_renewed_target(ended, renewed).outcome
    assert isinstance(retried, RetryLater)
    # it spends an attempt, so that a browser that registers in a loop does not keep a message alive
    assert (retried.until, retried.status, retried.counts_as_attempt) == (ended.finished_at, 410, True)
    accepted = make_attempt_result(claimed, Accepted())
    assert retry_renewed_target(accepted, renewed) == accepted


@pytest.mark.parametrize("is_soft", [True, False])
def test_c55_a_refusal_of_the_mailbox_is_known_when_it_becomes_final(is_soft: bool) -> None:
    attempted = make_attempt_result(
        make_claimed_delivery(make_notification()), RetryLater(LATER, "mailbox full", 452, is_soft_bounce=is_soft)
    )
    for ended in (
        structs.replace(attempted, number=MAX_ATTEMPTS),
        structs.replace(attempted, number=1, expires_at=LATER),
    ):
        outcome = apply_retry_policy(ended).outcome
        assert isinstance(outcome, PermanentFailure)
        assert outcome.is_soft_bounce is is_soft
