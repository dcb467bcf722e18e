"""Rate limits per user: which notifications count, and how a plan changes for users over the limit. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Self

from tidings.flow.fanout.planner import Plan
from tidings.model.delivery import PlannedDelivery, SkipReason, SkipRecord
from tidings.model.notification import Notification
from tidings.model.priority import Priority
from tidings.model.template import Category

#: length of the sliding window
WINDOW = timedelta(hours=1)
#: scope under which all categories without a limit of their own are counted together
DEFAULT_SCOPE = ""


@dataclass(frozen=True, slots=True)
class RateLimitPolicy:
    """The number of notifications that a user may receive per `WINDOW`. The default has no limits."""

    #: for all categories without a limit of their own together; 0 = no limit
    per_user: int = 0
    #: category → limit of its own, which overrides the one declared by its pack; 0 = no limit
    per_category: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, user_limit: int, category_limits: Sequence[str]) -> Self:
        """Return the policy for the settings `user_limit` and `category_limits`, a list of `CATEGORY=20`.

        If a category occurs twice, the last limit applies. Raises ValueError for an item of another form.
        """
        pairs = (item.partition("=") for item in category_limits)
        return cls(user_limit, {category.strip(): int(number) for category, _, number in pairs})


def limit_scope(notification: Notification, category: Category, policy: RateLimitPolicy) -> tuple[str, int] | None:
    """Return the scope under which a notification is counted, and the limit of that scope; None = it is not counted.

    Urgent notifications and mandatory categories are never limited. A category with a limit of its own is counted by
    itself, all others together.
    """
    if notification.priority is Priority.URGENT or category.mandatory:
        return None
    own = policy.per_category.get(category.code, category.hourly_limit)
    scope, limit = (DEFAULT_SCOPE, policy.per_user) if own is None else (category.code, own)
    return (scope, limit) if limit else None


def recipients_of(plan: Plan, notification_id: str) -> list[str]:
    """Return the users with a planned delivery of the notification, in id order. It is counted for these."""
    return sorted({delivery.user_id for delivery in plan.planned if delivery.notification_id == notification_id})


def apply_limit(
    plan: Plan, notification_id: str, allowed: Collection[str], scope: str, limit: int, *, category: str
) -> Plan:
    """Return the plan with skips instead of the notification's deliveries to users who are not in `allowed`.

    All deliveries to one user on one channel become one skip. Other notifications in the plan, and the batch ids,
    remain unchanged.
    """
    allowed_ids = set(allowed)
    kept: list[PlannedDelivery] = []
    over_limit: list[PlannedDelivery] = []
    for delivery in plan.planned:
        is_kept = delivery.notification_id != notification_id or delivery.user_id in allowed_ids
        (kept if is_kept else over_limit).append(delivery)
    if not over_limit:
        return plan
    detail = {
        "category": category,
        "scope": scope,
        "limit": limit,
        "windowSeconds": int(WINDOW.total_seconds()),
    }
    skipped = [
        SkipRecord(notification_id, user_id, channel, SkipReason.RATE_LIMITED, detail)
        for user_id, channel in dict.fromkeys((delivery.user_id, delivery.channel) for delivery in over_limit)
    ]
    return replace(plan, planned=kept, skipped=[*plan.skipped, *skipped])
