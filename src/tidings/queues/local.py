"""The embedded queue: lanes in memory. What it holds is gone with the process, and the database says it again."""

import asyncio
import heapq
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tidings.model.ids import new_id
from tidings.model.priority import LANES, Lane
from tidings.model.task import Task
from tidings.ports.clock import Clock
from tidings.ports.queue import LaneStats

#: tries of one task before it is left to the sweep, as the shared queue does
MOST_TRIES = 4
#: the rate is told over this time, in steps of `RATE_STEP` seconds
RATE_OVER = 60
RATE_STEP = 10


@dataclass(slots=True)
class _Lane:
    #: due tasks and when they were published, first in first out
    waiting: deque[tuple[Task, datetime]] = field(default_factory=deque)
    #: (due, count, task, published): a heap by the time they are due
    delayed: list[tuple[datetime, int, Task, datetime]] = field(default_factory=list)
    #: id and generation of all that wait or are delayed
    known: set[tuple[str, int]] = field(default_factory=set)
    #: id and generation → how often it was handed out and not settled
    active: Counter[tuple[str, int]] = field(default_factory=Counter)
    #: id and generation → failed tries, of those that failed and wait for the next
    tries: dict[tuple[str, int], int] = field(default_factory=dict)
    #: step of the clock → tasks done in it
    done: dict[int, int] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    failed: int = 0
    completed: int = 0


class LocalQueue:
    """Implements `ports.queue.Queue` for one process and one event loop."""

    shared = False

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._epoch = new_id(clock.now())
        self._lanes = {lane: _Lane() for lane in LANES}
        self._count = 0
        self._closed = False

    async def publish(self, tasks: Sequence[Task]) -> None:
        now = self._clock.now()
        for task in tasks:
            self._put(task, task.due_at, now)

    async def take(self, lane: Lane, limit: int) -> Sequence[Task]:
        held = self._lanes[lane]
        while not self._closed:
            now = self._clock.now()
            self._promote(held, now)
            if held.waiting:
                return self._taken(held, limit)
            held.news.clear()
            pause = (held.delayed[0][0] - now).total_seconds() if held.delayed else None
            try:
                async with asyncio.timeout(pause):
                    await held.news.wait()
            except TimeoutError:
                continue
        return []

    async def done(self, tasks: Sequence[Task]) -> None:
        step = self._step()
        for task in tasks:
            held = self._lanes[task.lane]
            if not self._settle(task):
                continue
            held.tries.pop(_key(task), None)
            held.completed += 1
            held.done[step] = held.done.get(step, 0) + 1
            if len(held.done) > RATE_OVER // RATE_STEP + 1:
                del held.done[min(held.done)]

    async def again(self, tasks: Sequence[Task], *, at: datetime, why: str) -> None:  # noqa: ARG002
        """`why` is not kept: what failed is recorded in the database."""
        now = self._clock.now()
        for task in tasks:
            if not self._settle(task):
                continue
            held = self._lanes[task.lane]
            failed = held.tries.pop(_key(task), 0) + 1
            if failed >= MOST_TRIES:
                held.failed += 1
                continue
            held.tries[_key(task)] = failed
            self._put(task, at, now)

    async def epoch(self) -> str:
        return self._epoch

    async def stats(self, lane: Lane) -> LaneStats:
        held = self._lanes[lane]
        self._promote(held, self._clock.now())
        oldest = held.waiting[0][1] if held.waiting else None
        first = self._step() - RATE_OVER // RATE_STEP
        done = sum(count for step, count in held.done.items() if step > first)
        return LaneStats(
            waiting=len(held.waiting),
            active=held.active.total(),
            delayed=len(held.delayed),
            failed=held.failed,
            completed=held.completed,
            oldest=oldest,
            rate=done / RATE_OVER,
        )

    async def intake(self) -> LaneStats | None:
        return None

    async def tidy(self) -> None:
        """Nothing to do: what is done is not kept."""

    async def ping(self) -> None:
        """Always there."""

    async def close(self) -> None:
        self._closed = True
        for held in self._lanes.values():
            held.news.set()

    async def release(self) -> None:
        """Nothing to free."""

    def holds(self, task: Task) -> bool:
        """Return whether the task was taken from here and not settled yet."""
        return self._lanes[task.lane].active[_key(task)] > 0

    def depth(self, lane: Lane) -> int:
        """Return how many tasks wait on a lane, delayed ones included."""
        return len(self._lanes[lane].waiting) + len(self._lanes[lane].delayed)

    def _put(self, task: Task, due_at: datetime, now: datetime) -> None:
        held = self._lanes[task.lane]
        if _key(task) in held.known:
            return
        held.known.add(_key(task))
        if due_at <= now:
            # what came due before goes first
            self._promote(held, now)
            held.waiting.append((task, now))
        else:
            self._count += 1
            heapq.heappush(held.delayed, (due_at, self._count, task, now))
        held.news.set()

    def _promote(self, held: _Lane, now: datetime) -> None:
        while held.delayed and held.delayed[0][0] <= now:
            _, _, task, published = heapq.heappop(held.delayed)
            held.waiting.append((task, published))

    def _taken(self, held: _Lane, limit: int) -> list[Task]:
        tasks = [held.waiting.popleft()[0] for _ in range(min(limit, len(held.waiting)))]
        for task in tasks:
            held.known.discard(_key(task))
            held.active[_key(task)] += 1
        return tasks

    def _settle(self, task: Task) -> bool:
        """Take the task off the active ones; false if it was not among them."""
        active, key = self._lanes[task.lane].active, _key(task)
        if active[key] <= 1:
            return active.pop(key, 0) > 0
        active[key] -= 1
        return True

    def _step(self) -> int:
        return int(self._clock.now().timestamp()) // RATE_STEP


def _key(task: Task) -> tuple[str, int]:
    return task.id, task.generation
