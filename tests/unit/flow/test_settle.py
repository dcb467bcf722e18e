"""A retry ends when the tries are spent, or when it would come after the expiry."""

from datetime import timedelta

import pytest
from msgspec import structs

from tidings.flow.record.settle import MAX_ATTEMPTS, settled
from tidings.model.outcome import Deferred, Delivered, Gone, Outcome, Refused
from tidings.testing.contracts.samples import NOW, a_due, a_notification, tried

LATER = NOW + timedelta(seconds=8)


@pytest.mark.parametrize("outcome", [Delivered(), Refused("no"), Gone("gone"), Deferred(LATER, "busy")])
def test_other_outcomes_stay_as_they_are(outcome: Outcome) -> None:
    attempted = tried(a_due(a_notification()), outcome)
    assert settled(attempted) == attempted


def test_the_last_try_is_the_end_whatever_the_channel() -> None:
    attempted = tried(a_due(a_notification()), Deferred(LATER, "internal error: KeyError", 500))
    last = structs.replace(attempted, number=MAX_ATTEMPTS)
    assert settled(structs.replace(attempted, number=MAX_ATTEMPTS - 1)).outcome == attempted.outcome
    assert settled(last).outcome == Refused("gave up after 4 attempts: internal error: KeyError", 500)


def test_waiting_as_told_spends_no_try() -> None:
    told = tried(a_due(a_notification()), Deferred(LATER, "told to wait", 429, spends_attempt=False))
    assert settled(structs.replace(told, number=MAX_ATTEMPTS + 5)).outcome == told.outcome


@pytest.mark.parametrize(("until", "ends"), [(timedelta(), True), (timedelta(microseconds=-1), False)])
def test_no_retry_comes_after_the_expiry(until: timedelta, ends: bool) -> None:
    attempted = tried(a_due(a_notification()), Deferred(LATER, "busy", 503))
    outcome = Deferred(attempted.expires_at + until, "busy", 503)
    found = settled(structs.replace(attempted, outcome=outcome)).outcome
    late = Refused("expired before the next try; last answer: busy", 503, expired=True)
    assert found == (late if ends else outcome)
