"""One process of the machine: the real pipeline on real store and queue, moved by hand, able to die at any moment."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from enum import Enum, auto
from typing import NamedTuple

from sqlalchemy import select
from tests.contract.machine.faulty import FaultyStore
from tests.contract.machine.post import Post, Wire

from tidings.errors import BackendError
from tidings.flow.deliver.gate import Gate
from tidings.flow.deliver.renderings import Renderings
from tidings.flow.deliver.send import Sender
from tidings.flow.intake.catalog import Catalog
from tidings.flow.intake.outside import Parts
from tidings.flow.pipeline import Pipeline, Sizes
from tidings.flow.plan.limit import Limits
from tidings.flow.record.recorder import Recorder
from tidings.flow.recovery import Recovery
from tidings.model.delivery import Attempted, Skipped
from tidings.model.priority import LANES, Lane
from tidings.model.task import Task, TaskKind
from tidings.ports.queue import Queue
from tidings.stores.connection import of
from tidings.stores.json_list import json_ids
from tidings.stores.schema import deliveries
from tidings.testing.clock import FrozenClock
from tidings.wording import MinijinjaWording

#: three users a page, so that audiences have several; three deliveries at once, so that some wait
SIZES = Sizes(page=3, batch=4, claim=2, lease=timedelta(seconds=60))
PLACES = 3
#: as the worker's own loop
AFTER_FAILURE = timedelta(seconds=5)

_d = deliveries.c


class Round(Enum):
    """What a worker's timers do."""

    RELAY = auto()
    WAKE = auto()
    SWEEP = auto()
    FIND_LOST = auto()
    EPOCHS = auto()
    LEARN = auto()
    SETTLE = auto()


class Row(NamedTuple):
    """A delivery as it stands."""

    id: str
    state: str
    lease_token: str | None
    attempts: int
    why: str | None


