"""Everything the machine moves: one database, one queue that can forget, processes that can die, and a clock."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil

from msgspec import structs
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.contract.machine.faulty import FaultyStore
from tests.contract.machine.post import Post
from tests.contract.machine.process import Process

from tidings.errors import BackendError
from tidings.flow.intake.catalog import Catalog
from tidings.model.ids import new_id
from tidings.model.notification import NotificationState
from tidings.model.priority import Priority
from tidings.model.task import Task
from tidings.model.template import Category, Template, Wording
from tidings.model.user import Preference, User
from tidings.packs import core
from tidings.ports.pack import Pack
from tidings.ports.queue import Queue
from tidings.queues.local import LocalQueue
from tidings.stores.connection import of
from tidings.stores.schema import deliveries, notifications, outbox
from tidings.stores.sealing import Sealer
from tidings.testing.clock import FrozenClock
from tidings.testing.contracts.samples import a_subscription

PACK = Pack(
    name="machine",
    categories=(Category("NEWS", "News"), Category("DUTY", "Duties", mandatory=True)),
    templates=tuple(
        Template(code=code, category=code, priority=Priority.NORMAL, words={"en": Wording("{{ title }}", "")})
        for code in ("NEWS", "DUTY")
    ),
)
#: user → devices; the last one has none, and the one before wants no news
DEVICES = {"ana": 2, "ben": 1, "cem": 1, "dora": 1, "eli": 1, "fay": 1, "gus": 0}
NO_NEWS = "fay"
#: rounds of a minute or more until everything must have ended: twelve of them are the most that was seen
ROUNDS = 40
MINUTE = timedelta(seconds=61)
MILLISECOND = timedelta(milliseconds=1)
#: how long a cancellation waits for a worker that does not hear, in the time of the clock
PATIENCE = timedelta(seconds=5)
#: no clock goes back further than this
SET_BACK = timedelta(seconds=1.5)

_d, _n, _o = deliveries.c, notifications.c, outbox.c
_OPEN = (NotificationState.ACCEPTED.value, NotificationState.FANNING_OUT.value)


class SharedLanes(LocalQueue):
    """Lanes in memory that count as shared, can forget everything, and can be away."""

    shared = True
    away = False

    async def publish(self, tasks: Sequence[Task]) -> None:
        self._ask()
        await super().publish(tasks)

    async def epoch(self) -> str:
        self._ask()
        return await super().epoch()

    def flush(self) -> None:
        """Forget everything, as a server does that is emptied."""
        vars(self).update(vars(LocalQueue(self._clock)))

    def _ask(self) -> None:
        if self.away:
            raise BackendError("the queue does not answer")


@dataclass(frozen=True)
class Backend:
    """Where a world lives."""

    #: in which everything runs
    runner: asyncio.Runner
    #: writer and reader
    engines: tuple[AsyncEngine, AsyncEngine]
    #: what makes the database empty again
    emptied: Callable[[FaultyStore], Awaitable[None]]
    #: a queue for one more process on a server; None = lanes in memory
    queue: Callable[[FrozenClock], Queue] | None = None
    #: erases the server
    flush: Callable[[], None] | None = None
    #: one process that has the database to itself, and lanes of its own
    alone: bool = False


class World:
    """One run of the machine."""

    def __init__(self, backend: Backend, clock: FrozenClock, user_limit: int) -> None:
        self.backend = backend
        self.clock = clock
        self.user_limit = user_limit
        self.catalog = Catalog.of([core.pack, PACK], channels=("webpush",), known_channels=("webpush",))
        self.post = Post()
        self.kinds = {kind.name: kind for kind in core.pack.audiences}
        self.lanes = LocalQueue(clock) if backend.alone else SharedLanes(clock)
        self.store = self._store()
        self.start = clock.now()
        #: the clock may be set back to here, and by how much it was in all
        self.floor = self.start - SET_BACK
        self.set_back = timedelta()
        #: how often that was asked for
        self.turns = 0
        self.workers = [self._process(attended=True) for _ in range(1 if backend.alone else 2)]
        self.api = self.workers[0] if backend.alone else self._process(attended=False)

    async def open(self) -> None:
        """Empty the database and let people in."""
        if self.backend.flush:
            self.backend.flush()
        await self.backend.emptied(self.store)
        now = self.clock.now()
        async with self.store.begin() as tx:
            await self.store.sync_categories(tx, PACK.categories)
            await self.store.users.upsert(tx, [User(name) for name in DEVICES], now)
            await self.store.users.set_preferences(tx, NO_NEWS, [Preference("NEWS", "webpush", enabled=False)])
        for name in DEVICES:
            await self.register(name)
        for worker in self.workers:
            await worker.recovery.redrive()

    async def close(self) -> None:
        for process in {self.api, *self.workers}:
            await process.queue.close()
            await process.queue.release()

    async def register(self, name: str) -> None:
        """Let a user's browsers subscribe, perhaps again."""
        async with self.store.begin() as tx:
            for number in range(DEVICES[name]):
                device = structs.replace(a_subscription(name, f"{name}-{number}"), id=new_id(self.clock.now()))
                await self.store.subscriptions.register(tx, device, replaces=None, now=self.clock.now())

    async def begin_anew(self, place: int) -> Process:
        """Start another process in the place of one that died or ended."""
        old = self.workers[place]
        old.die()
        await old.queue.release()
        if self.backend.alone:
            self.lanes = LocalQueue(self.clock)
        self.workers[place] = fresh = self._process(attended=True)
        if self.backend.alone:
            self.api = fresh
        await fresh.recovery.redrive()
        return fresh

    async def bury(self) -> None:
        """Start anew what has died."""
        for place, worker in enumerate(self.workers):
            if worker.dead:
                await self.begin_anew(place)

    def flush(self) -> None:
        """Have the shared queue forget everything."""
        if self.backend.flush:
            self.backend.flush()
        elif isinstance(self.lanes, SharedLanes):
            self.lanes.flush()

    def turn_back(self, by: timedelta) -> None:
        """Set the clock back a little, never to an instant that it has shown.

        Here everything happens at whole milliseconds, and two tries of a delivery would begin at one and the same
        instant, by which the ledger tells them apart.
        """
        self.turns += 1
        earliest = max(self.clock.now() - by, self.floor)
        milliseconds = ceil((earliest - self.start) / MILLISECOND)
        by = self.clock.now() - (self.start + milliseconds * MILLISECOND + self.turns * timedelta.resolution)
        if by > timedelta():
            self.set_back += by
            self.clock.advance(-by)

    async def cancel(self, notification_id: str, by: Process) -> None:
        """Cancel and, when that is confirmed, hold everybody to it. Raises as the pipeline does."""
        await by.pipeline.cancel(notification_id)
        async with self.store.read() as tx:
            unheard = await self.store.deliveries.any_sending(tx, notification_id)
        if unheard and by.pipeline.attended and self.backend.alone:
            unheard = False
        if unheard:
            # the one who asked waited in vain for a worker that did not hear, so time has passed
            self.clock.advance(PATIENCE)
        self.floor = max(self.floor, self.clock.now() - SET_BACK)
        self.post.cancelled.setdefault(notification_id, len(self.post.sent))

    async def come_to_rest(self) -> None:
        """Let nothing more go wrong, and time pass, until all work has ended. Raises AssertionError if it does not."""
        if isinstance(self.lanes, SharedLanes):
            self.lanes.away = False
        await self.bury()
        for process in {self.api, *self.workers}:
            process.wire.calm()
        for number in range(ROUNDS):
            for worker in self.workers:
                await worker.sweep()
                await worker.pipeline.give_back()
            await self._whole_round(self.workers[number % len(self.workers)])
            for worker in self.workers:
                await worker.pipeline.settle_outbox()
            if not (still := await self._still_open()):
                return
            due = await self._next_due()
            self.clock.advance(max(MINUTE, due - self.clock.now()) if due else MINUTE)
        raise AssertionError(f"after {ROUNDS} rounds this is still open: {still}")

    async def _whole_round(self, worker: Process) -> None:
        pipeline, recovery = worker.pipeline, worker.recovery
        await pipeline.learn_cancellations(worker.sender.held)
        await recovery.compare_epochs()
        await recovery.find_lost()
        while await pipeline.dispatch() or await pipeline.wake_due() or await worker.waiting():
            await worker.work(5)
            await worker.recorder.flush()

    async def _still_open(self) -> dict[str, int]:
        queries = {
            "to plan": select(func.count()).select_from(notifications).where(_n.state.in_(_OPEN)),
            "to send": select(func.count()).select_from(deliveries).where(_d.state.in_(("pending", "sending"))),
            "to hand over": select(func.count()).select_from(outbox),
        }
        async with self.store.read() as tx:
            found = {what: await of(tx).scalar(query) for what, query in queries.items()}
        return {what: count for what, count in found.items() if count}

    async def _next_due(self) -> datetime | None:
        now = self.clock.now()
        async with self.store.read() as tx:
            times = [
                await of(tx).scalar(select(func.min(_o.due_at)).where(_o.due_at > now)),
                await of(tx).scalar(select(func.min(_d.due_at)).where(_d.state == "pending", _d.due_at > now)),
            ]
        return min((time for time in times if time is not None), default=None)

    def _store(self) -> FaultyStore:
        return FaultyStore(*self.backend.engines, Sealer("a secret for the tests"), self.kinds)

    def _process(self, *, attended: bool) -> Process:
        return Process(
            self._store(),
            self.backend.queue(self.clock) if self.backend.queue else self.lanes,
            self.catalog,
            self.clock,
            self.post,
            user_limit=self.user_limit,
            attended=attended,
            exclusive=self.backend.alone,
        )
