"""Applies limits to planned pages: counts each notification, and skips what is over a limit.

Everything is counted in the transaction that stores the pages, so that no number of concurrent fan-outs exceeds a
limit. What a later limit refuses is taken back from the earlier ones.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from tidings.flow.catalog import Catalog
from tidings.flow.fanout.limit_counters import Demands, LimitCounter, MessageCounter, UserCounter
from tidings.flow.fanout.limits import (
    Limit,
    RateLimitPolicy,
    apply_limit,
    build_throttle,
    count_messages,
    is_exempt,
    list_limits,
    list_recipients,
    send_collected,
)
from tidings.flow.fanout.page_plan import PagePlan
from tidings.model.alert import AlertName
from tidings.model.notification import Notification
from tidings.ports.alerts import AlertSink
from tidings.ports.store import Store, Transaction

#: how long the alert of the installation's cap is kept. While it is kept, it is not logged again
CAP_ALERT_LASTS = timedelta(days=1)


class LimitStage:
    """Applies throttles, hourly limits, frequency caps and the cap of the installation."""

    def __init__(self, store: Store, catalog: Catalog, policy: RateLimitPolicy, alerts: AlertSink) -> None:
        self._catalog = catalog
        self._policy = policy
        self._alerts = alerts
        self._user_counter = UserCounter(store)
        self._message_counter = MessageCounter(store)

    def is_limited(self, notification: Notification) -> bool:
        """Return whether a limit of a user can stop a notification."""
        limits = self._list_limits(notification)
        return any(limit is not None and limit.is_enforced and not limit.counts_messages for limit in limits)

    async def send_allowed(self, tx: Transaction, page_plans: Sequence[PagePlan], now: datetime) -> list[PagePlan]:
        """Send what a throttle permits instead of collecting it, where a digest is to collect the excess.

        The excess on channels that the digest does not collect is skipped. Call it before the collected items are
        assigned to digests. Keeps the order. As for `apply`, only plans that won the compare-and-set may be passed.
        """
        current = {page_plan.before.id: page_plan for page_plan in page_plans}
        throttled: defaultdict[Limit, list[PagePlan]] = defaultdict(list)
        for page_plan in page_plans:
            notification = page_plan.before
            if notification.plan.has_overflow_digest and (page_plan.plan.collected or page_plan.plan.planned):
                category = self._catalog.get_category(notification.category)
                limit = build_throttle(notification, is_enforced=not is_exempt(notification, category))
                if limit is not None:
                    throttled[limit].append(page_plan)
        # in the same order in all processes, which lock the counters
        for limit, group in sorted(throttled.items(), key=lambda pair: pair[0]):
            demands = {one.before.id: dict.fromkeys(list_recipients(one.plan), 1) for one in group}
            for page_plan, allowed in await self._apply_one(tx, limit, group, demands, now):
                sent = replace(page_plan, plan=send_collected(page_plan.plan, allowed))
                current[page_plan.before.id] = sent.with_count(limit, allowed)
        return list(current.values())

    async def apply(
        self, tx: Transaction, page_plans: Sequence[PagePlan], now: datetime, *, is_later_step: bool = False
    ) -> list[PagePlan]:
        """Count each notification for its recipients, and skip those over a limit. Keeps the order.

        A throttle that `send_allowed` asked is not asked again.

        Plans that lost the compare-and-set must not be passed: the worker that stored their page counts the users.
        is_later_step: the plans are of later steps, whose notifications were counted for their users before.
        """
        current = {page_plan.before.id: page_plan for page_plan in page_plans}
        limits = {
            one.before.id: self._list_limits(one.before, is_later_step=is_later_step)
            for one in page_plans
            if one.plan.planned
        }
        for position in range(max(map(len, limits.values()), default=0)):
            groups: defaultdict[Limit, list[str]] = defaultdict(list)
            for notification_id, of_notification in limits.items():
                limit = of_notification[position]
                page_plan = current[notification_id]
                if limit is not None and page_plan.plan.planned and not page_plan.has_limit(limit):
                    groups[limit].append(notification_id)
            # in the same order in all processes, which lock the counters
            for limit, notification_ids in sorted(groups.items()):
                group = [current[one] for one in notification_ids]
                demands = {one.before.id: self._count_messages(one) for one in group}
                for page_plan, allowed in await self._apply_one(tx, limit, group, demands, now):
                    current[page_plan.before.id] = page_plan.with_count(limit, allowed)
        return list(current.values())

    def _list_limits(self, notification: Notification, *, is_later_step: bool = False) -> Sequence[Limit | None]:
        category = self._catalog.get_category(notification.category)
        return list_limits(notification, category, self._policy, is_later_step=is_later_step)

    def _select_counter(self, limit: Limit) -> LimitCounter:
        return self._message_counter if limit.counts_messages else self._user_counter

    async def _apply_one(
        self, tx: Transaction, limit: Limit, page_plans: Sequence[PagePlan], demands: Demands, now: datetime
    ) -> Sequence[tuple[PagePlan, Collection[str]]]:
        """Return the plans with skips instead of the deliveries over a limit, each with the users within it."""
        counter = self._select_counter(limit)
        allowed = await counter.consume(tx, limit, demands, now)
        refused = {one: demands[one].keys() - allowed[one] for one in demands}
        users = sorted({user_id for of_page in refused.values() for user_id in of_page})
        details = await counter.describe(tx, limit, users, now) if users else {}
        if users and limit.counts_messages:
            tx.on_commit(partial(self._raise_cap_alert, limit.amount))
        limited: list[tuple[PagePlan, Collection[str]]] = []
        for page_plan in page_plans:
            notification = page_plan.before
            await self._take_back(tx, page_plan, demands[notification.id], refused[notification.id], now)
            of_page = allowed[notification.id]
            plan = apply_limit(page_plan.plan, notification.id, of_page, limit, notification.category, details)
            limited.append((replace(page_plan, plan=plan), of_page))
        return limited

    async def _take_back(
        self,
        tx: Transaction,
        page_plan: PagePlan,
        demand: Mapping[str, int],
        refused: Collection[str],
        now: datetime,
    ) -> None:
        """Take back what earlier limits counted for users whom a later one refused."""
        for limit, user_ids in page_plan.counted:
            if counted := {user_id: demand[user_id] for user_id in sorted(user_ids & set(refused))}:
                await self._select_counter(limit).take_back(tx, limit, counted, now)

    def _count_messages(self, page_plan: PagePlan) -> Mapping[str, int]:
        return count_messages(
            page_plan.plan,
            page_plan.before.id,
            lambda channel: self._catalog.get_traits(channel).needs_contact_point,
        )

    async def _raise_cap_alert(self, cap: int) -> None:
        self._alerts.raise_alert(
            AlertName.INSTALLATION_CAP_REACHED,
            f"{cap} messages per hour",
            f"messages were skipped because this installation sends at most {cap} messages per hour; raise "
            "TIDINGS_INSTALLATION_CAP, or find what sends so many",
            lasts=CAP_ALERT_LASTS,
        )
