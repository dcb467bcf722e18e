"""The flow of a notification, in reading order: accept → fan out → dispatch → deliver → record.

    accept     one transaction (the caller's own, if given) stores notifications and their tasks in the outbox;
               notifications to a few named users are planned in it
    fan out    a page of an audience, or many small audiences → deliveries and skips; the cursor advances with them
    dispatch   committed work → tasks on the queue; `flow.recover` re-enqueues what the queue lost
    deliver    claim under a lease → preflight check → render → send; no transaction is open while sending
    record     outcomes in bulk, fenced by the lease token

Each stage may be repeated after a crash, also by another process. Accept is guarded by the idempotency key, fan-out by
the cursor, deliver by the claim, record by the lease token. Decisions are pure functions next to the stages, which do
the I/O:

    accept     `Pipeline.accept` and `accept_many`
    fan out    `Pipeline.fan_out`, a `FanOut`; what digests collect is accepted later by `Pipeline.digest_closer`
    dispatch   `Pipeline.outbox_relay`, an `OutboxRelay`, for the outbox; `Pipeline.batch_due` for retries and delays
    deliver    `Pipeline.delivery_runner`, a `DeliveryRunner`, with the `DeliverySender` of a worker
    record     the `OutcomeBuffer` of a worker, which calls `Pipeline.record`, an `OutcomeRecorder`
    (cancel)   `Pipeline.cancel` and `withdraw`; `Pipeline.cancellations` for what other processes cancelled or
               superseded

Callbacks are connected in `Pipeline.__init__` and, for the parts of a worker, in `worker.lifecycle` and `Worker`:

    CancellationCoordinator → DeliverySender   `on_stopped`: `mark_stopped`
    DeliverySender → DeliveryRunner            `reload`, before a send whose data is too old
    DeliverySender → OutcomeBuffer             `on_outcome`: `add`; `on_idle`: `flush_soon`
    OutcomeBuffer → OutcomeRecorder            `write`: `record`, which then calls
                                               `DeliveryRunner.on_outcomes_written` and `on_outcomes`, the metrics
    FanOut → LaneConsumer                      `on_tasks_ready`, urgent lane: sends deliveries that were just planned
                                               without waiting for the queue
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial

import structlog

from tidings.errors import BackendError, ValidationFailed
from tidings.flow.accept.audience_checks import reject_unknown_arguments
from tidings.flow.accept.saved_audiences import (
    expand_audience,
    expand_requests,
    list_required_users,
    reject_empty_audiences,
)
from tidings.flow.accept.subjects import order_by_subject
from tidings.flow.accept.validation import build_notification, unknown_users_error
from tidings.flow.catalog import Catalog
from tidings.flow.deliver.cancellation import CancellationCoordinator
from tidings.flow.deliver.freshness import MAX_STALENESS
from tidings.flow.deliver.lease_claimer import DeliveryRunner
from tidings.flow.digest.closer import DigestCloser, OnClosed
from tidings.flow.dispatch.outbox_relay import OutboxRelay
from tidings.flow.fanout.delivery_ids import NO_IDS
from tidings.flow.fanout.dry_run import DryRunEstimate, DryRunResult
from tidings.flow.fanout.fan_out import FanOut, ResolvedRecipients, build_delivery_tasks
from tidings.flow.fanout.limits import RateLimitPolicy, is_exempt
from tidings.flow.fanout.planner import Plan
from tidings.flow.fanout.step_runner import OnSteps, StepRunner
from tidings.flow.notifications import NotificationCache
from tidings.flow.record.outcome_recorder import OutcomeRecorder
from tidings.flow.record.soft_refusals import SoftRefusalRecorder
from tidings.flow.record.unanswered_messages import UnansweredMessages
from tidings.flow.tasks import fan_out_task
from tidings.model.audience import everyone
from tidings.model.awaited_event import OccurredEvents
from tidings.model.delivery import AttemptResult, Recipient
from tidings.model.ids import new_id
from tidings.model.notification import Notification, StopReason
from tidings.model.request import NotifyRequest
from tidings.model.suppression import SoftBouncePolicy
from tidings.model.task import Task
from tidings.model.template import Category, RenderedMessage
from tidings.model.user_schedule import NO_SCHEDULE_DEFAULTS, ScheduleDefaults
from tidings.ports.alerts import AlertSink, NoAlerts
from tidings.ports.clock import Clock
from tidings.ports.queue import Queue
from tidings.ports.renderer import Renderer
from tidings.ports.steps import Pair
from tidings.ports.store import Store, Transaction

log = structlog.get_logger(__name__)

#: A notification that supersedes unsent ones is planned this much later, if other processes may hold those: by then
#: they do not send them any more, so that the older message never arrives after the newer one.
REPLACEMENT_DELAY = MAX_STALENESS


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """Batch sizes and durations of the flow."""

    #: users per page of a fan-out
    page_size: int = 1000
    #: deliveries per task
    batch_size: int = 200
    #: maximum number of waiting batches that one claim takes
    batches_per_claim: int = 5
    #: maximum number of waiting fan-outs that are planned together
    fan_outs_per_step: int = 100
    #: maximum number of outbox rows that are relayed together
    relay_batch_size: int = 500
    #: with a shared queue: minimum age of an outbox row before other processes publish it
    relay_grace_period: timedelta = timedelta(seconds=2)
    #: how long a claim is valid
    lease_duration: timedelta = timedelta(seconds=60)
    #: quiet hours and time zone of users without a schedule
    schedule_defaults: ScheduleDefaults = NO_SCHEDULE_DEFAULTS
    #: limits of notifications and messages
    rate_limits: RateLimitPolicy = field(default_factory=RateLimitPolicy)
    #: no other process can send from this database
    is_exclusive: bool = False
    #: channels whose providers report what became of messages
    channels_with_hooks: Collection[str] = ()
    #: channel → the categories of which devices report that a message arrived
    receipt_categories: Mapping[str, Collection[str]] = field(default_factory=dict)
    #: by channel, for refusals during a send
    soft_bounce_policies: Mapping[str, SoftBouncePolicy] = field(default_factory=dict)

    def has_receipts(self, channel: str, category: str) -> bool:
        """Return whether the arrival of messages is reported. If not, what was handed over counts as delivered."""
        return channel in self.channels_with_hooks or category in self.receipt_categories.get(channel, ())


@dataclass(frozen=True, slots=True)
class PipelineMetrics:
    """What counts the results of the stages. Called after each commit."""

    #: with each list of recorded outcomes
    on_outcomes: Callable[[Sequence[AttemptResult]], None] = lambda _attempts: None
    #: with the digests of each transaction
    on_digests_closed: OnClosed = lambda _closed: None
    #: with the later steps that were due
    on_steps: OnSteps = lambda _results: None


_NO_METRICS = PipelineMetrics()


class Pipeline:
    """Accepts and cancels notifications, and owns the other stages. One per process. Depends on ports only."""

    def __init__(
        self,
        store: Store,
        queue: Queue,
        catalog: Catalog,
        renderer: Renderer,
        clock: Clock,
        *,
        config: PipelineConfig,
        metrics: PipelineMetrics = _NO_METRICS,
        alerts: AlertSink | None = None,
    ) -> None:
        """Connect the stages. alerts: for operators."""
        self.store = store
        self.queue = queue
        self.catalog = catalog
        self.clock = clock
        self.config = config
        self._renderer = renderer
        self._metrics = metrics
        self._alerts = alerts or NoAlerts()
        #: accepted or planned by this process, which will probably also send their deliveries
        self._notification_cache = NotificationCache()
        # Held for one bulk claim or one page at a time. Parallel bulk statements would be no faster, and urgent work,
        # which does not take this lock, would compete with all of them for the database. Recording outcomes does not
        # take it either, or leases would expire.
        self._bulk_lock = asyncio.Lock()
        self.outbox_relay = OutboxRelay(
            store, queue, clock, batch_size=config.relay_batch_size, grace_period=config.relay_grace_period
        )
        self.cancellations = CancellationCoordinator(store, is_exclusive=config.is_exclusive)
        self.delivery_runner = DeliveryRunner(
            store,
            catalog,
            clock,
            lease_duration=config.lease_duration,
            notification_cache=self._notification_cache,
            bulk_lock=self._bulk_lock,
        )
        self.fan_out = self._create_fan_out()
        self.step_runner = self._create_step_runner()
        self.digest_closer = DigestCloser(
            store,
            catalog,
            renderer,
            clock,
            self._accept_digests,
            bulk_lock=self._bulk_lock,
            on_closed=metrics.on_digests_closed,
        )
        self._recorder = self._create_recorder()
        #: whether a worker of this process consumes the queue
        self.has_local_consumer = False
        #: when the background tasks of this process's worker last ran, for its heartbeat
        self.last_tick_at: datetime | None = None

    def _create_fan_out(self) -> FanOut:
        return FanOut(
            self.store,
            self.queue,
            self.catalog,
            self.clock,
            page_size=self.config.page_size,
            batch_size=self.config.batch_size,
            rate_limits=self.config.rate_limits,
            alerts=self._alerts,
            schedule_defaults=self.config.schedule_defaults,
            notification_cache=self._notification_cache,
            bulk_lock=self._bulk_lock,
        )

    def _create_step_runner(self) -> StepRunner:
        return StepRunner(
            self.store,
            self.catalog,
            self.clock,
            self.fan_out,
            self.config.page_size,
            self.config.batch_size,
            self._metrics.on_steps,
            bulk_lock=self._bulk_lock,
        )

    def _create_recorder(self) -> OutcomeRecorder:
        channels_with_hooks = self.config.channels_with_hooks
        return OutcomeRecorder(
            self.store,
            self.catalog,
            self.clock,
            self._alerts,
            unanswered=UnansweredMessages(self.store.receipts, channels_with_hooks),
            soft_refusals=SoftRefusalRecorder(self.store, self.config.soft_bounce_policies),
            is_delivered_when_sent=lambda channel, category: not self.config.has_receipts(channel, category),
            # not planned inline, as recording must be short
            accept_notices=partial(self._accept, plan_inline=False),
            on_recorded=self._on_recorded,
        )

    def _on_recorded(self, rows: Sequence[AttemptResult]) -> None:
        self.delivery_runner.on_outcomes_written(rows)
        self._metrics.on_outcomes(rows)

    # 1 accept -------------------------------------------------------------------------------------------------------

    async def accept(self, tx: Transaction, request: NotifyRequest) -> Notification:
        """Validate and store a notification in a transaction. It is accepted once the transaction commits.

        After the commit of a transaction of the store, this process waits until no older notification on the same
        subject is sent any more. Raises ValidationFailed naming each wrong field and the fix.
        """
        # not planned inline: planning locks rate-limit counters, and the caller's transaction may stay open for long
        [result] = await self._accept(tx, [request], plan_inline=False)
        if isinstance(result, ValidationFailed):
            raise result
        return result

    async def accept_many(
        self, tx: Transaction, requests: Sequence[NotifyRequest]
    ) -> list[Notification | ValidationFailed]:
        """Accept notifications together, in few statements. Returns a result per request, in order.

        Notifications to a few named users are planned as well, so the transaction must end soon. An invalid request
        yields a ValidationFailed and does not affect the others.
        """
        return await self._accept(tx, requests, plan_inline=True)

    async def _accept(
        self, tx: Transaction, requests: Sequence[NotifyRequest], *, plan_inline: bool
    ) -> list[Notification | ValidationFailed]:
        now = self.clock.now()
        expanded = await expand_requests(self.store, tx, requests)
        results = [
            request if isinstance(request, ValidationFailed) else self._try_build_notification(request, now)
            for request in expanded
        ]
        valid = [result for result in results if isinstance(result, Notification)]
        inline = self.fan_out.select_for_inline_planning(valid, now) if plan_inline else []
        resolved = await self.fan_out.resolve_recipients(tx, inline) if inline else {}
        results = await self._reject_unknown_users(tx, requests, results, resolved)
        results = await reject_unknown_arguments(tx, results, self.catalog.audiences)
        results = await reject_empty_audiences(self.store, tx, requests, results)
        accepted = [result for result in results if isinstance(result, Notification)]
        if accepted:
            order = await order_by_subject(
                self.store, tx, accepted, _ids_including_below(requests, results), _find_spans(requests, results)
            )
            delayed = order.replacing if plan_inline and not self.config.is_exclusive else frozenset()
            accepted = [_delay(notification, now, delayed) for notification in order.notifications]
            ordered = {notification.id: notification for notification in accepted}
            results = [ordered[result.id] if isinstance(result, Notification) else result for result in results]
            inline = [one for one in accepted if one.id in resolved and one.id not in delayed]
            if order.superseded:
                stopped = {older: StopReason(newer) for older, newer in order.superseded.items()}
                tx.on_commit(partial(self._stop_committed, stopped, wait=not plan_inline))
            await self._store_accepted(tx, accepted, inline, resolved, now)
        return results

    async def _store_accepted(
        self,
        tx: Transaction,
        accepted: Sequence[Notification],
        inline: Sequence[Notification],
        resolved: Mapping[str, ResolvedRecipients],
        now: datetime,
        happened: Mapping[Pair, OccurredEvents] | None = None,
    ) -> None:
        """Store notifications with their tasks. inline: those of them that are planned at once, for `resolved`.

        happened: domain events that came while digests collected.
        """
        page_plans = await self.fan_out.plan_inline(tx, inline, resolved, now, happened or {})
        planned_ids = {notification.id for notification in inline}
        unplanned = [notification for notification in accepted if notification.id not in planned_ids]
        await self.store.notifications.add_many(tx, [*(page_plan.after for page_plan in page_plans), *unplanned])
        await self.fan_out.add_deliveries(tx, page_plans, now)
        await self.fan_out.add_awaited_events(tx, unplanned)
        tasks = [
            *build_delivery_tasks(page_plans, now),
            *(fan_out_task(notification, now) for notification in unplanned),
        ]
        await self.store.outbox.add(tx, tasks)
        if due := [task for task in tasks if task.due_at <= now]:
            tx.on_commit(partial(self._publish_committed, due, inline, unplanned))

    async def _accept_digests(
        self,
        tx: Transaction,
        notifications: Sequence[Notification],
        recipients: Mapping[str, Recipient],
        now: datetime,
        happened: Mapping[Pair, OccurredEvents],
    ) -> None:
        """Accept the notifications of digests, each to one user, and plan them.

        recipients: by notification id. happened: domain events that came while the digests collected.
        """
        resolved = {key: [(recipient.user_id, recipient)] for key, recipient in recipients.items()}
        await self._store_accepted(tx, notifications, notifications, resolved, now, happened)

    def _try_build_notification(self, request: NotifyRequest, now: datetime) -> Notification | ValidationFailed:
        try:
            return build_notification(request, self.catalog, self._renderer, notification_id=new_id(now), now=now)
        except ValidationFailed as error:
            return error

    async def _reject_unknown_users(
        self,
        tx: Transaction,
        requests: Sequence[NotifyRequest],
        results: Sequence[Notification | ValidationFailed],
        resolved: Mapping[str, ResolvedRecipients],
    ) -> list[Notification | ValidationFailed]:
        """Replace notifications that mention unknown users by an error. One query for all users not in `resolved`."""
        mentioned = [
            list_required_users(request.audience, result.audience) if isinstance(result, Notification) else []
            for request, result in zip(requests, results, strict=True)
        ]
        recipients = {user_id: recipient for pairs in resolved.values() for user_id, recipient in pairs}
        unresolved = list(dict.fromkeys(user_id for ids in mentioned for user_id in ids if user_id not in recipients))
        unknown = set(await self.store.users.missing_ids(tx, unresolved)) if unresolved else set()
        unknown.update(user_id for user_id, recipient in recipients.items() if recipient is None)
        unknown_ids = [[user_id for user_id in ids if user_id in unknown] for ids in mentioned]
        return [unknown_users_error(ids) if ids else result for result, ids in zip(results, unknown_ids, strict=True)]

    async def _publish_committed(
        self, tasks: Sequence[Task], planned: Sequence[Notification], unplanned: Sequence[Notification]
    ) -> None:
        """Publish tasks right after the commit. The relay would publish them later, after another query."""
        if self.has_local_consumer:
            self.fan_out.prime_cache(unplanned)
            for notification in planned:
                self._notification_cache.put(notification)
        if self.has_local_consumer or self.queue.is_shared:
            await self.outbox_relay.publish(tasks)

    async def _stop_committed(self, stopped: Mapping[str, StopReason], *, wait: bool) -> None:
        """Stop the sends of notifications that were superseded or withdrawn. wait: in every process, before it returns.

        A bulk request does not wait, because it would delay the other callers in its transaction. What it accepted is
        planned only after `REPLACEMENT_DELAY`.
        """
        self.fan_out.evict(list(stopped))
        for notification_id in stopped:
            self._notification_cache.evict(notification_id)
        if wait:
            try:
                await self.cancellations.stop_everywhere(stopped, has_local_consumer=self.has_local_consumer)
            except BackendError as error:
                # committed all the same; workers learn of it before their next sends
                log.warning("end_of_sends_not_confirmed", notifications=len(stopped), error=error.message)
        else:
            self.cancellations.notify_local(stopped)

    async def submit(self, request: NotifyRequest) -> Notification:
        """Accept a notification in a transaction of its own. Raises as `accept`."""
        async with self.store.transaction() as tx:
            return await self.accept(tx, request)

    async def dry_run(self, tx: Transaction, request: NotifyRequest) -> DryRunResult:
        """Estimate the effect of a notification without storing anything. Raises as `accept`.

        The rules are asked as of when it is due, and those of later steps as of when they start at the earliest, with
        the users as they are now.
        """
        now = self.clock.now()
        audience = await expand_audience(self.store, tx, request.audience)
        notification = build_notification(
            replace(request, audience=audience), self.catalog, self._renderer, notification_id=new_id(now), now=now
        )
        results = await self._reject_unknown_users(tx, [request], [notification], {})
        results = await reject_unknown_arguments(tx, results, self.catalog.audiences)
        [result] = await reject_empty_audiences(self.store, tx, [request], results)
        if isinstance(result, ValidationFailed):
            raise result
        total = await self.store.audiences.estimate_size(tx, notification.audience)
        planned_at = max(now, notification.send_at)

        def plan_step(recipient: Recipient, channels: Sequence[str], at: datetime) -> Plan:
            return self.fan_out.build_plan(notification, [recipient], at, NO_IDS, step_channels=channels)

        exempt = is_exempt(notification, self.catalog.get_category(notification.category))
        estimate = DryRunEstimate(total, planned_at, plan_step, notification.plan, is_exempt=exempt)
        cursor = None
        while not estimate.is_complete:
            page, has_more = await self.fan_out.load_page(tx, notification, cursor)
            user_ids = [recipient.user_id for recipient in page]
            engagement = await self.fan_out.load_engagement(tx, [(notification, user_ids)], planned_at)
            plan = self.fan_out.build_plan(notification, page, planned_at, NO_IDS, engagement=engagement)
            estimate.add_page(page, plan)
            if not has_more:
                break
            cursor = page[-1].user_id
        return estimate.result()

    def render_sample(self, request: NotifyRequest, channel: str) -> tuple[RenderedMessage, Category]:
        """Return the message of a request on a channel in the fallback locale, and its category. Raises as `accept`."""
        now = self.clock.now()
        # the message does not depend on the audience, which may mention saved ones
        request = replace(request, audience=everyone())
        notification = build_notification(request, self.catalog, self._renderer, notification_id=new_id(now), now=now)
        template = self.catalog.get_template(notification.template_code)
        message = self._renderer.render(template, notification, "en", "UTC", channel=channel)
        return message, self.catalog.get_category(notification.category)

    async def cancel(self, notification_id: str) -> None:
        """Cancel a notification. Once this returns, no process starts another send of it. Idempotent.

        Raises NotFound, or Conflict if everything has been sent already.
        """
        await self.cancellations.cancel(notification_id, has_local_consumer=self.has_local_consumer)

    async def withdraw(self, tx: Transaction, subject: str) -> None:
        """Cancel what is unsent of the notifications on a subject, and on the subjects below it.

        After the commit of a transaction of the store, this process waits until nothing of them is sent any more.
        """
        await self.store.subjects.lock(tx, [subject])
        withdrawn = await self.store.subjects.withdraw(tx, subject)
        if withdrawn:
            await self.store.outbox.remove(tx, withdrawn)
            tx.on_commit(partial(self._stop_committed, dict.fromkeys(withdrawn, StopReason()), wait=True))

    # 3 dispatch -----------------------------------------------------------------------------------------------------

    async def batch_due(self) -> int:
        """Group a page of due retries and delayed deliveries into batches and publish their tasks.

        Returns how many batches; 0 = no more are due.
        """
        await self.delivery_runner.release_unstarted_claims()
        now = self.clock.now()
        async with self.store.read_once() as tx:
            if not await self.store.deliveries.has_due(tx, now):
                return 0
        async with self._bulk_lock, self.store.transaction() as tx:
            # as many as one claim takes
            tasks = await self.store.deliveries.batch_due(
                tx, now, self.config.batch_size, max_batches=self.config.batches_per_claim
            )
        await self.queue.publish(tasks)
        return len(tasks)

    async def close_due_digests(self) -> int:
        """Close the digests that are due, as one notification each. Returns how many."""
        total = 0
        while closed := await self.digest_closer.close_due():
            total += closed
        return total

    # 5 record -------------------------------------------------------------------------------------------------------

    async def record(self, attempts: Sequence[AttemptResult]) -> None:
        """Record outcomes in one transaction. Raises BackendError, with nothing written, if the database fails."""
        await self._recorder.record(attempts)


def _delay(notification: Notification, now: datetime, delayed: Collection[str]) -> Notification:
    if notification.id not in delayed:
        return notification
    return replace(notification, send_at=max(notification.send_at, now + REPLACEMENT_DELAY))


def _ids_including_below(
    requests: Sequence[NotifyRequest], results: Sequence[Notification | ValidationFailed]
) -> Collection[str]:
    return {
        result.id
        for request, result in zip(requests, results, strict=True)
        if isinstance(result, Notification) and request.subject is not None and request.subject.includes_below
    }


def _find_spans(
    requests: Sequence[NotifyRequest], results: Sequence[Notification | ValidationFailed]
) -> Mapping[str, int]:
    """Return the spans of the default versions: notification id → span."""
    return {
        result.id: request.default_version.span
        for request, result in zip(requests, results, strict=True)
        if isinstance(result, Notification) and request.default_version is not None
    }
