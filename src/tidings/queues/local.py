"""The embedded queue: lanes in memory. What it holds is gone with the process, and the database says it again."""

import asyncio
import heapq
from collections.abc import Sequence
from datetime import datetime

from tidings.model.ids import new_id
from tidings.model.priority import LANES, Lane
from tidings.model.task import Task
from tidings.ports.clock import Clock


class LocalQueue:
    """Implements `ports.queue.Queue` for one process and one event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._epoch = new_id(clock.now())
        self._lanes: dict[Lane, list[tuple[datetime, int, Task]]] = {lane: [] for lane in LANES}
        self._news = {lane: asyncio.Event() for lane in LANES}
        self._count = 0
        self._closed = False

    async def publish(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self._count += 1
            heapq.heappush(self._lanes[task.lane], (task.due_at, self._count, task))
        for lane in {task.lane for task in tasks}:
            self._news[lane].set()

    async def take(self, lane: Lane, limit: int) -> Sequence[Task]:
        waiting, news = self._lanes[lane], self._news[lane]
        while not self._closed:
            now = self._clock.now()
            due: list[Task] = []
            while waiting and waiting[0][0] <= now and len(due) < limit:
                due.append(heapq.heappop(waiting)[2])
            if due:
                return due
            news.clear()
            pause = (waiting[0][0] - now).total_seconds() if waiting else None
            try:
                async with asyncio.timeout(pause):
                    await news.wait()
            except TimeoutError:
                continue
        return []

    async def done(self, tasks: Sequence[Task]) -> None:
        """Nothing to do: a task left the queue when it was taken."""

    async def epoch(self) -> str:
        return self._epoch

    async def close(self) -> None:
        self._closed = True
        for news in self._news.values():
            news.set()

    def depth(self, lane: Lane) -> int:
        """Return how many tasks wait on a lane."""
        return len(self._lanes[lane])
