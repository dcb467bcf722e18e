"""The world of the state machine: one database, one queue that can be reset, processes that can crash, a clock."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil

from msgspec import structs
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.adapters.state_machine.fake_channel import ProviderLog
from tests.adapters.state_machine.faulty_store import FaultyStore
from tests.adapters.state_machine.process import SimulatedProcess

from tidings.errors import BackendError
from tidings.flow.catalog import Catalog
from tidings.model.ids import new_id
from tidings.model.notification import NotificationState
from tidings.model.preference import Preference
from tidings.model.priority import Priority
from tidings.model.task import Task
from tidings.model.template import Category, Template, TemplateText
from tidings.model.user import User
from tidings.packs import core
from tidings.ports.pack import Pack
from tidings.ports.queue import Queue
from tidings.queues.memory_queue import MemoryQueue
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.digest_tables import digests
from tidings.stores.schema.step_tables import IS_WAITING, waiting_steps
from tidings.stores.schema.tables import deliveries, notifications, outbox
from tidings.testing.clock import FrozenClock
from tidings.testing.contracts.samples import make_subscription

PACK = Pack(
    name="machine",
    categories=(Category("NEWS", "News"), Category("DUTY", "Duties", mandatory=True)),
    templates=tuple(
        Template(code=code, category=code, priority=Priority.NORMAL, texts={"en": TemplateText("{{ title }}", "")})
        for code in ("NEWS", "DUTY")
    ),
)
#: user → number of devices
DEVICES = {"ana": 2, "ben": 1, "cem": 1, "dora": 1, "eli": 1, "fay": 1, "gus": 0}
USER_WITHOUT_NEWS = "fay"
#: rounds of at least a minute within which all work must end; at most twelve were observed
MAX_ROUNDS = 40
MINUTE = timedelta(seconds=61)
MILLISECOND = timedelta(milliseconds=1)
#: how long, by the world's clock, a cancellation waits for a worker that does not respond
CANCELLATION_TIMEOUT = timedelta(seconds=5)
#: the clock is never set back further than this
MAX_SET_BACK = timedelta(seconds=1.5)

_d, _n, _o, _g, _w = deliveries.c, notifications.c, outbox.c, digests.c, waiting_steps.c
_OPEN_STATES = (NotificationState.ACCEPTED.value, NotificationState.FANNING_OUT.value)


class SharedMemoryQueue(MemoryQueue):
    """In-memory lanes that act as a shared queue: they can be reset and become unavailable."""

    is_shared = True
    is_away = False

    async def publish(self, tasks: Sequence[Task]) -> None:
        self._check_available()
        await super().publish(tasks)

    async def instance_id(self) -> str:
        self._check_available()
        return await super().instance_id()

    def flush(self) -> None:
        """Lose all data, as a flushed server does."""
        vars(self).update(vars(MemoryQueue(self._clock)))

    def _check_available(self) -> None:
        if self.is_away:
            raise BackendError("the queue does not answer")


@dataclass(frozen=True)
class Backend:
    """The database and the queue of a world."""

    #: runs all coroutines
    runner: asyncio.Runner
    #: the writing and the reading engine
    engines: tuple[AsyncEngine, AsyncEngine]
    #: deletes all rows
    empty_database: Callable[[FaultyStore], Awaitable[None]]
    #: creates one process's queue on a server; None = in-memory lanes
    create_queue: Callable[[FrozenClock], Queue] | None = None
    #: deletes all data of the queue's server
    flush_server: Callable[[], None] | None = None
    #: whether one process has exclusive use of the database, with its own lanes
    is_exclusive: bool = False


class World:
    """The state of one run of the machine."""

    def __init__(self, backend: Backend, clock: FrozenClock, user_limit: int) -> None:
        self.backend = backend
        self.clock = clock
        self.user_limit = user_limit
        self.catalog = self.create_catalog()
        self.provider_log = ProviderLog()
        self.audience_kinds = {kind.name: kind for kind in core.pack.audiences}
        self.memory_queue = MemoryQueue(clock) if backend.is_exclusive else SharedMemoryQueue(clock)
        self.store = self._create_store()
        self.start = clock.now()
        #: the clock is not set back beyond this instant
        self.earliest_time = self.start - MAX_SET_BACK
        self.total_set_back = timedelta()
        #: number of attempts to set the clock back
        self.set_back_count = 0
        self.workers = [self._create_process(has_local_consumer=True) for _ in range(1 if backend.is_exclusive else 2)]
        self.api = self.workers[0] if backend.is_exclusive else self._create_process(has_local_consumer=False)

    def create_catalog(self) -> Catalog:
        """Return the templates and channels of all processes."""
        return Catalog.from_packs([core.pack, PACK], channels=("webpush",), known_channels=("webpush",))

    async def open(self) -> None:
        """Empty the database and the queue, and add users."""
        if self.backend.flush_server:
            self.backend.flush_server()
        await self.backend.empty_database(self.store)
        await self.add_users()
        for worker in self.workers:
            await worker.reconciler.recover_on_start()

    async def add_users(self) -> None:
        """Add users with their devices."""
        now = self.clock.now()
        async with self.store.transaction() as tx:
            await self.store.users.upsert(tx, [User(name) for name in DEVICES], now)
            await self.store.users.set_preferences(
                tx, USER_WITHOUT_NEWS, [Preference("NEWS", "webpush", enabled=False)]
            )
        for name in DEVICES:
            await self.register(name)

    async def close(self) -> None:
        for process in {self.api, *self.workers}:
            await process.queue.stop()
            await process.queue.aclose()

    async def register(self, name: str) -> None:
        """Subscribe a user's browsers, perhaps again."""
        async with self.store.transaction() as tx:
            for number in range(DEVICES[name]):
                device = structs.replace(make_subscription(name, f"{name}-{number}"), id=new_id(self.clock.now()))
                await self.store.subscriptions.register(tx, device, replaces=None, now=self.clock.now())

    async def restart_worker(self, index: int) -> SimulatedProcess:
        """Replace a worker that crashed or stopped with a new process."""
        old = self.workers[index]
        old.crash()
        await old.queue.aclose()
        if self.backend.is_exclusive:
            self.memory_queue = MemoryQueue(self.clock)
        self.workers[index] = worker = self._create_process(has_local_consumer=True)
        if self.backend.is_exclusive:
            self.api = worker
        await worker.reconciler.recover_on_start()
        return worker

    async def restart_dead_workers(self) -> None:
        """Replace all crashed workers."""
        for index, worker in enumerate(self.workers):
            if worker.is_dead:
                await self.restart_worker(index)

    def flush(self) -> None:
        """Reset the shared queue."""
        if self.backend.flush_server:
            self.backend.flush_server()
        elif isinstance(self.memory_queue, SharedMemoryQueue):
            self.memory_queue.flush()

    def set_clock_back(self, by: timedelta) -> None:
        """Set the clock back a little, never to an instant that it has already shown.

        All events happen at whole milliseconds. Attempts of a delivery are identified by their start, so two of them
        must not start at the same instant.
        """
        self.set_back_count += 1
        earliest = max(self.clock.now() - by, self.earliest_time)
        milliseconds = ceil((earliest - self.start) / MILLISECOND)
        by = self.clock.now() - (self.start + milliseconds * MILLISECOND + self.set_back_count * timedelta.resolution)
        if by > timedelta():
            self.total_set_back += by
            self.clock.advance(-by)

    async def cancel(self, notification_id: str, by: SimulatedProcess) -> None:
        """Cancel, and record the confirmation for the invariants. Raises as the pipeline does."""
        await by.pipeline.cancel(notification_id)
        async with self.store.read_snapshot() as tx:
            has_unresponsive_worker = await self.store.deliveries.has_leased(tx, notification_id)
        if has_unresponsive_worker and by.pipeline.has_local_consumer and self.backend.is_exclusive:
            has_unresponsive_worker = False
        if has_unresponsive_worker:
            # the caller waited in vain for the worker that holds the lease, so time has passed
            self.clock.advance(CANCELLATION_TIMEOUT)
        self.earliest_time = max(self.earliest_time, self.clock.now() - MAX_SET_BACK)
        self.provider_log.received_at_cancellation.setdefault(notification_id, len(self.provider_log.received))

    async def run_until_idle(self) -> None:
        """Let time pass without faults until all work has ended. Raises AssertionError if it does not end."""
        if isinstance(self.memory_queue, SharedMemoryQueue):
            self.memory_queue.is_away = False
        await self.restart_dead_workers()
        for process in {self.api, *self.workers}:
            process.channel.reset()
        for number in range(MAX_ROUNDS):
            for worker in self.workers:
                await worker.reap_expired_leases()
                await worker.pipeline.delivery_runner.release_claims()
            await self._run_worker_round(self.workers[number % len(self.workers)])
            for worker in self.workers:
                await worker.pipeline.outbox_relay.ack()
            if not (open_work := await self._count_open_work()):
                return
            due = await self._next_due_at()
            self.clock.advance(max(MINUTE, due - self.clock.now()) if due else MINUTE)
        raise AssertionError(f"open work after {MAX_ROUNDS} rounds: {open_work}")

    async def _run_worker_round(self, worker: SimulatedProcess) -> None:
        pipeline, reconciler = worker.pipeline, worker.reconciler
        await pipeline.cancellations.refresh(worker.sender.held_notification_ids)
        await reconciler.detect_queue_reset()
        await reconciler.requeue_stuck()
        while (
            await pipeline.outbox_relay.relay()
            or await pipeline.batch_due()
            or await pipeline.close_due_digests()
            or await pipeline.step_runner.start_due()
            or await worker.has_waiting_tasks()
        ):
            await worker.work(5)
            await worker.outcome_buffer.flush()

    async def _count_open_work(self) -> dict[str, int]:
        queries = {
            "to plan": select(func.count()).select_from(notifications).where(_n.state.in_(_OPEN_STATES)),
            "to send": select(func.count()).select_from(deliveries).where(_d.state.in_(("pending", "sending"))),
            "to relay": select(func.count()).select_from(outbox),
            "to close": select(func.count()).select_from(digests).where(_g.state == "open"),
            "to start": select(func.count()).select_from(waiting_steps).where(*IS_WAITING),
        }
        async with self.store.read_snapshot() as tx:
            counts = {what: await connection_of(tx).scalar(query) for what, query in queries.items()}
        return {what: count for what, count in counts.items() if count}

    async def _next_due_at(self) -> datetime | None:
        now = self.clock.now()
        queries = (
            select(func.min(_o.due_at)).where(_o.due_at > now),
            select(func.min(_d.due_at)).where(_d.state == "pending", _d.due_at > now),
            select(func.min(_g.closes_at)).where(_g.state == "open", _g.closes_at > now),
            select(func.min(_w.due_at)).where(*IS_WAITING, _w.due_at > now),
        )
        async with self.store.read_snapshot() as tx:
            times = [await connection_of(tx).scalar(query) for query in queries]
        return min((time for time in times if time is not None), default=None)

    def _create_store(self) -> FaultyStore:
        return FaultyStore(*self.backend.engines, FieldCipher("a secret for the tests"), self.audience_kinds)

    def _create_process(self, *, has_local_consumer: bool) -> SimulatedProcess:
        return SimulatedProcess(
            self._create_store(),
            self.backend.create_queue(self.clock) if self.backend.create_queue else self.memory_queue,
            self.catalog,
            self.clock,
            self.provider_log,
            user_limit=self.user_limit,
            has_local_consumer=has_local_consumer,
            is_exclusive=self.backend.is_exclusive,
        )
