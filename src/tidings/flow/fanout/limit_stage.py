"""Applies limits to planned pages: counts each notification for its users, and skips what is over a limit.

Everything is counted in the transaction that stores the pages, so that no number of concurrent fan-outs exceeds a
limit. What a later limit refuses is taken back from the earlier ones.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from tidings.flow.catalog import Catalog
from tidings.flow.fanout.page_plan import PagePlan
from tidings.flow.fanout.user_rate_limit import (
    RateLimitPolicy,
    UserLimit,
    apply_limit,
    build_throttle,
    describe_limit,
    is_exempt,
    list_user_limits,
    recipients_of,
    send_collected,
)
from tidings.model.alert import AlertName
from tidings.model.delivery import SkipReason
from tidings.model.notification import Notification
from tidings.ports.alerts import AlertSink
from tidings.ports.store import Store, Transaction

#: how long the alert of the installation's cap is kept. While it is kept, it is not logged again
CAP_ALERT_LASTS = timedelta(days=1)
_HOUR = timedelta(hours=1)


class LimitStage:
    """Applies throttles, hourly limits, frequency caps and the cap of the installation."""

    def __init__(self, store: Store, catalog: Catalog, policy: RateLimitPolicy, alerts: AlertSink) -> None:
        self._store = store
        self._catalog = catalog
        self._policy = policy
        self._alerts = alerts

    def is_limited(self, notification: Notification) -> bool:
        """Return whether a limit of a user can stop a notification."""
        return any(limit is not None and limit.is_enforced for limit in self._list_limits(notification))

    async def send_allowed(self, tx: Transaction, page_plans: Sequence[PagePlan], now: datetime) -> list[PagePlan]:
        """Send what a throttle permits instead of collecting it, where a digest is to collect the excess.

        Call it before the collected items are assigned to digests. Keeps the order. As for `apply`, only plans that won
        the compare-and-set may be passed.
        """
        result = {page_plan.before.id: page_plan for page_plan in page_plans}
        throttled: defaultdict[UserLimit, list[PagePlan]] = defaultdict(list)
        for page_plan in page_plans:
            notification = page_plan.before
            if page_plan.plan.collected and notification.plan.has_overflow_digest:
                category = self._catalog.get_category(notification.category)
                limit = build_throttle(notification, is_enforced=not is_exempt(notification, category))
                if limit is not None:
                    throttled[limit].append(page_plan)
        # in the same order in all processes, which lock the counters
        for limit, group in sorted(throttled.items(), key=lambda pair: pair[0]):
            recipients = {one.before.id: sorted(item.key.user_id for item in one.plan.collected) for one in group}
            allowed = await self._consume(tx, limit, recipients, now)
            for one in group:
                result[one.before.id] = replace(one, plan=send_collected(one.plan, allowed[one.before.id]))
        return list(result.values())

    async def apply(self, tx: Transaction, page_plans: Sequence[PagePlan], now: datetime) -> list[PagePlan]:
        """Count each notification for its recipients, and skip those over a limit. Keeps the order.

        Plans that lost the compare-and-set must not be passed: the worker that stored their page counts the users.
        """
        current = {page_plan.before.id: page_plan for page_plan in page_plans}
        limits = {one.before.id: self._list_limits(one.before) for one in page_plans if one.plan.planned}
        counted: defaultdict[str, list[UserLimit]] = defaultdict(list)
        for position in range(max(map(len, limits.values()), default=0)):
            groups: defaultdict[UserLimit, list[str]] = defaultdict(list)
            for notification_id, of_notification in limits.items():
                limit = of_notification[position]
                if limit is not None and current[notification_id].plan.planned:
                    groups[limit].append(notification_id)
            # in the same order in all processes, which lock the counters
            for limit, notification_ids in sorted(groups.items()):
                current |= await self._apply_one(
                    tx, limit, [current[notification_id] for notification_id in notification_ids], counted, now
                )
                for notification_id in notification_ids:
                    counted[notification_id].append(limit)
        if self._policy.installation_cap and limits:
            current = await self._apply_installation_cap(tx, current, counted, now)
        return list(current.values())

    def _list_limits(self, notification: Notification) -> Sequence[UserLimit | None]:
        return list_user_limits(notification, self._catalog.get_category(notification.category), self._policy)

    async def _apply_one(
        self,
        tx: Transaction,
        limit: UserLimit,
        page_plans: Sequence[PagePlan],
        counted: Mapping[str, Sequence[UserLimit]],
        now: datetime,
    ) -> dict[str, PagePlan]:
        """Return the page plans that changed, by notification. counted: the earlier limits of each notification."""
        recipients = {one.before.id: recipients_of(one.plan, one.before.id) for one in page_plans}
        allowed = await self._consume(tx, limit, recipients, now)
        if not limit.is_enforced:
            return {}
        refused = {
            notification_id: [user_id for user_id in user_ids if user_id not in allowed[notification_id]]
            for notification_id, user_ids in recipients.items()
        }
        users = sorted({user_id for user_ids in refused.values() for user_id in user_ids})
        if not users:
            return {}
        window_ends = await self._find_window_ends(tx, limit, users, now)
        changed = {}
        for page_plan in page_plans:
            notification = page_plan.before
            if not refused[notification.id]:
                continue
            plan = apply_limit(
                page_plan.plan,
                notification.id,
                allowed[notification.id],
                limit.reason,
                describe_limit(limit, notification.category),
                window_ends,
            )
            changed[notification.id] = replace(page_plan, plan=plan)
            await self._take_back(tx, counted[notification.id], refused[notification.id])
        return changed

    async def _consume(
        self, tx: Transaction, limit: UserLimit, recipients: Mapping[str, Collection[str]], now: datetime
    ) -> dict[str, set[str]]:
        """Return notification id → users within the limit. recipients: notification id → users, in counting order.

        Each round counts one notification per user, so a user of several notifications takes several rounds.
        """
        pending: dict[str, list[str]] = {}
        for notification_id, user_ids in recipients.items():
            for user_id in user_ids:
                pending.setdefault(user_id, []).append(notification_id)
        allowed: dict[str, set[str]] = {notification_id: set() for notification_id in recipients}
        counters = self._store.user_rate_limits
        while pending:
            within_limit = await counters.consume(
                tx,
                limit.scope,
                list(pending),
                limit=limit.limit,
                window=limit.window,
                now=now,
                is_enforced=limit.is_enforced,
            )
            for user_id in within_limit:
                allowed[pending[user_id].pop(0)].add(user_id)
            # a user over the limit receives none of the later notifications either
            pending = {user_id: pending[user_id] for user_id in within_limit if pending[user_id]}
        return allowed

    async def _find_window_ends(
        self, tx: Transaction, limit: UserLimit, user_ids: Sequence[str], now: datetime
    ) -> Mapping[str, Mapping[str, object]]:
        """Return user id → what the detail says of the user's window: the count, and when it falls below the limit."""
        stamps = await self._store.user_rate_limits.list_times(tx, limit.scope, user_ids, window=limit.window, now=now)
        return {
            user_id: {
                "count": len(counted),
                "windowEnd": (counted[-limit.limit] + limit.window).isoformat(timespec="seconds"),
            }
            for user_id, counted in stamps.items()
            if len(counted) >= limit.limit
        }

    async def _take_back(self, tx: Transaction, counted: Sequence[UserLimit], user_ids: Sequence[str]) -> None:
        for limit in counted:
            await self._store.user_rate_limits.release(tx, limit.scope, user_ids)

    async def _apply_installation_cap(
        self,
        tx: Transaction,
        page_plans: Mapping[str, PagePlan],
        counted: Mapping[str, Sequence[UserLimit]],
        now: datetime,
    ) -> dict[str, PagePlan]:
        """Count the messages of this hour, and skip those over the cap. Messages on in-app channels do not count."""
        cap, quotas = self._policy.installation_cap, self._store.quotas
        key, day = f"installation:{now:%H}", now.date()
        sizes = {notification_id: self._count_messages(one) for notification_id, one in page_plans.items()}
        if not any(sizes.values()):
            return dict(page_plans)
        used = await quotas.lock_sum(tx, key, day, maximum=cap)
        first_used, is_reached = used, False
        result = dict(page_plans)
        for notification_id, page_plan in page_plans.items():
            notification = page_plan.before
            if is_exempt(notification, self._catalog.get_category(notification.category)):
                used += sum(sizes[notification_id].values())
                continue
            allowed = set()
            for user_id, size in sizes[notification_id].items():
                if used + size <= cap:
                    allowed.add(user_id)
                    used += size
            # users of in-app alone are not counted
            uncounted = set(recipients_of(page_plan.plan, notification_id)) - set(sizes[notification_id])
            refused = sorted(set(sizes[notification_id]) - allowed)
            if not refused:
                continue
            is_reached = True
            hour = now.replace(minute=0, second=0, microsecond=0)
            detail = {
                "category": notification.category,
                "scope": "installation",
                "limit": cap,
                "windowSeconds": int(_HOUR.total_seconds()),
                "count": used,
                "windowEnd": (hour + _HOUR).isoformat(timespec="seconds"),
            }
            plan = apply_limit(
                page_plan.plan,
                notification_id,
                allowed | uncounted,
                SkipReason.RATE_LIMITED,
                detail,
            )
            result[notification_id] = replace(page_plan, plan=plan)
            await self._take_back(tx, counted[notification_id], refused)
        if used > first_used:
            await quotas.add_to_sum(tx, key, day, used - first_used)
        if is_reached:
            tx.on_commit(partial(self._raise_cap_alert, cap))
        return result

    def _count_messages(self, page_plan: PagePlan) -> Mapping[str, int]:
        """Return user id → planned messages that leave this installation."""
        sizes: defaultdict[str, int] = defaultdict(int)
        for delivery in page_plan.plan.planned:
            if self._catalog.get_traits(delivery.channel).needs_contact_point:
                sizes[delivery.user_id] += 1
        return sizes

    async def _raise_cap_alert(self, cap: int) -> None:
        self._alerts.raise_alert(
            AlertName.INSTALLATION_CAP_REACHED,
            f"{cap} messages per hour",
            f"messages were skipped because this installation sends at most {cap} messages per hour; raise "
            "TIDINGS_INSTALLATION_CAP, or find what sends so many",
            lasts=CAP_ALERT_LASTS,
        )
