"""Limits: which ones count a notification, and how a plan changes for users over a limit. Pure."""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import MappingProxyType
from typing import Self

from tidings.flow.fanout.planner import Plan
from tidings.model.delivery import PlannedDelivery, SkipReason, SkipRecord
from tidings.model.digest import CollectedItem
from tidings.model.frequency_cap import FrequencyCap, parse_frequency_caps
from tidings.model.notification import Notification
from tidings.model.priority import Priority
from tidings.model.template import Category

#: length of the sliding window of the hourly limits
WINDOW = timedelta(hours=1)
#: scope under which all categories without a limit of their own are counted together
DEFAULT_SCOPE = ""


@dataclass(frozen=True, slots=True)
class RateLimitPolicy:
    """The numbers of notifications that users may receive. The default has no limits."""

    #: per `WINDOW`, for all categories without a limit of their own together; 0 = no limit
    per_user: int = 0
    #: category → limit of its own per `WINDOW`, which overrides the one declared by its pack; 0 = no limit
    per_category: Mapping[str, int] = field(default_factory=dict)
    #: for all categories together
    frequency_caps: Sequence[FrequencyCap] = ()
    #: messages of this installation per hour; 0 = no cap
    installation_cap: int = 0

    @classmethod
    def parse(
        cls,
        user_limit: int,
        category_limits: Sequence[str],
        frequency_caps: Sequence[str] = (),
        installation_cap: int = 0,
    ) -> Self:
        """Return the policy for the settings.

        category_limits: a list of `CATEGORY=20`; if a category occurs twice, the last limit applies. frequency_caps: a
        list of `3/day`. Raises ValueError for an item of another form.
        """
        pairs = (item.partition("=") for item in category_limits)
        return cls(
            user_limit,
            {category.strip(): int(number) for category, _, number in pairs},
            parse_frequency_caps(frequency_caps),
            installation_cap,
        )


@dataclass(frozen=True, slots=True, order=True)
class Limit:
    """One limit: what it counts together, and how much of it is allowed in a window."""

    #: what is counted together; also the order in which counters are locked
    scope: str
    amount: int
    window: timedelta
    #: False: the notification is counted, and sent also over the limit
    is_enforced: bool
    reason: SkipReason
    #: False: a notification counts once for each of its users, in a sliding window of the user. True: each message
    #: that leaves this installation counts, to all users together, in a window that begins with the clock hour
    counts_messages: bool = False
    #: what the detail of a skip says of the scope, name → value
    described: tuple[tuple[str, str], ...] = ()


def list_limits(
    notification: Notification, category: Category, policy: RateLimitPolicy, *, is_later_step: bool = False
) -> Sequence[Limit | None]:
    """Return the limits that count a notification, in the order in which they are asked; None = one does not apply.

    The positions are those of all notifications: throttle, hourly limit, one for each frequency cap, and the cap of the
    installation. Urgent notifications and mandatory categories are never limited. The hourly limit does not count them,
    the others do. A later step counts for the cap of the installation alone: the notification was counted for its users
    when its first step was planned.
    """
    is_enforced = not is_exempt(notification, category)
    installation = None
    if policy.installation_cap:
        installation = Limit(
            "installation", policy.installation_cap, WINDOW, is_enforced, SkipReason.RATE_LIMITED, counts_messages=True
        )
    if is_later_step:
        return (installation,)
    hourly = limit_scope(notification, category, policy)
    return (
        build_throttle(notification, is_enforced=is_enforced),
        None if hourly is None else Limit(*hourly, WINDOW, True, SkipReason.RATE_LIMITED),
        *(
            Limit(f"cap:{cap.period}", cap.limit, cap.window, is_enforced, SkipReason.RATE_LIMITED)
            for cap in policy.frequency_caps
        ),
        installation,
    )


def is_exempt(notification: Notification, category: Category) -> bool:
    """Return whether limits never stop a notification: it is urgent, or its category is mandatory."""
    return notification.priority is Priority.URGENT or bool(category.mandatory)


def build_throttle(notification: Notification, *, is_enforced: bool) -> Limit | None:
    """Return the limit of a notification's own throttle: per template and value of the key."""
    throttle = notification.plan.throttle
    if throttle is None:
        return None
    key = throttle.key_value or ""
    # hashed: the value of the key may be long, and is data of the host product
    digest = hashlib.blake2b(f"{notification.template_code}\0{key}".encode(), digest_size=16).hexdigest()
    return Limit(
        f"throttle:{digest}",
        throttle.limit,
        timedelta(seconds=throttle.window_seconds),
        is_enforced,
        SkipReason.THROTTLED,
        described=(("template", notification.template_code), ("key", key)),
    )


