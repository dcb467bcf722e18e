"""What is looked at again just before sending, and what an outcome means for a delivery."""

from dataclasses import replace
from datetime import timedelta

import pytest
from msgspec import structs

from tidings.flow.deliver.recheck import AUDIENCE_TRUSTED_FOR, is_stale, objection
from tidings.flow.record.settle import settled
from tidings.flow.recovery import is_a_wave
from tidings.model.delivery import Due, SkipReason
from tidings.model.notification import Notification
from tidings.model.outcome import Deferred, Delivered, Gone, Outcome, Refused
from tidings.model.subscription import SubscriptionState
from tidings.model.template import Category
from tidings.testing.clock import START as NOW
from tidings.testing.contracts.samples import a_due, a_notification, tried

NEWS = Category("NEWS", "News")
NOTIFICATION = a_notification()
DUE = a_due(NOTIFICATION)
assert DUE.target is not None
EXPIRED = replace(NOTIFICATION, expires_at=NOW)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("due", "notification", "category", "in_audience", "reason"),
    [
        (DUE, NOTIFICATION, NEWS, True, None),
        (structs.replace(DUE, preference=True), NOTIFICATION, replace(NEWS, opt_in=True), True, None),
        (structs.replace(DUE, preference=False), NOTIFICATION, replace(NEWS, mandatory=True), True, None),
        (structs.replace(DUE, cancelled=True), EXPIRED, NEWS, False, SkipReason.CANCELLED),
        (structs.replace(DUE, locale=None), EXPIRED, NEWS, True, SkipReason.EXPIRED),
        (structs.replace(DUE, locale=None, timezone=None), NOTIFICATION, NEWS, False, SkipReason.USER_ERASED),
        (DUE, NOTIFICATION, NEWS, False, SkipReason.LEFT_AUDIENCE),
        (DUE, NOTIFICATION, replace(NEWS, mandatory=True), False, SkipReason.LEFT_AUDIENCE),
        (structs.replace(DUE, target=None), NOTIFICATION, NEWS, True, SkipReason.NO_DEVICE),
        (
            structs.replace(DUE, target=structs.replace(DUE.target, state=SubscriptionState.GONE)),
            NOTIFICATION,
            NEWS,
            True,
            SkipReason.NO_DEVICE,
        ),
        (
            structs.replace(DUE, target=structs.replace(DUE.target, state=SubscriptionState.REBIND)),
            NOTIFICATION,
            NEWS,
            True,
            SkipReason.NO_DEVICE,
        ),
        (structs.replace(DUE, preference=False), NOTIFICATION, NEWS, True, SkipReason.PREFERENCE_OFF),
        (DUE, NOTIFICATION, replace(NEWS, opt_in=True), True, SkipReason.NOT_OPTED_IN),
    ],
)
def test_what_changed_since_planning_stops_a_delivery(
    due: Due, notification: Notification, category: Category, in_audience: bool, reason: SkipReason | None
) -> None:
    assert objection(due, notification, category, in_audience=in_audience, now=NOW) is reason


@pytest.mark.parametrize(
    ("attempts", "age", "stale"),
    [
        (0, AUDIENCE_TRUSTED_FOR, False),
        (0, AUDIENCE_TRUSTED_FOR + SECOND, True),
        (1, SECOND, True),
    ],
)
def test_membership_is_looked_up_again_after_a_while_and_before_each_retry(
    attempts: int, age: timedelta, stale: bool
) -> None:
    assert is_stale(structs.replace(DUE, attempts=attempts), NOW + age - AUDIENCE_TRUSTED_FOR) is stale


@pytest.mark.parametrize("outcome", [Delivered(), Refused("no"), Gone("410"), Deferred(NOW, "busy")])
def test_an_outcome_within_the_life_of_the_notification_stays(outcome: Outcome) -> None:
    attempted = tried(DUE, outcome)
    assert settled(attempted) == attempted


@pytest.mark.parametrize("past", [timedelta(), timedelta(days=9)])
def test_a_retry_that_would_come_too_late_is_the_end(past: timedelta) -> None:
    attempted = tried(DUE, Deferred(NOW + timedelta(days=1) + past, "busy", 503))
    expected = Refused("expired before the next try; last answer: busy", 503, expired=True)
    assert settled(attempted) == structs.replace(attempted, outcome=expected)


@pytest.mark.parametrize(
    ("gone", "total", "wave"),
    [(1_000, 5_000, False), (1_001, 5_000, True), (1_001, 100_000, False), (5_001, 100_000, True)],
)
def test_many_dead_subscriptions_at_once_look_like_a_push_services_fault(gone: int, total: int, wave: bool) -> None:
    assert is_a_wave(gone, total) is wave
