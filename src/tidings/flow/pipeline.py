"""The map of Tidings, in reading order: accept → fan out → dispatch → deliver → record.

    accept     one transaction: notifications and the tasks that announce them (the caller's own, if given);
               those to a few named users are planned in it
    fan_out    a page of an audience, or many small audiences → deliveries and skips, the cursor moves with them
    dispatch   committed work → tasks on the queue; what the queue lost is found again by `flow.recovery`
    deliver    claim under a lease → look again → render → send; no transaction is open while sending
    record     outcomes in bulk, fenced by the lease

Each step may be repeated after a crash, and by another process: accept is guarded by the idempotency key, fan_out by
the cursor, deliver by the claim, record by the lease token. Decisions live in pure functions next to the steps; this
file, and those it delegates to (`fan_out`, `handover`, `claiming`, `cancellation`), load, call and save.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import structlog

from tidings.errors import Invalid
from tidings.flow.cancellation import Cancellations
from tidings.flow.claiming import Claiming
from tidings.flow.deliver.send import Sender
from tidings.flow.dispatch.tasks import fan_out_task
from tidings.flow.fan_out import FanOut, LookedUp, tasks_of
from tidings.flow.handover import Handover
from tidings.flow.intake.accept import accepted, explicit_ids, unknown_users
from tidings.flow.intake.catalog import Catalog
from tidings.flow.plan.limit import Limits
from tidings.flow.record.settle import settled
from tidings.flow.target.preview import Preview, Tally
from tidings.model.delivery import Attempted
from tidings.model.ids import new_id
from tidings.model.notification import Notification
from tidings.model.request import NotifyRequest
from tidings.model.task import Task
from tidings.ports.clock import Clock
from tidings.ports.queue import Queue
from tidings.ports.store import Store, Transaction
from tidings.ports.wording import Wording

log = structlog.get_logger(__name__)

_NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is taken in one go."""

    #: users per page of a fan-out
    page: int = 1000
    #: deliveries per task
    batch: int = 200
    #: tasks claimed together when they wait anyway
    claim: int = 5
    #: fan-outs planned together when they wait anyway
    fan_outs: int = 100
    #: outbox rows relayed together
    relay: int = 500
    #: with a shared queue: how old an outbox row must be before other processes publish it
    relay_grace: timedelta = timedelta(seconds=2)
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
        limits: Limits = _NO_LIMITS,
        exclusive: bool = False,
    ) -> None:
        """`limits`: notifications per user and hour; `exclusive`: no other process can send from this database."""
        self.store = store
        self.queue = queue
        self.catalog = catalog
        self.clock = clock
        self.sizes = sizes
        self._wording = wording
        self._observe = observe
        self._handover = Handover(store, queue, clock, relay=sizes.relay, grace=sizes.relay_grace)
        self._cancellations = Cancellations(store, clock, exclusive=exclusive)
        # What is done for a thousand deliveries keeps the database busy for a while. Several at once would be no
        # faster, and urgent work, which does not wait here, would have to share with all of them. Held for one claim or
        # one page at a time; outcomes never wait for it, or leases would run out.
        self._bulk = asyncio.Lock()
        self._claiming = Claiming(
            store, catalog, clock, lease=sizes.lease, heard=self._cancellations.heard, bulk=self._bulk
        )
        self._fan_out = FanOut(
            store,
            queue,
            catalog,
            clock,
            page=sizes.page,
            batch=sizes.batch,
            limits=limits,
            planned=self._claiming.expect,
            bulk=self._bulk,
        )
        #: whether a worker of this process takes from the queue
        self.attended = False
        #: when the timers of this process's worker last went round: its heartbeat
        self.last_round: datetime | None = None

    # 1 accept -------------------------------------------------------------------------------------------------------

    async def accept(self, tx: Transaction, request: NotifyRequest) -> Notification:
        """Validate and store a notification inside a transaction; nothing is promised before that commits.

        Raises Invalid naming each wrong field and the fix.
        """
        # it may be the caller's transaction: nothing is counted for anybody's limit while that stays open
        [made] = await self._accept(tx, [request], at_once=False)
        if isinstance(made, Invalid):
            raise made
        return made

    async def accept_many(self, tx: Transaction, requests: Sequence[NotifyRequest]) -> list[Notification | Invalid]:
        """Accept notifications together, in few statements. Returns, in order, what became of each request.

        Those to a few named users are planned as well, so the transaction must end soon. A request that breaks a rule
        comes back as Invalid and takes no other with it.
        """
        return await self._accept(tx, requests, at_once=True)

    async def _accept(
        self, tx: Transaction, requests: Sequence[NotifyRequest], *, at_once: bool
    ) -> list[Notification | Invalid]:
        now = self.clock.now()
        made = [self._accepted(request, now) for request in requests]
        sound = [one for one in made if isinstance(one, Notification)]
        few = self._fan_out.to_plan_at_once(sound, now) if at_once else []
        known = await self._fan_out.look_up(tx, few) if few else {}
        made = await self._with_known_users(tx, made, known)
        fresh = [one for one in made if isinstance(one, Notification)]
        if fresh:
            few = [one for one in fresh if one.id in known]
            drafts = await self._fan_out.plan_accepted(tx, few, known, now)
            later = [one for one in fresh if one.id not in known]
            await self.store.notifications.add_many(tx, [*(one.after for one in drafts), *later])
            await self._fan_out.add(tx, drafts, now)
            tasks = [*tasks_of(drafts, now), *(fan_out_task(one, now) for one in later)]
            await self.store.outbox.add(tx, tasks)
            if due := [task for task in tasks if task.due_at <= now]:
                tx.on_commit(partial(self._hand_over, due, few, later))
        return made

    def _accepted(self, request: NotifyRequest, now: datetime) -> Notification | Invalid:
        try:
            return accepted(request, self.catalog, self._wording, new_id=new_id(now), now=now)
        except Invalid as error:
            return error

    async def _with_known_users(
        self, tx: Transaction, made: Sequence[Notification | Invalid], known: Mapping[str, LookedUp]
    ) -> list[Notification | Invalid]:
        """Refuse what names users who do not exist. One look for all whose users were not looked up anyway."""
        named = [explicit_ids(one.audience) if isinstance(one, Notification) else [] for one in made]
        found = {user_id: user for looked_up in known.values() for user_id, user in looked_up}
        wanted = list(dict.fromkeys(user_id for ids in named for user_id in ids if user_id not in found))
        unknown = set(await self.store.users.unknown(tx, wanted)) if wanted else set()
        unknown.update(user_id for user_id, user in found.items() if user is None)
        strange = [[user_id for user_id in ids if user_id in unknown] for ids in named]
        return [unknown_users(ids) if ids else one for one, ids in zip(made, strange, strict=True)]

    async def _hand_over(
        self, tasks: Sequence[Task], planned: Sequence[Notification], unplanned: Sequence[Notification]
    ) -> None:
        """Get to work at once: the relay would need another look at the database, and comes later."""
        if self.attended:
            self._fan_out.expect(unplanned)
            for one in planned:
                self._claiming.expect(one)
        if self.attended or self.queue.shared:
            await self._handover.publish(tasks)

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
            page, more = await self._fan_out.page_of(tx, notification, cursor)
            made = self._fan_out.planned(notification, page, now)
            tally.add(page, made.planned, made.skipped)
            if not more:
                break
            cursor = page[-1].user_id
        return tally.preview()

    async def cancel(self, notification_id: str) -> None:
        """Cancel for good: once this returns no process sends more of it, what is in flight excepted.

        Asked again, the answer is the same. Raises NotFound, or Conflict when everything has been sent already.
        """
        await self._cancellations.cancel(notification_id, attended=self.attended)

    def on_cancel(self, call: Callable[[str], None]) -> None:
        """Register what is told the id of a cancelled notification at once."""
        self._cancellations.on_cancel(call)

    async def learn_cancellations(self, held: Collection[str]) -> None:
        """Tell this process's sender which of the notifications it holds were cancelled by another process."""
        await self._cancellations.learn(held)

    # 2 target, plan: fan out ----------------------------------------------------------------------------------------

    async def fan_out(self, notification_id: str) -> Task | None:
        """Plan the next page of a notification. Returns the task for the page after it, None at the end."""
        following = await self.fan_out_many([notification_id])
        return following[0] if following else None

    async def fan_out_many(
        self,
        notification_ids: Sequence[str],
        announced: Callable[[Sequence[Task]], None] = lambda _tasks: None,
        *,
        urgent: bool = False,
    ) -> list[Task]:
        """Plan the next page of each notification, those to a few named users together.

        announced: is told what can be sent now, before the queue is. Returns the tasks for the pages after them.
        """
        return await self._fan_out.step(notification_ids, announced, urgent=urgent)

    # 3 dispatch -----------------------------------------------------------------------------------------------------

    async def dispatch(self) -> int:
        """Hand tasks that are due from the outbox to the queue. Returns how many it took."""
        return await self._handover.relay()

    async def settle_outbox(self) -> None:
        """Remove from the outbox what the queue has."""
        await self._handover.settle()

    async def wake_due(self) -> int:
        """Turn retries and delays that have come due into tasks. Returns how many batches woke."""
        await self._claiming.give_back_unstarted()
        now = self.clock.now()
        async with self.store.look() as tx:
            if not await self.store.deliveries.any_due(tx, now):
                return 0
        async with self.store.begin() as tx:
            tasks = await self.store.deliveries.wake_due(tx, now, self.sizes.batch)
        await self.queue.publish(tasks)
        return len(tasks)

    # 4 deliver ------------------------------------------------------------------------------------------------------

    async def deliver(self, batch_ids: Sequence[str], sender: Sender, *, urgent: bool = False) -> None:
        """Claim the deliveries of some batches and send them. `urgent`: they come from the urgent lane."""
        await self._claiming.deliver(batch_ids, sender, urgent=urgent)

    async def deliver_alone(self, batch_id: str, sender: Sender, *, urgent: bool = False) -> None:
        """Send a delivery that a worker died with, with nothing else of its kind beside it."""
        await self._claiming.deliver_alone(batch_id, sender, urgent=urgent)

    async def give_back(self) -> int:
        """Put back what was claimed and not sent because the sender was stopped; return how much.

        Outcomes must be recorded before.
        """
        return await self._claiming.give_back()

    # 5 record -------------------------------------------------------------------------------------------------------

    async def record(self, attempts: Sequence[Attempted]) -> None:
        """Write outcomes. Raises BackendError, having written nothing, when the database does not answer."""
        rows = [settled(one) for one in attempts]
        async with self.store.begin() as tx:
            applied = await self.store.deliveries.record(tx, rows, self.clock.now())
        if applied < len(rows):
            # their lease had run out, so somebody else may have sent them too; or their user was erased meanwhile
            log.warning("outcomes_fenced", count=len(rows) - applied)
        self._claiming.written(rows)
        self._observe(rows)
