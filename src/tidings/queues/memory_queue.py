"""The in-memory queue. Its tasks are lost with the process; the reconciler re-enqueues them from the database."""

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

#: attempts per task, as in the shared queue; afterwards the reconciler re-enqueues the work
MAX_ATTEMPTS = 4
#: the rate is averaged over this window, in buckets of `RATE_BUCKET_SECONDS` seconds
RATE_WINDOW_SECONDS = 60
RATE_BUCKET_SECONDS = 10


@dataclass(slots=True)
class _LaneState:
    #: due tasks and when each was published, first in first out
    waiting: deque[tuple[Task, datetime]] = field(default_factory=deque)
    #: a heap of (due time, sequence number, task, published time)
    delayed: list[tuple[datetime, int, Task, datetime]] = field(default_factory=list)
    #: (id, generation) of the waiting and delayed tasks
    queued_keys: set[tuple[str, int]] = field(default_factory=set)
    #: (id, generation) → how often the task was handed out and not finished
    active: Counter[tuple[str, int]] = field(default_factory=Counter)
    #: (id, generation) → failed attempts, for tasks that wait for a retry
    failed_attempts: dict[tuple[str, int], int] = field(default_factory=dict)
    #: time bucket → tasks completed in it
    completed_by_bucket: dict[int, int] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    failed: int = 0
    completed: int = 0


class MemoryQueue:
    """Implements `ports.queue.Queue` for one process and one event loop."""

    is_shared = False
    #: never unavailable
    down_seconds: float | None = None

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._instance_id = new_id(clock.now())
        self._lanes = {lane: _LaneState() for lane in LANES}
        self._sequence = 0
        self._is_stopped = False

    async def publish(self, tasks: Sequence[Task]) -> None:
        now = self._clock.now()
        for task in tasks:
            self._enqueue(task, task.due_at, now)

    async def receive(self, lane: Lane, limit: int) -> Sequence[Task]:
        state = self._lanes[lane]
        while not self._is_stopped:
            now = self._clock.now()
            self._promote_due(state, now)
            if state.waiting:
                return self._hand_out(state, limit)
            state.changed.clear()
            seconds = (state.delayed[0][0] - now).total_seconds() if state.delayed else None
            try:
                async with asyncio.timeout(seconds):
                    await state.changed.wait()
            except TimeoutError:
                continue
        return []

    async def ack(self, tasks: Sequence[Task]) -> None:
        bucket = self._current_bucket()
        for task in tasks:
            state = self._lanes[task.lane]
            if not self._remove_in_flight(task):
                continue
            state.failed_attempts.pop(_task_key(task), None)
            state.completed += 1
            state.completed_by_bucket[bucket] = state.completed_by_bucket.get(bucket, 0) + 1
            if len(state.completed_by_bucket) > RATE_WINDOW_SECONDS // RATE_BUCKET_SECONDS + 1:
                del state.completed_by_bucket[min(state.completed_by_bucket)]

    async def nack(self, tasks: Sequence[Task], *, retry_at: datetime, why: str) -> None:  # noqa: ARG002
        """As the port says. `why` is not kept: the database records failures."""
        now = self._clock.now()
        for task in tasks:
            if not self._remove_in_flight(task):
                continue
            state = self._lanes[task.lane]
            failures = state.failed_attempts.pop(_task_key(task), 0) + 1
            if failures >= MAX_ATTEMPTS:
                state.failed += 1
                continue
            state.failed_attempts[_task_key(task)] = failures
            self._enqueue(task, retry_at, now)

    async def instance_id(self) -> str:
        return self._instance_id

    async def stats(self, lane: Lane) -> LaneStats:
        state = self._lanes[lane]
        self._promote_due(state, self._clock.now())
        oldest = state.waiting[0][1] if state.waiting else None
        window_start = self._current_bucket() - RATE_WINDOW_SECONDS // RATE_BUCKET_SECONDS
        completed = sum(count for bucket, count in state.completed_by_bucket.items() if bucket > window_start)
        return LaneStats(
            waiting=len(state.waiting),
            active=state.active.total(),
            delayed=len(state.delayed),
            failed=state.failed,
            completed=state.completed,
            oldest_published_at=oldest,
            rate=completed / RATE_WINDOW_SECONDS,
        )

    async def external_stats(self) -> LaneStats | None:
        return None

    async def purge(self) -> None:
        """Do nothing: finished tasks are not kept."""

    async def ping(self) -> None:
        """Do nothing: memory is always available."""

    async def stop(self) -> None:
        self._is_stopped = True
        for state in self._lanes.values():
            state.changed.set()

    async def aclose(self) -> None:
        """Do nothing: there is nothing to free."""

    def has_in_flight(self, task: Task) -> bool:
        """Return whether the task was received from this queue and is not finished."""
        return self._lanes[task.lane].active[_task_key(task)] > 0

    def _enqueue(self, task: Task, due_at: datetime, now: datetime) -> None:
        state = self._lanes[task.lane]
        if _task_key(task) in state.queued_keys:
            return
        state.queued_keys.add(_task_key(task))
        if due_at <= now:
            # tasks that became due earlier go first
            self._promote_due(state, now)
            state.waiting.append((task, now))
        else:
            self._sequence += 1
            heapq.heappush(state.delayed, (due_at, self._sequence, task, now))
        state.changed.set()

    def _promote_due(self, state: _LaneState, now: datetime) -> None:
        while state.delayed and state.delayed[0][0] <= now:
            _, _, task, published_at = heapq.heappop(state.delayed)
            state.waiting.append((task, published_at))

    def _hand_out(self, state: _LaneState, limit: int) -> list[Task]:
        tasks = [state.waiting.popleft()[0] for _ in range(min(limit, len(state.waiting)))]
        for task in tasks:
            state.queued_keys.discard(_task_key(task))
            state.active[_task_key(task)] += 1
        return tasks

    def _remove_in_flight(self, task: Task) -> bool:
        """Remove the task from the active ones; return False if it was not active."""
        active, key = self._lanes[task.lane].active, _task_key(task)
        if active[key] <= 1:
            return active.pop(key, 0) > 0
        active[key] -= 1
        return True

    def _current_bucket(self) -> int:
        return int(self._clock.now().timestamp()) // RATE_BUCKET_SECONDS


def _task_key(task: Task) -> tuple[str, int]:
    return task.id, task.generation