class Process:
    """An API process, or a worker if it is attended."""

    def __init__(
        self,
        store: FaultyStore,
        queue: Queue,
        catalog: Catalog,
        clock: FrozenClock,
        post: Post,
        *,
        user_limit: int,
        attended: bool,
        exclusive: bool,
    ) -> None:
        wording = MinijinjaWording(catalog.filters, "https://shop.example")
        self.store, self.queue, self.clock, self.post = store, queue, clock, post
        self.pipeline = Pipeline(
            store, queue, catalog, wording, clock, sizes=SIZES, limits=Limits(user_limit), exclusive=exclusive
        )
        self.parts = Parts(store, clock, self.pipeline)
        self.recovery = Recovery(store, queue, clock, exclusive=exclusive)
        self.wire = Wire(post, clock)
        self.recorder = Recorder(self._write, max_rows=10_000, max_delay=0)
        #: outcomes that a death of this process would lose
        self.unwritten: list[Attempted] = []
        #: (delivery, lease) of outcomes that the ledger took
        self.applied: set[tuple[str, str]] = set()
        self._hurried = asyncio.Event()
        self.sender = Sender(
            {"webpush": self.wire},
            Renderings(wording, catalog.templates),
            Gate(PLACES),
            clock,
            self._recorded,
            self._hurried.set,
        )
        self.pipeline.on_cancel(self.sender.cancelled)
        self.pipeline.attended = attended

    @property
    def dead(self) -> bool:
        return self.wire.died.is_set()

    async def work(self, most: int) -> None:
        """Take some tasks of the first lane that has any, and do them."""
        for lane in LANES:
            if (await self.queue.stats(lane)).waiting:
                async with asyncio.timeout(10):
                    tasks = await self.queue.take(lane, most)
                await self._do(tasks, lane)
                return

    async def waiting(self) -> bool:
        """Whether the queue has something to do now."""
        return any([(await self.queue.stats(lane)).waiting for lane in LANES])

    async def write(self) -> None:
        """Write the outcomes that wait; what a fault holds up waits on."""
        try:
            await self.recorder.flush()
        except BackendError:
            return

    async def quietly(self, call: Callable[[], Awaitable[object]]) -> None:
        """Do what a timer would: a fault is left to the next time."""
        try:
            await call()
        except BackendError:
            return

    async def go_round(self, what: Round) -> None:
        """Do what one of the timers does. Raises BackendError."""
        match what:
            case Round.RELAY:
                await self.pipeline.dispatch()
            case Round.WAKE:
                await self.pipeline.wake_due()
            case Round.SWEEP:
                await self.sweep()
            case Round.FIND_LOST:
                await self.recovery.find_lost()
            case Round.EPOCHS:
                await self.recovery.compare_epochs()
            case Round.LEARN:
                await self.pipeline.learn_cancellations(self.sender.held)
            case Round.SETTLE:
                await self.pipeline.settle_outbox()

    async def sweep(self) -> None:
        """Look for claims of the dead, own outcomes first, as the worker's timer does."""
        await self.recorder.flush()
        await self.recovery.sweep()

    async def stop(self) -> None:
        """End in order, as on SIGTERM, with nothing in flight."""
        self.sender.stop()
        await self.recorder.flush()
        await self.pipeline.give_back()
        await self.pipeline.settle_outbox()

    def die(self) -> None:
        """Forget everything; what was sent and not written is lost."""
        self.wire.died.set()
        self.post.lost.update(one.delivery_id for one in self.unwritten)
        self.post.lost.update(self.wire.unanswered)
        self.unwritten.clear()
        self.wire.unanswered.clear()

    async def _do(self, tasks: Sequence[Task], lane: Lane) -> None:
        planned = [task for task in tasks if task.kind is TaskKind.FAN_OUT]
        sent = [task for task in tasks if task.kind is TaskKind.DELIVER]
        alone = [task for task in tasks if task.kind is TaskKind.DELIVER_ALONE]
        for some, work in [(planned, self._plan), (sent, self._deliver), *(([one], self._alone) for one in alone)]:
            if some and not self.dead:
                await self._guarded(some, lane, work)

    async def _guarded(
        self, tasks: list[Task], lane: Lane, work: Callable[[Sequence[str], Lane], Awaitable[None]]
    ) -> None:
        try:
            await self._unless_dead(work([task.ref for task in tasks], lane))
        except BackendError as error:
            await self.queue.again(tasks, at=self.clock.now() + AFTER_FAILURE, why=error.message)
        else:
            if not self.dead:
                await self.queue.done(tasks)

    async def _unless_dead(self, work: Awaitable[None]) -> None:
        """Wait for work to end, or for the death of this process in the middle of it."""
        doing = asyncio.ensure_future(work)
        dying = asyncio.ensure_future(self.wire.died.wait())
        await asyncio.wait([doing, dying], return_when=asyncio.FIRST_COMPLETED)
        dying.cancel()
        if doing.done():
            doing.result()
            return
        doing.cancel()
        await asyncio.wait([doing])
        self.die()

    async def _plan(self, refs: Sequence[str], lane: Lane) -> None:
        now: list[Task] = []
        following = await self.pipeline.fan_out_many(refs, now.extend)
        await self.queue.publish(following)
        if lane is Lane.URGENT and now:
            await self.pipeline.deliver([task.ref for task in now], self.sender, urgent=True)

    async def _deliver(self, refs: Sequence[str], lane: Lane) -> None:
        await self.pipeline.deliver(refs, self.sender, urgent=lane is Lane.URGENT)

    async def _alone(self, refs: Sequence[str], _lane: Lane) -> None:
        """Send one by itself; its outcome is written before it returns, as whoever sends it waits for that."""
        self._hurried.clear()
        doing = asyncio.ensure_future(self.pipeline.deliver_alone(refs[0], self.sender))
        try:
            while not doing.done():
                hurried = asyncio.ensure_future(self._hurried.wait())
                await asyncio.wait([doing, hurried], return_when=asyncio.FIRST_COMPLETED)
                hurried.cancel()
                self._hurried.clear()
                await self.write()
                if self.unwritten:
                    self._hurried.set()
            doing.result()
        finally:
            doing.cancel()
            await asyncio.wait([doing])

    async def _recorded(self, attempted: Attempted) -> None:
        self.unwritten.append(attempted)
        await self.recorder.add(attempted)

    async def _write(self, rows: Sequence[Attempted]) -> None:
        """Write outcomes, and see that those of a lost lease change nothing."""
        before = await self._rows(rows)
        ours = [one for one in rows if before[one.delivery_id][1:3] == ("sending", one.lease_token)]
        replies_lost = self.store.replies_lost
        committed = True
        try:
            await self.pipeline.record(rows)
        except BackendError:
            committed = self.store.replies_lost > replies_lost
            raise
        finally:
            after = await self._rows(rows)
            held = {one.delivery_id for one in ours} if committed else set()
            changed = {one for one, row in after.items() if row != before[one]}
            assert changed == held, (
                f"an outcome without a lease was taken, or one with a lease was not: {changed ^ held}"
            )
            if committed:
                self.applied.update((one.delivery_id, one.lease_token) for one in ours)
        for one in rows:
            self.unwritten.remove(one)
            if (one.delivery_id, one.lease_token) not in self.applied and not isinstance(one.outcome, Skipped):
                self.post.lost[one.delivery_id] += 1

    async def _rows(self, attempted: Sequence[Attempted]) -> dict[str, Row]:
        ids = [one.delivery_id for one in attempted]
        query = select(_d.id, _d.state, _d.lease_token, _d.attempts, _d.why).where(_d.id.in_(json_ids(ids)))
        async with self.store.read() as tx:
            return {row.id: Row(*row) for row in await of(tx).execute(query)}
