"""The map of Tidings, in reading order: accept → fan out → dispatch → deliver → record.

    accept     one transaction: the notification and the task that announces it (the caller's own, if given)
    fan_out    a page of the audience → deliveries and skips, the cursor moves in the same transaction
    dispatch   committed work → tasks on the queue; what the queue lost is found again by `flow.recovery`
    deliver    claim under a lease → look again → render → send; no transaction is open while sending
    record     outcomes in bulk, fenced by the lease

Each step may be repeated after a crash: accept is guarded by the idempotency key, fan_out by the cursor, deliver by the
claim, record by the lease token. Decisions live in pure functions next to the steps; this file loads, calls, saves.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import structlog

from tidings.errors import BackendError, Conflict, Invalid, NotFound
from tidings.flow.deliver.recheck import AUDIENCE_TRUSTED_FOR, is_stale
from tidings.flow.deliver.send import Job, Sender
from tidings.flow.dispatch.tasks import deliver_tasks, fan_out_task
from tidings.flow.intake.accept import accepted, explicit_ids
from tidings.flow.intake.catalog import Catalog
from tidings.flow.plan.plan import Plan, plan
from tidings.flow.recent import Recent
from tidings.flow.record.settle import settled
from tidings.flow.target.preview import Preview, Tally
from tidings.model.delivery import Attempted, Due, Recipient
from tidings.model.ids import new_id
from tidings.model.notification import Notification, NotificationState
from tidings.model.request import NotifyRequest
from tidings.model.task import Task
from tidings.ports.clock import Clock
from tidings.ports.queue import Queue
from tidings.ports.store import Store, Transaction
from tidings.ports.wording import Wording

log = structlog.get_logger(__name__)

#: how long a cancellation waits for another process's worker to learn of it, in seconds
CANCEL_PATIENCE = 5.0
_OPEN = (NotificationState.ACCEPTED, NotificationState.FANNING_OUT)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is taken in one go."""

    #: users per page of a fan-out
    page: int = 1000
    #: deliveries per task
    batch: int = 200
    #: tasks claimed together when they wait anyway
    claim: int = 5
    #: outbox rows relayed together
    relay: int = 500
    #: how long a claim holds
    lease: timedelta = timedelta(seconds=60)


