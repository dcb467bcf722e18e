"""Decide whether a notification counts against its readers' limits, and hold back what is too much (M18). Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Self

from tidings.flow.plan.plan import Plan
from tidings.model.delivery import Skipped, SkipReason
from tidings.model.notification import Notification
from tidings.model.priority import Priority
from tidings.model.template import Category

#: what limits are counted over, ending now: a sliding window
WINDOW = timedelta(hours=1)
#: what categories without a limit of their own are counted under, all together
SHARED = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many notifications a user may get in `WINDOW`. The default holds nobody back."""

    #: of all categories without a limit of their own together; 0 = no limit
    user: int = 0
    #: category → a limit of its own, stronger than the one its pack declares; 0 = no limit
    categories: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, user_limit: int, category_limits: Sequence[str]) -> Self:
        """Return the limits of the settings `user_limit` and `category_limits`, a list of `CATEGORY=20`.

        Of a category that is named twice the last one counts. Raises ValueError for what is not of this form.
        """
        named = (one.partition("=") for one in category_limits)
        return cls(user_limit, {category.strip(): int(number) for category, _, number in named})


def scope_of(notification: Notification, category: Category, limits: Limits) -> tuple[str, int] | None:
    """Return what the notification is counted under, and how many of it are allowed; None = it is not counted.

    Urgent notifications and mandatory categories pass. A category with a limit of its own is counted by itself, all
    others together.
    """
    if notification.priority is Priority.URGENT or category.mandatory:
        return None
    own = limits.categories.get(category.code, category.hourly_limit)
    scope, limit = (SHARED, limits.user) if own is None else (category.code, own)
    return (scope, limit) if limit else None


def reached(made: Plan, notification_id: str) -> list[str]:
    """Return, in id order, the users to whom the plan sends the notification: those whom it is counted for."""
    return sorted({one.user_id for one in made.planned if one.notification_id == notification_id})


def held_back(
    made: Plan, notification_id: str, allowed: Collection[str], scope: str, limit: int, *, category: str
) -> Plan:
    """Return the plan in which users who are not allowed get none of the notification, with the reason recorded.

    All deliveries to one user on one channel become one skip. Other notifications in the plan, and the batches, stay
    as they are.
    """
    may = set(allowed)
    stays = [one for one in made.planned if one.notification_id != notification_id or one.user_id in may]
    if len(stays) == len(made.planned):
        return made
    over = [one for one in made.planned if one.notification_id == notification_id and one.user_id not in may]
    detail = {
        "category": category,
        "scope": scope,
        "limit": limit,
        "windowSeconds": int(WINDOW.total_seconds()),
    }
    skipped = [
        Skipped(notification_id, user_id, channel, SkipReason.RATE_LIMITED, detail)
        for user_id, channel in dict.fromkeys((one.user_id, one.channel) for one in over)
    ]
    return Plan(stays, [*made.skipped, *skipped])
