"""Fan-out: turns a page of one audience, or many small audiences, into deliveries and skips in one transaction.

Notifications to a few named users are planned in the transaction that accepts them (`resolve_recipients`,
`plan_inline`). For all others, state and cursor advance by compare-and-set in the transaction that stores the page. If
another worker stored the page first, or the notification was cancelled, nothing is added.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import NamedTuple

import structlog

from tidings.errors import BackendError
from tidings.flow.catalog import Catalog
from tidings.flow.fanout.collected_items import resolve_collected
from tidings.flow.fanout.delivery_ids import DeliveryIds, generate_ids
from tidings.flow.fanout.limit_stage import LimitStage
from tidings.flow.fanout.limits import RateLimitPolicy
from tidings.flow.fanout.page_plan import PagePlan
from tidings.flow.fanout.planner import Plan, plan_page
from tidings.flow.notifications import NotificationCache
from tidings.flow.tasks import deliver_tasks, next_page_task
from tidings.model.audience import explicit_users_or_none
from tidings.model.awaited_event import NO_OCCURRED, AwaitedEvent, OccurredEvents, list_awaited_events
from tidings.model.channel_engagement import ENGAGEMENT_PERIOD, NO_ENGAGEMENT, EngagementByUser
from tidings.model.delivery import Recipient
from tidings.model.notification import Notification, NotificationState
from tidings.model.priority import Lane, Priority
from tidings.model.subject import find_informed_users
from tidings.model.task import Task
from tidings.model.user_schedule import NO_SCHEDULE_DEFAULTS, ScheduleDefaults
from tidings.ports.alerts import AlertSink, NoAlerts
from tidings.ports.clock import Clock
from tidings.ports.queue import Queue
from tidings.ports.steps import Pair
from tidings.ports.store import Store, Transaction

log = structlog.get_logger(__name__)

#: maximum number of named users for a notification to be planned together with others
MAX_SMALL_AUDIENCE = 100
#: maximum number of recipients planned in the transaction that accepts them; more would delay other calls
MAX_INLINE_RECIPIENTS = 200
#: notifications on a subject that are searched for what a user last heard of it, the newest ones
MAX_HISTORY = 20
#: pages of superseded notifications that are recorded before a newer one is planned
MAX_SUPERSEDED_PAGES = 50
#: (user id, recipient) of each named user, in order; None = there is no such user
ResolvedRecipients = Sequence[tuple[str, Recipient | None]]
#: receives tasks that are ready to run; must not block
OnTasksReady = Callable[[Sequence[Task]], None]
_OPEN_STATES = (NotificationState.ACCEPTED, NotificationState.FANNING_OUT)


def _ignore_tasks(_tasks: Sequence[Task]) -> None:
    """Do nothing; the queue delivers the tasks."""


def build_delivery_tasks(page_plans: Sequence[PagePlan], now: datetime) -> list[Task]:
    """Return the tasks that send the planned deliveries, one per batch."""
    batches = {
        delivery.batch_id: delivery.lane
        for page_plan in page_plans
        for delivery in page_plan.plan.planned
        if delivery.batch_id is not None
    }
    return [task for batch_id, lane in batches.items() for task in deliver_tasks([batch_id], lane, now)]


class _History(NamedTuple):
    """What users heard and did before, as far as the plans of some notifications depend on it."""

    #: notification id → users who last heard the same of its subject
    informed: Mapping[str, Collection[str]]
    engagement: EngagementByUser


class FanOut:
    """Plans notifications page by page. One per process."""

    def __init__(
        self,
        store: Store,
        queue: Queue,
        catalog: Catalog,
        clock: Clock,
        *,
        page_size: int,
        batch_size: int,
        rate_limits: RateLimitPolicy,
        alerts: AlertSink | None = None,
        schedule_defaults: ScheduleDefaults = NO_SCHEDULE_DEFAULTS,
        notification_cache: NotificationCache,
        bulk_lock: asyncio.Lock,
    ) -> None:
        """Create the fan-out stage.

        page_size: users per page. batch_size: deliveries per batch. schedule_defaults: of users without a schedule.
        notification_cache: filled with planned notifications, which are sent next. bulk_lock: held for each page that
        is not urgent.
        """
        self._store = store
        self._queue = queue
        self._catalog = catalog
        self._clock = clock
        self._page_size = page_size
        self._batch_size = batch_size
        self._limits = LimitStage(store, catalog, rate_limits, alerts or NoAlerts())
        self._schedule_defaults = schedule_defaults
        self._notification_cache = notification_cache
        self._bulk_lock = bulk_lock
        #: notifications with their current cursor, so that they are not read again for each page
        self._progress_cache = NotificationCache()

    def evict(self, notification_ids: Collection[str]) -> None:
        """Forget the cached progress of notifications that were superseded."""
        for notification_id in notification_ids:
            self._progress_cache.evict(notification_id)

    def prime_cache(self, notifications: Sequence[Notification]) -> None:
        """Cache notifications that were just accepted and are planned next."""
        for notification in notifications:
            self._progress_cache.put(notification)

    async def plan_next_pages(
        self, notification_ids: Sequence[str], on_tasks_ready: OnTasksReady = _ignore_tasks, *, urgent: bool = False
    ) -> list[Task]:
        """Plan the next page of each notification, small audiences together. Returns the tasks for the pages after.

        on_tasks_ready: called with the delivery tasks just before they are published. urgent: do not take the bulk
        lock.
        """
        lock = nullcontext() if urgent else self._bulk_lock
        open_notifications = await self._load_progress(notification_ids)
        for notification in open_notifications:
            await self._complete_superseded(notification)
        small: list[Notification] = []
        large: list[Notification] = []
        for notification in open_notifications:
            (large if self._small_audience(notification) is None else small).append(notification)
        planning_steps = [
            *(partial(self._plan_small_audiences, chunk) for chunk in self._chunk_by_recipients(small)),
            *(partial(self._plan_large_audience, notification) for notification in large),
        ]
        following: list[Task] = []
        for plan_pages in planning_steps:
            async with lock:
                stored, next_tasks = await self._persist(await plan_pages())
            # after releasing the lock: a queue that hangs must not block others that need the database
            await self._publish(stored, on_tasks_ready)
            following += next_tasks
        return following

    def select_for_inline_planning(self, notifications: Sequence[Notification], now: datetime) -> list[Notification]:
        """Return the notifications to plan while they are accepted: due, with small audiences, and few in total.

        If one of them is urgent, rate-limited ones are excluded: they may wait for a page that counts the same users.
        """
        selected, user_count = [], 0
        has_urgent = any(notification.priority is Lane.URGENT for notification in notifications)
        for notification in notifications:
            user_ids = self._small_audience(notification) if notification.send_at <= now else None
            if user_ids is None or (has_urgent and self._is_rate_limited(notification)):
                continue
            user_count += len(user_ids)
            if user_count > MAX_INLINE_RECIPIENTS:
                break
            selected.append(notification)
        return selected

    async def resolve_recipients(
        self, tx: Transaction, notifications: Sequence[Notification]
    ) -> Mapping[str, ResolvedRecipients]:
        """Return the recipients of each notification with an explicit audience, by notification id."""
        user_ids = {
            notification.id: explicit_users_or_none(notification.audience) or [] for notification in notifications
        }
        requests = [
            (user_id, notification.category, notification.preference_subject)
            for notification in notifications
            for user_id in user_ids[notification.id]
        ]
        recipients = iter(await self._store.audiences.load_recipients(tx, requests))
        return {
            notification_id: [(user_id, next(recipients)) for user_id in ids]
            for notification_id, ids in user_ids.items()
        }

    async def plan_inline(
        self,
        tx: Transaction,
        notifications: Sequence[Notification],
        resolved: Mapping[str, ResolvedRecipients],
        now: datetime,
        happened: Mapping[Pair, OccurredEvents],
    ) -> list[PagePlan]:
        """Plan notifications that are being accepted, with rate limits applied.

        happened: domain events that came before, of digests. The caller stores the notifications, and their deliveries
        with `add_deliveries`.
        """
        history = await self._load_history(tx, notifications, resolved, now)
        page_plans = self._apply_events(self._build_page_plans(notifications, resolved, history, now), happened, now)
        return await self._limits.apply(tx, await self._collect(tx, page_plans, now), now)

    async def limit_later_steps(
        self, tx: Transaction, page_plans: Sequence[PagePlan], now: datetime
    ) -> Sequence[PagePlan]:
        """Apply the limits to the plans of later steps. Their notifications must be locked."""
        return await self._limits.apply(tx, page_plans, now, is_later_step=True)

    async def add_deliveries(self, tx: Transaction, page_plans: Sequence[PagePlan], now: datetime) -> None:
        """Store the deliveries, skips and collected items of page plans."""
        planned = [delivery for page_plan in page_plans for delivery in page_plan.plan.planned]
        skipped = [skip for page_plan in page_plans for skip in page_plan.plan.skipped]
        await self._store.deliveries.add(tx, planned, skipped, now)
        if waiting := [step for page_plan in page_plans for step in page_plan.plan.waiting]:
            # the limits may have skipped all that was planned for a user: then nothing else is sent
            reached = {(delivery.notification_id, delivery.user_id) for delivery in planned}
            # the first of them is due, or was cancelled, although nothing was planned before it
            reached |= {(one.notification_id, one.user_id) for one in waiting if one.cause is not None}
            await self._store.steps.add(
                tx, [step for step in waiting if (step.notification_id, step.user_id) in reached]
            )
        await self._store.digests.add_items(tx, [item for one in page_plans for item in one.plan.collected])
        await self._store.awaited_events.add(tx, [event for one in page_plans for event in one.list_awaited_of_items()])

    async def add_awaited_events(self, tx: Transaction, notifications: Sequence[Notification]) -> None:
        """Store which domain events notifications await that are accepted and planned later."""
        awaited: list[AwaitedEvent] = []
        for notification in notifications:
            if notification.plan.events:
                awaited += list_awaited_events(notification, self._small_audience(notification))
        await self._store.awaited_events.add(tx, awaited)

    async def load_page(
        self, tx: Transaction, notification: Notification, after: str | None
    ) -> tuple[Sequence[Recipient], bool]:
        """Return the next page, and whether more follow. One extra user is read to avoid an empty last page."""
        page = await self._store.audiences.page(
            tx,
            notification.audience,
            category=notification.category,
            subject=notification.preference_subject,
            after=after,
            limit=self._page_size + 1,
        )
        return page[: self._page_size], len(page) > self._page_size

    def build_plan(
        self,
        notification: Notification,
        page: Sequence[Recipient],
        now: datetime,
        ids: DeliveryIds,
        informed: Collection[str] = (),
        engagement: EngagementByUser = NO_ENGAGEMENT,
        step_channels: Sequence[str] | None = None,
        happened: Mapping[str, OccurredEvents] = NO_OCCURRED,
    ) -> Plan:
        """Plan a page of recipients, without rate limits.

        ids: `NO_IDS` if the plan is not stored. informed: users who last heard the same. engagement: see
        `load_engagement`. step_channels: of a later step. happened: user id → domain events that came.
        """
        return plan_page(
            page,
            notification,
            self._catalog.get_category(notification.category),
            channels=self._catalog.channels,
            ids=ids,
            now=now,
            informed=informed,
            engagement=engagement,
            get_traits=self._catalog.get_traits,
            schedule_defaults=self._schedule_defaults,
            preference_defaults=self._catalog.preference_defaults,
            step_channels=step_channels,
            pack_rules=self._catalog.rules,
            happened=happened,
        )

    async def load_engagement(
        self, tx: Transaction, recipients: Iterable[tuple[Notification, Iterable[str]]], now: datetime
    ) -> EngagementByUser:
        """Return what users did recently, if a notification to them selects channels by it.

        recipients: notifications with the ids of users.
        """
        user_ids = {
            user_id
            for notification, of_notification in recipients
            if notification.plan.channel_selection != "all"
            for user_id in of_notification
        }
        if not user_ids:
            return NO_ENGAGEMENT
        return await self._store.audiences.load_engagement(tx, sorted(user_ids), now - ENGAGEMENT_PERIOD)

    async def _load_progress(self, notification_ids: Sequence[str]) -> list[Notification]:
        """Return the notifications that are not completely planned, each once, in the order given."""
        unique_ids = list(dict.fromkeys(notification_ids))
        found = {
            notification_id: cached
            for notification_id in unique_ids
            if (cached := self._progress_cache.get(notification_id))
        }
        if uncached := [notification_id for notification_id in unique_ids if notification_id not in found]:
            async with self._store.read_once() as tx:
                for notification in await self._store.notifications.get_many(tx, uncached):
                    found[notification.id] = notification
        ordered = (found[notification_id] for notification_id in unique_ids if notification_id in found)
        return [notification for notification in ordered if notification.state in _OPEN_STATES]

    def _small_audience(self, notification: Notification) -> Sequence[str] | None:
        """Return the users of a notification if they are few and explicit; None = it is planned page by page."""
        if notification.state is not NotificationState.ACCEPTED:
            return None
        user_ids = explicit_users_or_none(notification.audience)
        return user_ids if user_ids is not None and len(user_ids) <= self._max_small_audience else None

    def _is_rate_limited(self, notification: Notification) -> bool:
        return self._limits.is_limited(notification)

    @property
    def _max_small_audience(self) -> int:
        return min(MAX_SMALL_AUDIENCE, self._page_size)

    def _chunk_by_recipients(self, notifications: Sequence[Notification]) -> Iterator[list[Notification]]:
        """Split notifications with small audiences into chunks of at most a page of users."""
        chunk: list[Notification] = []
        user_count = 0
        for notification in notifications:
            size = len(explicit_users_or_none(notification.audience) or ())
            if chunk and user_count + size > self._page_size:
                yield chunk
                chunk, user_count = [], 0
            chunk.append(notification)
            user_count += size
        if chunk:
            yield chunk

    async def _plan_large_audience(self, notification: Notification) -> list[PagePlan]:
        async with self._store.read_snapshot() as tx:
            page, has_more = await self.load_page(tx, notification, notification.cursor)
            user_ids = [recipient.user_id for recipient in page]
            informed = await self._find_informed(tx, notification, user_ids)
            engagement = await self.load_engagement(tx, [(notification, user_ids)], self._clock.now())
        now = self._clock.now()
        ids = generate_ids(self._batch_size, now)
        plan = self.build_plan(notification, page, now, ids, informed, engagement)
        cursor = page[-1].user_id if page else notification.cursor
        return [PagePlan(notification, plan, page, cursor, not has_more, informed, engagement)]

    async def _plan_small_audiences(self, notifications: Sequence[Notification]) -> list[PagePlan]:
        async with self._store.read_once() as tx:
            resolved = await self.resolve_recipients(tx, notifications)
            history = await self._load_history(tx, notifications, resolved, self._clock.now())
        return self._build_page_plans(notifications, resolved, history, self._clock.now())

    async def _load_history(
        self,
        tx: Transaction,
        notifications: Sequence[Notification],
        resolved: Mapping[str, ResolvedRecipients],
        now: datetime,
    ) -> "_History":
        user_ids = {one.id: [user_id for user_id, _ in resolved[one.id]] for one in notifications}
        return _History(
            {one.id: await self._find_informed(tx, one, user_ids[one.id]) for one in notifications},
            await self.load_engagement(tx, [(one, user_ids[one.id]) for one in notifications], now),
        )

    async def _find_informed(
        self, tx: Transaction, notification: Notification, user_ids: Sequence[str]
    ) -> Collection[str]:
        """Return the users to whom a notification says nothing new of its subject."""
        if notification.subject is None or notification.superseded_by:
            return ()
        if notification.subject_state is None or notification.subject_previous_state is None:
            return ()
        subjects = self._store.subjects
        older = await subjects.list_history(
            tx, notification.subject, before=notification.subject_version, limit=MAX_HISTORY
        )
        if not older:
            return ()
        received = await subjects.list_prior_deliveries(tx, [one.notification_id for one in older], user_ids)
        return find_informed_users(notification.subject_state, notification.subject_previous_state, older, received)

    async def _complete_superseded(self, notification: Notification) -> None:
        """Record the remaining recipients of the superseded notifications on the same subject, as skips.

        Without them it would be unknown who had not heard of the change before. Urgent notifications do not wait.
        """
        if (
            notification.subject is None
            or notification.subject_state is None
            or notification.subject_previous_state is None
            or notification.state is not NotificationState.ACCEPTED
            or notification.priority is Priority.URGENT
        ):
            return
        async with self._store.read_once() as tx:
            older = await self._store.subjects.list_history(
                tx, notification.subject, before=notification.subject_version, limit=MAX_HISTORY
            )
        incomplete = [one.notification_id for one in older if one.is_planning and one.superseded_by]
        for _ in range(MAX_SUPERSEDED_PAGES):
            if not (remaining := await self._load_progress(incomplete)):
                return
            async with self._bulk_lock:
                await self._persist(await self._plan_large_audience(remaining[0]))

    def _build_page_plans(
        self,
        notifications: Sequence[Notification],
        resolved: Mapping[str, ResolvedRecipients],
        history: "_History",
        now: datetime,
    ) -> list[PagePlan]:
        ids: defaultdict[Lane, DeliveryIds] = defaultdict(partial(generate_ids, self._batch_size, now))
        page_plans = []
        for notification in notifications:
            # a user that does not exist was erased after the notification was accepted
            page = [recipient for _, recipient in resolved[notification.id] if recipient is not None]
            of_subject, engagement = history.informed[notification.id], history.engagement
            plan = self.build_plan(notification, page, now, ids[notification.priority], of_subject, engagement)
            page_plans.append(PagePlan(notification, plan, page, None, True, of_subject, engagement))
        return page_plans

    async def _persist(self, page_plans: Sequence[PagePlan]) -> tuple[list[PagePlan], list[Task]]:
        """Store page plans. Returns the plans that were stored, and the tasks for the following pages."""
        now = self._clock.now()
        # all workers lock the rows in the same order, so that they cannot deadlock
        page_plans = sorted(page_plans, key=lambda page_plan: page_plan.before.id)
        async with self._store.transaction() as tx:
            advanced = await self._store.notifications.compare_and_set_progress_many(
                tx, [(page_plan.before, page_plan.after) for page_plan in page_plans]
            )
            unlimited = [page_plan for page_plan in page_plans if page_plan.before.id in advanced]
            current = await self._end_steps_by_events(tx, unlimited, now)
            stored = await self._limits.apply(tx, await self._collect(tx, current, now), now)
            # Correct the counts, which were written without rate limits. The row is locked, so this cannot fail.
            corrections = [
                (first.after, limited.after)
                for first, limited in zip(unlimited, stored, strict=True)
                if limited.plan is not first.plan
            ]
            await self._store.notifications.compare_and_set_progress_many(tx, corrections)
            await self.add_deliveries(tx, stored, now)
            if planned := {one.before.id for one in stored if one.is_last and one.before.plan.events}:
                await self._store.awaited_events.remove_planned(tx, planned)
        following = []
        for page_plan in page_plans:
            if page_plan.before.id not in advanced:
                # another worker planned this page, or it was cancelled: the next task reads the current state
                following.append(next_page_task(page_plan.before, now))
        for page_plan in stored:
            self._notification_cache.put(page_plan.before)
            if not page_plan.is_last:
                self._progress_cache.put(page_plan.after)
                following.append(next_page_task(page_plan.after, now))
        for page_plan in page_plans:
            if page_plan.is_last or page_plan.before.id not in advanced:
                self._progress_cache.evict(page_plan.before.id)
        return stored, following

    async def _end_steps_by_events(
        self, tx: Transaction, page_plans: Sequence[PagePlan], now: datetime
    ) -> Sequence[PagePlan]:
        """Return page plans without the later steps that domain events ended before. The notifications are locked."""
        pairs = [
            (one.before.id, recipient.user_id) for one in page_plans if one.before.plan.events for recipient in one.page
        ]
        if not pairs:
            return page_plans
        return self._apply_events(page_plans, await self._store.awaited_events.find_occurred(tx, pairs), now)

    def _apply_events(
        self, page_plans: Sequence[PagePlan], happened: Mapping[Pair, OccurredEvents], now: datetime
    ) -> list[PagePlan]:
        """Plan the pages again for which an event came. It may be a first step that is not planned now."""
        applied = []
        for one in page_plans:
            user_ids = [recipient.user_id for recipient in one.page]
            of_page = {
                user_id: happened[one.before.id, user_id]
                for user_id in user_ids
                if (one.before.id, user_id) in happened
            }
            if of_page:
                ids = generate_ids(self._batch_size, now)
                plan = self.build_plan(one.before, one.page, now, ids, one.informed, one.engagement, happened=of_page)
                one = replace(one, plan=plan, happened=of_page)
            applied.append(one)
        return applied

    async def _publish(self, stored: Sequence[PagePlan], on_tasks_ready: OnTasksReady) -> None:
        tasks = build_delivery_tasks(stored, self._clock.now())
        on_tasks_ready(tasks)
        await self.publish_batches(tasks)

    async def publish_batches(self, tasks: Sequence[Task]) -> None:
        """Publish the tasks of deliveries that are stored. An outage of the queue is logged."""
        try:
            await self._queue.publish(tasks)
        except BackendError as error:
            # the deliveries are committed; `Reconciler.requeue_stuck` publishes their tasks later
            log.warning("batches_not_published", batches=len(tasks), error=error.message)

    async def _collect(self, tx: Transaction, page_plans: Sequence[PagePlan], now: datetime) -> list[PagePlan]:
        """Open the digests of the collected items, or extend those that are open. Keeps the order.

        As for limits, only plans that won the compare-and-set may be passed.
        """
        page_plans = await self._limits.send_allowed(tx, page_plans, now)
        items = [item for page_plan in page_plans for item in page_plan.plan.collected]
        if not items:
            return list(page_plans)
        opened = await self._store.digests.open(tx, items, now)
        leading = {key for key, digest in opened.items() if digest.is_new}
        assigned = []
        for page_plan in page_plans:
            plan = resolve_collected(page_plan.plan, opened, leading)
            assigned.append(page_plan if plan is page_plan.plan else replace(page_plan, plan=plan))
        return assigned
