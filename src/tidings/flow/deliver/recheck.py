"""Look again just before sending: what was true when it was planned may not be true any more (MISSION B8). Pure."""

from datetime import datetime, timedelta

from tidings.model.consent import consent
from tidings.model.delivery import Due, SkipReason
from tidings.model.notification import Notification
from tidings.model.subscription import SubscriptionState
from tidings.model.template import Category

#: A delivery planned longer ago than this is also checked against its audience again. Every deferral waits longer, so
#: a ticket returned while a message waits stops it; in a long broadcast it is one query for each claim.
AUDIENCE_TRUSTED_FOR = timedelta(seconds=1.5)


def is_stale(due: Due, trusted_since: datetime) -> bool:
    """Return whether membership in the audience must be looked up again; see `AUDIENCE_TRUSTED_FOR`."""
    return due.attempts > 0 or due.planned_at < trusted_since


def objection(
    due: Due, notification: Notification, category: Category, *, in_audience: bool, now: datetime
) -> SkipReason | None:
    """Return why this delivery must not go out any more, or None."""
    if due.cancelled:
        return SkipReason.CANCELLED
    if now >= notification.expires_at:
        return SkipReason.EXPIRED
    if due.locale is None:
        return SkipReason.USER_ERASED
    if not in_audience:
        return SkipReason.LEFT_AUDIENCE
    if due.target is None or due.target.state is not SubscriptionState.ACTIVE:
        return SkipReason.NO_DEVICE
    rule = consent(due.preference, category)
    return rule if isinstance(rule, SkipReason) else None
