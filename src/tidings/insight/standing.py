"""How the system stands: the lanes, the oldest accepted work, the running processes. A few cheap, bounded reads."""

from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from tidings.ending import within
from tidings.errors import BackendError
from tidings.model.priority import LANES, Lane
from tidings.ports.clock import Clock
from tidings.ports.operations import Process
from tidings.ports.queue import LaneStats, Queue
from tidings.ports.store import Store

_T = TypeVar("_T")
#: seconds that the database may take to answer a question about itself
ANSWERS_WITHIN = 3.0
#: a process that was not seen for so long has ended or is stuck; it says so every five seconds
SEEN_WITHIN = timedelta(seconds=30)
#: a worker whose timers stand still for so long is stuck, in seconds; they go round twice a second
STUCK_AFTER = 30.0
#: dead letters that are counted at most: whether there are some, and become more
DEAD_LETTERS_COUNTED = 1_000
#: kinds of processes that send
WORKERS = ("serve", "worker")


@dataclass(frozen=True, slots=True)
class QueueStanding:
    """How far behind the work is."""

    #: empty when the queue does not answer
    lanes: Mapping[Lane, LaneStats]
    #: the queue for jobs from outside, None = there is none or it does not answer
    intake: LaneStats | None
    #: why the queue cannot be asked, None = it can
    away: str | None
    #: when the oldest task that is not with the queue was or will be due, None = there is none
    next_due: datetime | None
    #: seconds that the oldest waiting work has been waiting for, per lane and before the lanes
    lag: Mapping[Lane, float]
    outbox_age: float
    #: seconds that the oldest job waits on the queue for jobs from outside
    intake_lag: float

    @property
    def behind(self) -> float:
        """Seconds that the oldest work of all has been waiting for."""
        return max(self.outbox_age, *self.lag.values()) if self.lag else self.outbox_age


async def queue_standing(store: Store, queue: Queue, clock: Clock) -> QueueStanding:
    """Ask queue and database. Raises BackendError when the database does not answer in time."""
    lanes: dict[Lane, LaneStats] = {}
    intake = away = None
    try:
        for lane in LANES:
            lanes[lane] = await queue.stats(lane)
        await queue.ping()
        # apart: others write to it too, and what they broke there says nothing about the lanes
        with suppress(BackendError):
            intake = await queue.intake()
    except BackendError as error:
        lanes, away = {}, error.message
    due = await answered(_next_due(store))
    now = clock.now()
    return QueueStanding(
        lanes=lanes,
        intake=intake,
        away=away,
        next_due=due,
        lag={lane: _age(stats.oldest, now) for lane, stats in lanes.items()},
        outbox_age=_age(due, now),
        intake_lag=0.0 if intake is None else _age(intake.oldest, now),
    )


async def running(store: Store, clock: Clock) -> Sequence[Process]:
    """Return the processes that were seen lately. Raises BackendError when the database does not answer in time."""
    return await answered(_seen(store, clock.now() - SEEN_WITHIN))


async def dead_letters(store: Store) -> int:
    """Count dead letters, up to `DEAD_LETTERS_COUNTED`. Raises BackendError as `running`."""
    return await answered(_dead_letters(store))


def is_stuck(process: Process) -> bool:
    """Decide whether a worker lives but does not work."""
    age = process.detail.get("roundAge")
    return isinstance(age, int | float) and age > STUCK_AFTER


async def answered(question: Coroutine[Any, Any, _T]) -> _T:
    """Give the database `ANSWERS_WITHIN` seconds for a question. Raises BackendError after that, and what it raises."""
    try:
        return await within(ANSWERS_WITHIN, question)
    except TimeoutError as error:
        raise BackendError(f"the database did not answer within {ANSWERS_WITHIN:g} s") from error


async def _next_due(store: Store) -> datetime | None:
    async with store.read() as tx:
        return await store.outbox.next_due(tx)


async def _seen(store: Store, since: datetime) -> Sequence[Process]:
    async with store.read() as tx:
        return await store.processes.seen(tx, since)


async def _dead_letters(store: Store) -> int:
    async with store.read() as tx:
        return await store.dead_letters.count(tx, most=DEAD_LETTERS_COUNTED)


def _age(since: datetime | None, now: datetime) -> float:
    return 0.0 if since is None else max(0.0, (now - since).total_seconds())