class Pipeline:
    """The steps. One per process; needs nothing but ports."""

    def __init__(
        self,
        store: Store,
        queue: Queue,
        catalog: Catalog,
        wording: Wording,
        clock: Clock,
        *,
        sizes: Sizes,
        observe: Callable[[Sequence[Attempted]], None] = lambda _attempts: None,
    ) -> None:
        self.store = store
        self.queue = queue
        self.catalog = catalog
        self.clock = clock
        self.sizes = sizes
        self._wording = wording
        self._observe = observe
        #: where each fan-out stands; only `fan_out` and `accept` write it
        self._planning = Recent()
        #: what never changes of a notification: template, variables, expiry; state and cursor may be old
        self._known = Recent()
        #: ids of tasks that the queue has and the outbox still lists
        self._handed_over: dict[str, None] = {}
        self._unsent: list[str] = []
        #: whether a worker of this process takes from the queue; else another process's relay finds the work
        self.attended = False
        #: when the timers of this process's worker last went round: its heartbeat
        self.last_round: datetime | None = None
        self._cancelled: list[Callable[[str], None]] = []

    # 1 accept -------------------------------------------------------------------------------------------------------

    async def accept(self, tx: Transaction, request: NotifyRequest) -> Notification:
        """Validate and store a notification inside a transaction; nothing is promised before that commits.

        Raises Invalid naming each wrong field and the fix.
        """
        now = self.clock.now()
        notification = accepted(request, self.catalog, self._wording, new_id=new_id(now), now=now)
        if named := explicit_ids(request.audience):
            unknown = await self.store.users.unknown(tx, named)
            if unknown:
                shown = ", ".join(repr(user_id) for user_id in unknown[:5]) + (" …" if len(unknown) > 5 else "")
                raise Invalid.field("userIds", f"no such user: {shown}; PUT /api/users/ID first", code="unknown_user")
        await self.store.notifications.add(tx, notification)
        task = fan_out_task(notification, now)
        await self.store.outbox.add(tx, [task])
        if self.attended and task.due_at <= now:
            # to the queue at once; the relay would need another look at the database
            tx.on_commit(partial(self._hand_over, [task], notification))
        return notification

    async def submit(self, request: NotifyRequest) -> Notification:
        """Accept in a transaction of its own and get to work."""
        async with self.store.begin() as tx:
            return await self.accept(tx, request)

    async def preview(self, tx: Transaction, request: NotifyRequest) -> Preview:
        """Say what a notification would do, without storing anything. Raises Invalid as `accept` does."""
        now = self.clock.now()
        notification = accepted(request, self.catalog, self._wording, new_id=new_id(now), now=now)
        total = await self.store.audiences.size(tx, notification.audience)
        tally = Tally(total)
        cursor = None
        while not tally.enough:
            page, more = await self._page(tx, notification, cursor)
            made = self._plan(notification, page)
            tally.add(page, made.planned, made.skipped)
            if not more:
                break
            cursor = page[-1].user_id
        return tally.preview()

    async def cancel(self, notification_id: str) -> None:
        """Cancel for good: once this returns nothing more is sent, what is in flight excepted.

        Asked again, the answer is the same. Raises NotFound, or Conflict when everything has been sent already.
        """
        async with self.store.begin() as tx:
            notification = await self.store.notifications.get(tx, notification_id)
            if notification is None:
                raise NotFound(f"Notification {notification_id[:60]} does not exist.", code="unknown_notification")
            if notification.state is NotificationState.FANNED_OUT:
                counts = await self.store.notifications.counts(tx, notification_id)
                if not counts.by_state.get("pending") and not counts.by_state.get("sending"):
                    raise Conflict("everything has been sent already", code="already_sent")
            await self.store.notifications.cancel(tx, notification_id)
        for tell in self._cancelled:
            tell(notification_id)
        if not self.attended:
            await self._until_nothing_is_sending(notification_id)

    async def _until_nothing_is_sending(self, notification_id: str) -> None:
        """Wait for another process's worker to learn of a cancellation, which it does within a second.

        If it does not (it was killed, say), its claims run out, and whoever takes them over sees the cancellation.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(CANCEL_PATIENCE):
                while await self._is_sending(notification_id):  # noqa: ASYNC110  # it happens in another process
                    await asyncio.sleep(0.05)

    async def _is_sending(self, notification_id: str) -> bool:
        async with self.store.read() as tx:
            return bool((await self.store.notifications.counts(tx, notification_id)).by_state.get("sending"))

    async def learn_cancellations(self, held: Collection[str]) -> None:
        """Tell this process's sender which of the notifications it holds were cancelled by another process."""
        if held:
            async with self.store.read() as tx:
                cancelled = await self.store.notifications.cancelled(tx, held)
            for notification_id in cancelled:
                for tell in self._cancelled:
                    tell(notification_id)

    # 2 target, plan: fan out ----------------------------------------------------------------------------------------

    async def fan_out(self, notification_id: str) -> Task | None:
        """Plan the next page of a notification. Returns the task for the page after it, None at the end."""
        now = self.clock.now()
        async with self.store.read() as tx:
            known = self._planning.get(notification_id)
            notification = known or await self.store.notifications.get(tx, notification_id)
            if notification is None or notification.state not in _OPEN:
                return None
            page, more = await self._page(tx, notification, notification.cursor)
        made = self._plan(notification, page)
        moved = notification.moved(
            cursor=page[-1].user_id if page else notification.cursor,
            recipients=len(page),
            deliveries=len(made.planned),
            skipped=len(made.skipped),
            done=not more,
        )
        async with self.store.begin() as tx:
            if not await self.store.notifications.advance(tx, notification, moved):
                # somebody else planned this page, or it was cancelled: look again, what they wrote holds
                self._planning.drop(notification_id)
                return fan_out_task(notification, now)
            await self.store.deliveries.add(tx, made.planned, made.skipped, now)
        if more:
            self._planning.keep(moved)
        else:
            self._planning.drop(notification_id)
        await self.queue.publish(deliver_tasks(made.batch_ids, notification.priority, now))
        return fan_out_task(moved, now) if more else None

    async def _page(
        self, tx: Transaction, notification: Notification, after: str | None
    ) -> tuple[Sequence[Recipient], bool]:
        """Return the next page, and whether more follow: one user more is read, instead of an empty last page."""
        size = self.sizes.page
        page = await self.store.audiences.page(
            tx, notification.audience, category=notification.category, after=after, limit=size + 1
        )
        return page[:size], len(page) > size

    def _plan(self, notification: Notification, page: Sequence[Recipient]) -> Plan:
        return plan(
            page,
            notification,
            self.catalog.category(notification.category),
            channels=self.catalog.channels,
            batch_size=self.sizes.batch,
            now=self.clock.now(),
        )

    # 3 dispatch -----------------------------------------------------------------------------------------------------

    async def dispatch(self) -> int:
        """Hand tasks that are due from the outbox to the queue. Returns how many."""
        limit = self.sizes.relay + len(self._handed_over)
        async with self.store.read() as tx:
            due = await self.store.outbox.due(tx, self.clock.now(), limit)
        fresh = [task for task in due if task.id not in self._handed_over]
        await self._hand_over(fresh)
        return len(fresh)

    async def _hand_over(self, tasks: Sequence[Task], notification: Notification | None = None) -> None:
        """Publish what is committed. When the queue does not answer, the outbox still has it and the relay repeats."""
        if notification is not None:
            self._planning.keep(notification)
        try:
            await self.queue.publish(tasks)
        except BackendError as error:
            log.warning("queue_away", tasks=len(tasks), problem=error.message)
        else:
            self._handed_over.update(dict.fromkeys(task.id for task in tasks))

    async def settle_outbox(self) -> None:
        """Remove from the outbox what the queue has: a little later, off the way of what was just accepted.

        A crash before that hands it over twice, which is harmless: the second finds nothing to do.
        """
        if handed_over := list(self._handed_over):
            async with self.store.begin() as tx:
                await self.store.outbox.remove(tx, handed_over)
            for task_id in handed_over:
                self._handed_over.pop(task_id, None)

    async def wake_due(self) -> int:
        """Turn retries and delays that have come due into tasks. Returns how many batches woke."""
        now = self.clock.now()
        async with self.store.read() as tx:
            if not await self.store.deliveries.any_due(tx, now):
                return 0
        async with self.store.begin() as tx:
            tasks = await self.store.deliveries.wake_due(tx, now, self.sizes.batch)
        await self.queue.publish(tasks)
        return len(tasks)

    # 4 deliver ------------------------------------------------------------------------------------------------------

    async def deliver(self, batch_ids: Sequence[str], sender: Sender) -> None:
        """Claim the deliveries of some batches and send them."""
        now = self.clock.now()
        token = new_id(now)
        async with self.store.begin() as tx:
            claimed = await self.store.deliveries.claim(
                tx, batch_ids, token=token, now=now, lease_until=now + self.sizes.lease
            )
        if claimed and await sender.send(await self._jobs(claimed)):
            self._unsent.append(token)

    async def _jobs(self, claimed: Sequence[Due]) -> list[Job]:
        trusted_since = self.clock.now() - AUDIENCE_TRUSTED_FOR
        stale: dict[str, list[str]] = {}
        for due in claimed:
            if is_stale(due, trusted_since):
                stale.setdefault(due.notification_id, []).append(due.user_id)
        members: dict[str, set[str]] = {}
        notifications: dict[str, Notification] = {}
        for notification_id in {due.notification_id for due in claimed}:
            notification = self._known.get(notification_id)
            users = stale.get(notification_id)
            if notification is None or users:
                async with self.store.read() as tx:
                    notification = notification or await self.store.notifications.get(tx, notification_id)
                    if notification is None:
                        continue  # erased since the claim, and its deliveries with it
                    if users:
                        members[notification_id] = await self.store.audiences.among(tx, notification.audience, users)
                self._known.keep(notification)
            notifications[notification_id] = notification
        return [
            Job(
                due=due,
                notification=notification,
                category=self.catalog.category(notification.category),
                in_audience=not is_stale(due, trusted_since) or due.user_id in members[due.notification_id],
            )
            for due in claimed
            if (notification := notifications.get(due.notification_id)) is not None
        ]

    def on_cancel(self, call: Callable[[str], None]) -> None:
        """Register what is told the id of a cancelled notification at once."""
        self._cancelled.append(call)

    # 5 record -------------------------------------------------------------------------------------------------------

    async def record(self, attempts: Sequence[Attempted]) -> None:
        """Write outcomes. Raises BackendError, having written nothing, when the database does not answer."""
        rows = [settled(one) for one in attempts]
        async with self.store.begin() as tx:
            applied = await self.store.deliveries.record(tx, rows, self.clock.now())
        if applied < len(rows):
            # their lease had run out, so somebody else may have sent them too; or their user was erased meanwhile
            log.warning("outcomes_fenced", count=len(rows) - applied)
        self._observe(rows)

    async def give_back(self) -> None:
        """Return what was claimed and not sent because the sender was stopped. Outcomes must be recorded before."""
        if self._unsent:
            async with self.store.begin() as tx:
                await self.store.deliveries.give_back(tx, self._unsent, self.clock.now())
            self._unsent.clear()
