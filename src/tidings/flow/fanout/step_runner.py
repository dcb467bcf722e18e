"""Starts the later steps of notifications that are due: plans their channels with the data of now.

A step, its deliveries and the time of the step after it are stored in one transaction, in which the step is locked. So
each step starts once, whichever process takes it, and a crash leaves it due.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial

from tidings.flow.catalog import Catalog
from tidings.flow.fanout.delivery_ids import DeliveryIds, generate_ids
from tidings.flow.fanout.fan_out import FanOut
from tidings.flow.fanout.page_plan import PagePlan
from tidings.flow.fanout.planner import Plan
from tidings.flow.membership import find_former_members
from tidings.flow.tasks import deliver_tasks
from tidings.model.delivery import PlannedDelivery, Recipient, SkipRecord
from tidings.model.notification import Notification, NotificationState
from tidings.model.priority import Lane
from tidings.model.task import Task
from tidings.model.waiting_step import StepEnd, StepResult, WaitingStep, apply_fulfilled, end_steps, start_step
from tidings.ports.clock import Clock
from tidings.ports.steps import Pair
from tidings.ports.store import Store, Transaction
from tidings.ports.transaction import retry_on_conflict

#: called with result → number of the steps that were due
OnSteps = Callable[[Mapping[StepResult, int]], None]


class StepRunner:
    """Plans the later steps that are due. One per process."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        clock: Clock,
        fan_out: FanOut,
        page_size: int,
        batch_size: int,
        on_steps: OnSteps,
        *,
        bulk_lock: asyncio.Lock,
    ) -> None:
        """Create the runner.

        page_size: steps per transaction. batch_size: deliveries per batch. on_steps: called after the commit.
        bulk_lock: held for each transaction.
        """
        self._bulk_lock = bulk_lock
        self._on_steps = on_steps
        self._store = store
        self._catalog = catalog
        self._clock = clock
        self._fan_out = fan_out
        self._page_size = page_size
        self._batch_size = batch_size

    async def start_due(self) -> int:
        """Start a page of steps that are due. Returns how many were taken; 0 = no more are due."""
        now = self._clock.now()
        async with self._store.read_once() as tx:
            if not await self._store.steps.has_due(tx, now):
                return 0
        async with self._bulk_lock:
            count, tasks = await retry_on_conflict(lambda: self._start_page(now))
        await self._fan_out.publish_batches(tasks)
        return count

    async def _start_page(self, now: datetime) -> tuple[int, Sequence[Task]]:
        async with self._store.transaction() as tx:
            due = await self._store.steps.lock_due(tx, now, self._page_size)
            return len(due), await self._start(tx, due, now) if due else []

    async def _start(self, tx: Transaction, due: Mapping[Pair, Sequence[WaitingStep]], now: datetime) -> Sequence[Task]:
        notification_ids = {notification_id for notification_id, _ in due}
        notifications = {one.id: one for one in await self._store.notifications.get_many(tx, notification_ids)}
        recipients = await self._load_recipients(tx, due, notifications)
        heads = {pair: next(one for one in steps if one.is_waiting) for pair, steps in due.items()}
        conditional = [pair for pair, head in heads.items() if head.unless is not None]
        fulfilled = await self._store.steps.find_fulfilled(tx, conditional, now) if conditional else {}
        engagement = await self._fan_out.load_engagement(
            tx, [(notifications[notification_id], [user_id]) for notification_id, user_id in due], now
        )
        left = await find_former_members(self._store, self._catalog, tx, due, notifications)
        ids: defaultdict[Lane, DeliveryIds] = defaultdict(partial(generate_ids, self._batch_size, now))
        plans: defaultdict[str, Plan] = defaultdict(Plan)
        starting: dict[Pair, WaitingStep] = {}
        changed: list[WaitingStep] = []
        results: Counter[StepResult] = Counter()
        for pair, steps in due.items():
            notification, recipient = notifications[pair[0]], recipients[pair]
            end = _find_end(notification, recipient, has_left=pair in left)
            if end is not None or recipient is None:
                changed += end_steps(steps, end or StepEnd.USER_ERASED, now)
                results[StepResult.CANCELLED] += 1
                continue
            step = heads[pair]
            cancelled = {one.step: one for one in apply_fulfilled(steps, fulfilled.get(pair, ()), now)}
            if step.step in cancelled:
                # the one after it is due at its own time
                changed += cancelled.values()
                results[StepResult.CANCELLED] += 1
                continue
            of_step = self._fan_out.build_plan(
                notification,
                [recipient],
                now,
                ids[notification.priority],
                engagement=engagement,
                step_channels=step.channels,
            )
            starting[pair] = step
            plans[notification.id].planned += of_step.planned
            plans[notification.id].skipped += of_step.skipped
        page_plans = [PagePlan(notifications[key], plan, (), None, is_last=True) for key, plan in plans.items()]
        planned, skipped = await self._limit(tx, page_plans, now)
        reached = {(delivery.notification_id, delivery.user_id) for delivery in planned}
        for pair, step in starting.items():
            changed += start_step(due[pair], step, now, is_planned=pair in reached)
            results[StepResult.STARTED if pair in reached else StepResult.PASSED] += 1
        await self._store.deliveries.add(tx, planned, skipped, now)
        await self._store.steps.save(tx, changed)
        tx.on_commit(partial(self._report, results))
        lanes = {one.batch_id: one.lane for one in planned if one.batch_id is not None}
        return [task for batch_id, lane in lanes.items() for task in deliver_tasks([batch_id], lane, now)]

    async def _limit(
        self, tx: Transaction, page_plans: Sequence[PagePlan], now: datetime
    ) -> tuple[Sequence[PlannedDelivery], Sequence[SkipRecord]]:
        """Return the deliveries and skips within the limits, and add them to the counts of the notifications."""
        # before the limits: a page of a fan-out, too, counts for its notification first
        planned = _count(page_plans)
        await self._store.notifications.add_counts(tx, planned)
        limited = await self._fan_out.limit_later_steps(tx, page_plans, now)
        corrections = {
            key: (deliveries - planned[key][0], skips - planned[key][1])
            for key, (deliveries, skips) in _count(limited).items()
            if (deliveries, skips) != planned[key]
        }
        await self._store.notifications.add_counts(tx, corrections)
        return [one for page in limited for one in page.plan.planned], [
            one for page in limited for one in page.plan.skipped
        ]

    async def _report(self, results: Mapping[StepResult, int]) -> None:
        self._on_steps(results)

    async def _load_recipients(
        self, tx: Transaction, due: Mapping[Pair, Sequence[WaitingStep]], notifications: Mapping[str, Notification]
    ) -> Mapping[Pair, Recipient | None]:
        """Return the recipient of each pair, None for a user that was erased."""
        of_pairs = [(user_id, notifications[notification_id]) for notification_id, user_id in due]
        requests = [(user_id, one.category, one.preference_subject) for user_id, one in of_pairs]
        found = await self._store.audiences.load_recipients(tx, requests)
        return dict(zip(due, found, strict=True))


def _find_end(notification: Notification, recipient: Recipient | None, *, has_left: bool) -> StepEnd | None:
    """Return why no later step of a notification starts for a recipient, None if they do."""
    if notification.state is NotificationState.CANCELLED:
        return StepEnd.NOTIFICATION_CANCELLED
    if notification.superseded_by is not None:
        return StepEnd.SUPERSEDED
    if recipient is None:
        return StepEnd.USER_ERASED
    return StepEnd.LEFT_AUDIENCE if has_left else None


def _count(page_plans: Sequence[PagePlan]) -> Mapping[str, tuple[int, int]]:
    """Return notification id → (deliveries, skips)."""
    return {one.before.id: (len(one.plan.planned), len(one.plan.skipped)) for one in page_plans}