def limit_scope(notification: Notification, category: Category, policy: RateLimitPolicy) -> tuple[str, int] | None:
    """Return the scope of the hourly limit of a notification, and that limit; None = it is not counted.

    Urgent notifications and mandatory categories are never limited. A category with a limit of its own is counted by
    itself, all others together.
    """
    if is_exempt(notification, category):
        return None
    own = policy.per_category.get(category.code, category.hourly_limit)
    scope, limit = (DEFAULT_SCOPE, policy.per_user) if own is None else (category.code, own)
    return (scope, limit) if limit else None


def count_messages(plan: Plan, notification_id: str, leaves_installation: Callable[[str], bool]) -> Mapping[str, int]:
    """Return the users with a planned delivery of the notification, in id order → messages that leave the installation.

    leaves_installation: by channel.
    """
    counts = Counter[str]()
    for delivery in plan.planned:
        if delivery.notification_id == notification_id:
            counts[delivery.user_id] += leaves_installation(delivery.channel)
    return dict(sorted(counts.items()))


def list_recipients(plan: Plan) -> Sequence[str]:
    """Return the users for whom something is planned or collected, in id order."""
    reached = {delivery.user_id for delivery in plan.planned} | {item.key.user_id for item in plan.collected}
    return sorted(reached)


def select_allowed(
    demands: Mapping[str, Mapping[str, int]], limit: Limit, used: int
) -> tuple[Mapping[str, set[str]], int]:
    """Select the users whom a limit of messages permits: all of a user's messages of a notification, or none of them.

    demands: notification id → user id → messages. used: what was counted before. Returns notification id → users within
    the limit, and what is counted then.
    """
    allowed: dict[str, set[str]] = {}
    for notification_id, of_users in demands.items():
        allowed[notification_id] = set()
        for user_id, amount in of_users.items():
            if not amount or not limit.is_enforced or used + amount <= limit.amount:
                allowed[notification_id].add(user_id)
                used += amount
    return allowed, used


def describe_limit(limit: Limit, category: str) -> dict[str, object]:
    """Return the detail of a skip for a limit, without what differs between users."""
    return {
        "category": category,
        "scope": limit.scope.partition(":")[0],
        "limit": limit.amount,
        "windowSeconds": int(limit.window.total_seconds()),
        **dict(limit.described),
    }


def apply_limit(
    plan: Plan,
    notification_id: str,
    allowed: Collection[str],
    limit: Limit,
    category: str,
    detail_of_users: Mapping[str, Mapping[str, object]] = MappingProxyType({}),
) -> Plan:
    """Return the plan with skips instead of the notification's deliveries to users who are not in `allowed`.

    detail_of_users: user id → what is added to the detail. All deliveries to one user on one channel become one skip.
    Other notifications in the plan, and the batch ids, remain unchanged.
    """
    allowed_ids = set(allowed)
    kept: list[PlannedDelivery] = []
    over_limit: list[PlannedDelivery] = []
    for delivery in plan.planned:
        is_kept = delivery.notification_id != notification_id or delivery.user_id in allowed_ids
        (kept if is_kept else over_limit).append(delivery)
    if not over_limit:
        return plan
    detail = describe_limit(limit, category)
    skipped = [
        SkipRecord(notification_id, user_id, channel, limit.reason, {**detail, **detail_of_users.get(user_id, {})})
        for user_id, channel in dict.fromkeys((delivery.user_id, delivery.channel) for delivery in over_limit)
    ]
    return replace(plan, planned=kept, skipped=[*plan.skipped, *skipped])


def send_collected(plan: Plan, allowed: Collection[str]) -> Plan:
    """Return the plan in which the collected items of the users in `allowed` are sent at once."""
    planned, skipped, collected = list(plan.planned), list(plan.skipped), list[CollectedItem]()
    for item in plan.collected:
        if item.key.user_id in allowed:
            planned.extend(item.deliveries)
            skipped.extend(item.skips)
        else:
            collected.append(item)
    return replace(plan, planned=planned, skipped=skipped, collected=collected)
