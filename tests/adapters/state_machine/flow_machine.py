"""What happens in every state machine of the flow: work, faults, crashes, and the passage of time."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import datetime, timedelta
from enum import Enum, auto
from functools import partial
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import select
from tests.adapters.state_machine.fake_channel import ProviderResponse
from tests.adapters.state_machine.faulty_store import CommitFault
from tests.adapters.state_machine.model_world import Backend, World
from tests.adapters.state_machine.process import SimulatedProcess, TimerTask

from tidings.errors import BackendError, Conflict
from tidings.flow.recover.dead_letter_replay import ReplayRate, discard_page, replay_page
from tidings.model import ids
from tidings.model.request import NotifyRequest
from tidings.ports.operations import DeadLetterFilter
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.tables import deliveries
from tidings.testing.clock import START, FrozenClock

_T = TypeVar("_T")
#: seconds: each step must end within this time, so that no call waits for ever
STEP_TIMEOUT = 60.0
TIME_STEPS = (0.5, 2, 5, 30, 61, 600, 3700)


class Interruption(Enum):
    """An event while a message is in flight."""

    NOTHING = auto()
    #: the process crashes before the message is received, or before the response arrives
    CRASH_BEFORE_RECEIPT = auto()
    CRASH_AFTER_RECEIPT = auto()
    #: another process cancels one of the notifications being sent
    CANCELLATION = auto()
    #: the process stalls for longer than its lease, and another worker takes over, or crashes too
    LEASE_EXPIRY = auto()
    LEASE_EXPIRY_AND_SUCCESSOR_CRASH = auto()
    QUEUE_FLUSH = auto()


indexes = st.integers(0, 7)
faults = st.sampled_from(
    (CommitFault.NONE, CommitFault.NONE, CommitFault.NONE, CommitFault.NOT_APPLIED, CommitFault.REPLY_LOST)
)
answers = st.lists(st.sampled_from(ProviderResponse), max_size=4)
interruptions = st.sampled_from((Interruption.NOTHING, Interruption.NOTHING, *Interruption))


class FlowMachine(RuleBasedStateMachine):
    """Drives the processes of a world. Subclasses accept notifications and check the outcome."""

    backend: ClassVar[Backend]
    start: ClassVar[datetime] = START
    #: run before a worker looks for tasks
    work_timers: ClassVar[Sequence[TimerTask]] = (TimerTask.RELAY, TimerTask.BATCH_DUE)

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.last_id, ids._last_ticks = ids._last_ticks, 0
        self.notification_ids: list[str] = []
        self.replay_counts: Counter[str] = Counter()
        self.world = self.create_world(FrozenClock(self.start))
        self.run(self.world.open())

    def create_world(self, clock: FrozenClock) -> World:
        """Return a world that is not open yet."""
        raise NotImplementedError

    def build_request(self) -> NotifyRequest:
        """Return a request that is always accepted, and record that it is expected."""
        raise NotImplementedError

    async def check_when_idle(self) -> None:
        """Assert the invariants once all work has ended."""
        raise NotImplementedError

    def run(self, call: Coroutine[Any, Any, _T]) -> _T:
        async def run_with_timeout() -> _T:
            async with asyncio.timeout(STEP_TIMEOUT):
                return await call

        return self.backend.runner.run(run_with_timeout())

    def process(self, index: int) -> SimulatedProcess:
        """Return a worker or the API process."""
        return [*self.world.workers, self.world.api][index % (len(self.world.workers) + 1)]

    def worker(self, index: int) -> SimulatedProcess:
        return self.world.workers[index % len(self.world.workers)]

    async def accept_requests(self, requests: list[NotifyRequest], by: SimulatedProcess, fault: CommitFault) -> None:
        """Accept requests in one transaction. A fault is not reported; the caller knows which one it was."""
        by.store.next_fault = fault
        try:
            async with by.store.transaction() as tx:
                results = await by.pipeline.accept_many(tx, requests)
        except BackendError:
            return
        for result in results:
            assert not isinstance(result, Exception), result
            self.notification_ids.append(result.id)

    # cancel ---------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.notification_ids)
    @rule(which=st.integers(0, 50), by=indexes, fault=faults)
    def cancel(self, which: int, by: int, fault: CommitFault) -> None:
        self.run(self._cancel(self.notification_ids[which % len(self.notification_ids)], self.process(by), fault))

    async def _cancel(self, notification_id: str, by: SimulatedProcess, fault: CommitFault = CommitFault.NONE) -> None:
        by.store.next_fault = fault
        try:
            await self.world.cancel(notification_id, by)
        except (BackendError, Conflict):
            # the cancellation was not confirmed
            by.store.next_fault = CommitFault.NONE

    # work, and events during it -------------------------------------------------------------------------------------

    @rule(
        index=indexes,
        limit=st.sampled_from((1, 2, 4, None)),
        timers=st.booleans(),
        answers=answers,
        interruption=interruptions,
        at=st.integers(0, 3),
        fault=faults,
        flushes=st.booleans(),
    )
    def work(
        self,
        index: int,
        limit: int | None,
        answers: list[ProviderResponse],
        interruption: Interruption,
        at: int,
        fault: CommitFault,
        *,
        timers: bool,
        flushes: bool,
    ) -> None:
        """Let a worker process up to `limit` tasks (None = all), and a new notification if there are none."""
        worker = self.worker(index)
        self.run(self._prepare(worker, answers, interruption, at))
        self.run(self._work(worker, limit, fault, timers=timers))
        if flushes and not worker.is_dead:
            self.run(worker.flush_outcomes())
        self.run(self._reset_after_step(worker))

    async def _work(self, worker: SimulatedProcess, limit: int | None, fault: CommitFault, *, timers: bool) -> None:
        if timers:
            for timer_task in self.work_timers:
                await worker.ignore_backend_error(partial(worker.run_timer, timer_task))
        if not await worker.has_waiting_tasks():
            await self.accept_requests([self.build_request()], self.world.api, CommitFault.NONE)
        worker.store.next_fault = fault
        if limit is not None:
            await worker.work(limit)
        while limit is None and not worker.is_dead and await worker.has_waiting_tasks():
            await worker.work(5)

    async def _prepare(
        self, worker: SimulatedProcess, responses: list[ProviderResponse], interruption: Interruption, at: int
    ) -> None:
        channel = worker.channel
        channel.responses, channel.messages_until_event = list(responses), at
        channel.crashes_after_receipt = {
            Interruption.CRASH_BEFORE_RECEIPT: False,
            Interruption.CRASH_AFTER_RECEIPT: True,
        }.get(interruption)
        channel.on_message = self._build_interruption(worker, interruption, at)

    def _build_interruption(
        self, worker: SimulatedProcess, interruption: Interruption, at: int
    ) -> Callable[[], Awaitable[None]] | None:
        async def cancel_held_notification() -> None:
            held_ids = sorted(worker.sender.held_notification_ids)
            await self._cancel(held_ids[at % len(held_ids)], self.world.api)

        async def expire_lease() -> None:
            self.world.clock.advance(61)
            for other in self.world.workers:
                if other is not worker:
                    await self._take_over(other, crashes=interruption is Interruption.LEASE_EXPIRY_AND_SUCCESSOR_CRASH)

        async def flush_queue() -> None:
            self.world.flush()

        match interruption:
            case Interruption.CANCELLATION:
                return cancel_held_notification
            case Interruption.LEASE_EXPIRY | Interruption.LEASE_EXPIRY_AND_SUCCESSOR_CRASH:
                return expire_lease
            case Interruption.QUEUE_FLUSH:
                return flush_queue
        return None

    async def _take_over(self, other: SimulatedProcess, *, crashes: bool) -> None:
        await other.ignore_backend_error(partial(other.run_timer, TimerTask.REAP_LEASES))
        await other.ignore_backend_error(partial(other.run_timer, TimerTask.BATCH_DUE))
        await self._prepare(other, [], Interruption.CRASH_AFTER_RECEIPT if crashes else Interruption.NOTHING, 0)
        while not other.is_dead and await other.has_waiting_tasks():
            await other.work(5)

    async def _reset_after_step(self, worker: SimulatedProcess) -> None:
        worker.store.next_fault = CommitFault.NONE
        for other in self.world.workers:
            if not other.is_dead:
                other.channel.reset()
        await self.world.restart_dead_workers()

    @rule(index=indexes, fault=faults)
    def flush_outcomes(self, index: int, fault: CommitFault) -> None:
        worker = self.worker(index)
        worker.store.next_fault = fault
        self.run(worker.flush_outcomes())
        worker.store.next_fault = CommitFault.NONE

    @rule(index=indexes, timer_task=st.sampled_from(TimerTask), fault=faults)
    def run_timer(self, index: int, timer_task: TimerTask, fault: CommitFault) -> None:
        worker = self.worker(index)
        worker.store.next_fault = fault
        self.run(worker.ignore_backend_error(partial(worker.run_timer, timer_task)))
        worker.store.next_fault = CommitFault.NONE

    # kill, flush, time ----------------------------------------------------------------------------------------------

    @rule(index=indexes, gracefully=st.booleans())
    def replace_worker(self, index: int, gracefully: bool) -> None:
        """Kill a worker, or stop it gracefully, and start another."""
        if gracefully:
            self.run(self.worker(index).stop())
        self.run(self._replace_worker(index % len(self.world.workers)))

    async def _replace_worker(self, index: int) -> None:
        await self.world.restart_worker(index)

    @rule()
    def flush(self) -> None:
        self.world.flush()

    @rule(seconds=st.sampled_from(TIME_STEPS))
    def advance_clock(self, seconds: float) -> None:
        self.world.clock.advance(seconds)

    @rule(seconds=st.sampled_from((0.3, 1.0)))
    def set_clock_back(self, seconds: float) -> None:
        self.world.set_clock_back(timedelta(seconds=seconds))

    # operators and users --------------------------------------------------------------------------------------------

    @rule(discards=st.booleans(), fault=faults)
    def handle_dead_letters(self, discards: bool, fault: CommitFault) -> None:
        self.run(self._discard(fault) if discards else self._replay(fault))

    async def _replay(self, fault: CommitFault) -> None:
        store, now = self.world.api.store, self.world.clock.now()
        dead = await self._list_ids_in_state("refused")
        store.next_fault = fault
        try:
            async with store.transaction() as tx:
                await replay_page(store, tx, DeadLetterFilter(), rate=ReplayRate(2.0), limit=5, now=now)
        except BackendError:
            pass
        self.replay_counts.update(dead - await self._list_ids_in_state("refused"))

    async def _discard(self, fault: CommitFault) -> None:
        store = self.world.api.store
        store.next_fault = fault
        try:
            async with store.transaction() as tx:
                await discard_page(store, tx, DeadLetterFilter(), limit=1, now=self.world.clock.now())
        except BackendError:
            pass

    async def _list_ids_in_state(self, state: str) -> set[str]:
        async with self.world.store.read_snapshot() as tx:
            found = await connection_of(tx).scalars(select(deliveries.c.id).where(deliveries.c.state == state))
            return set(found.all())

    # invariants -----------------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_sent_after_a_confirmed_cancellation(self) -> None:
        assert self.world.provider_log.received_after_cancellation() == []

    @invariant()
    def only_deliveries_being_sent_hold_a_lease(self) -> None:
        # recording an outcome relies on the lease alone
        assert self.run(self._list_wrong_leases()) == []

    async def _list_wrong_leases(self) -> Sequence[str]:
        async with self.world.store.read_snapshot() as tx:
            wrong = (deliveries.c.state == "sending") != deliveries.c.lease_token.is_not(None)
            return (await connection_of(tx).scalars(select(deliveries.c.state).where(wrong))).all()

    def teardown(self) -> None:
        try:
            self.run(self.check_when_idle())
        finally:
            self.run(self.world.close())
            ids._last_ticks = self.last_id
