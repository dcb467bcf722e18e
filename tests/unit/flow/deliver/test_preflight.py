"""The preflight check, and how the retry policy changes outcomes."""

from dataclasses import replace
from datetime import timedelta

import pytest
from msgspec import structs

from tidings.flow.deliver.preflight import MAX_AUDIENCE_STALENESS, is_stale, preflight
from tidings.flow.record.retry_policy import apply_retry_policy
from tidings.flow.recover.reconciler import exceeds_mass_deletion_threshold
from tidings.model.decision import Defer, Skip
from tidings.model.delivery import ClaimedDelivery, SkipReason
from tidings.model.notification import Notification
from tidings.model.outcome import Accepted, InvalidTarget, Outcome, PermanentFailure, RetryLater
from tidings.model.preference import Preference
from tidings.model.subscription import SubscriptionState
from tidings.model.suppression import Suppression, SuppressionReason
from tidings.model.template import Category
from tidings.testing.clock import START as NOW
from tidings.testing.contracts.samples import make_attempt_result, make_claimed_delivery, make_notification

NEWS = Category("NEWS", "News")
ON, OFF = Preference("NEWS", "webpush", True), Preference("NEWS", "webpush", False)
NOTIFICATION = make_notification()
DUE = make_claimed_delivery(NOTIFICATION)
assert DUE.target is not None
EXPIRED = replace(NOTIFICATION, expires_at=NOW)
SECOND = timedelta(seconds=1)


def preflight_of(
    due: ClaimedDelivery, notification: Notification, category: Category, *, in_audience: bool = True
) -> Skip | Defer | None:
    return preflight(due, notification, category, is_in_audience=in_audience, now=NOW, channels=("webpush",))


def check(
    due: ClaimedDelivery, notification: Notification, category: Category, *, in_audience: bool = True
) -> SkipReason | None:
    decision = preflight_of(due, notification, category, in_audience=in_audience)
    assert not isinstance(decision, Defer)
    return None if decision is None else decision.reason


@pytest.mark.parametrize(
    ("due", "notification", "category", "in_audience", "reason"),
    [
        (DUE, NOTIFICATION, NEWS, True, None),
        (structs.replace(DUE, preferences=(ON,)), NOTIFICATION, replace(NEWS, opt_in=True), True, None),
        (structs.replace(DUE, preferences=(OFF,)), NOTIFICATION, replace(NEWS, mandatory=True), True, None),
        (structs.replace(DUE, is_cancelled=True), EXPIRED, NEWS, False, SkipReason.CANCELLED),
        (structs.replace(DUE, locale=None), EXPIRED, NEWS, True, SkipReason.EXPIRED),
        (structs.replace(DUE, locale=None, timezone=None), NOTIFICATION, NEWS, False, SkipReason.USER_ERASED),
        (DUE, NOTIFICATION, NEWS, False, SkipReason.LEFT_AUDIENCE),
        (DUE, NOTIFICATION, replace(NEWS, mandatory=True), False, SkipReason.LEFT_AUDIENCE),
        (structs.replace(DUE, target=None), NOTIFICATION, NEWS, True, SkipReason.NO_CONTACT_POINT),
        (
            structs.replace(DUE, target=structs.replace(DUE.target, state=SubscriptionState.GONE)),
            NOTIFICATION,
            NEWS,
            True,
            SkipReason.NO_CONTACT_POINT,
        ),
        (
            structs.replace(DUE, target=structs.replace(DUE.target, state=SubscriptionState.REBIND)),
            NOTIFICATION,
            NEWS,
            True,
            SkipReason.NO_CONTACT_POINT,
        ),
        (structs.replace(DUE, preferences=(OFF,)), NOTIFICATION, NEWS, True, SkipReason.PREFERENCE_OFF),
        (DUE, NOTIFICATION, replace(NEWS, opt_in=True), True, SkipReason.NOT_OPTED_IN),
    ],
)
def test_what_changed_since_planning_stops_a_delivery(
    due: ClaimedDelivery, notification: Notification, category: Category, in_audience: bool, reason: SkipReason | None
) -> None:
    assert check(due, notification, category, in_audience=in_audience) is reason


@pytest.mark.parametrize(
    ("attempts", "age", "stale"),
    [
        (0, MAX_AUDIENCE_STALENESS, False),
        (0, MAX_AUDIENCE_STALENESS + SECOND, True),
        (1, SECOND, True),
    ],
)
def test_membership_is_checked_again_after_a_delay_and_before_each_retry(
    attempts: int, age: timedelta, stale: bool
) -> None:
    assert is_stale(structs.replace(DUE, attempts=attempts), NOW + age - MAX_AUDIENCE_STALENESS) is stale


@pytest.mark.parametrize("outcome", [Accepted(), PermanentFailure("no"), InvalidTarget("410"), RetryLater(NOW, "busy")])
def test_an_outcome_before_the_expiry_is_unchanged(outcome: Outcome) -> None:
    attempted = make_attempt_result(DUE, outcome)
    assert apply_retry_policy(attempted) == attempted


@pytest.mark.parametrize("past", [timedelta(), timedelta(days=9)])
def test_a_retry_after_the_expiry_becomes_final(past: timedelta) -> None:
    attempted = make_attempt_result(DUE, RetryLater(NOW + timedelta(days=1) + past, "busy", 503))
    expected = PermanentFailure("expired before the next attempt; last answer: busy", 503, is_expired=True)
    assert apply_retry_policy(attempted) == structs.replace(attempted, outcome=expected)


@pytest.mark.parametrize(
    ("gone", "total", "wave"),
    [(1_000, 5_000, False), (1_001, 5_000, True), (1_001, 100_000, False), (5_001, 100_000, True)],
)
def test_many_gone_subscriptions_at_once_exceed_the_mass_deletion_threshold(gone: int, total: int, wave: bool) -> None:
    assert exceeds_mass_deletion_threshold(gone, total) is wave


def test_c53_a_suppressed_address_stops_a_delivery_that_is_otherwise_allowed() -> None:
    bounce = Suppression("s1", "email", SuppressionReason.HARD_BOUNCE, None, NOW, NOW)
    due = structs.replace(DUE, suppressions=(bounce,))
    mandatory = replace(NEWS, mandatory=True)
    for category in (NEWS, mandatory):
        assert preflight_of(due, NOTIFICATION, category) == Skip(SkipReason.SUPPRESSED, bounce.describe())
    complaint = structs.replace(bounce, reason=SuppressionReason.COMPLAINT)
    due = structs.replace(DUE, suppressions=(complaint,))
    assert preflight_of(due, NOTIFICATION, mandatory) is None
    off = structs.replace(due, preferences=(OFF,))
    assert check(off, NOTIFICATION, NEWS) is SkipReason.PREFERENCE_OFF
