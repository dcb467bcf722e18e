"""Work repeated at intervals: in one process (`IntervalTask`), or once among all processes (`ScheduledTask`)."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from tidings.backend_health import BackendHealth
from tidings.errors import BackendError
from tidings.ports.clock import Clock
from tidings.ports.store import Store

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class IntervalTask:
    """Work that this process repeats."""

    #: seconds from the end of one run to the start of the next
    every: float
    work: Callable[[], Awaitable[object]]
    #: the task's name in the log, by default that of `work`
    label: str = ""

    @property
    def name(self) -> str:
        """The task's name in the log."""
        return self.label or str(getattr(self.work, "__name__", "work")).removeprefix("_")


async def run_intervals(tasks: Sequence[IntervalTask], database_health: BackendHealth, *, poll_interval: float) -> None:
    """Run each task when it is due, one after the other, until cancelled. A failed run is logged, not raised.

    poll_interval: seconds between checks for due tasks. database_health: receives each failure of the database; the
    adapters of other back ends observe them themselves.
    """
    loop, current = asyncio.get_running_loop(), asyncio.current_task()
    assert current is not None, "runs in a task"
    due = [loop.time() + task.every for task in tasks]
    while True:
        for index, task in enumerate(tasks):
            if loop.time() >= due[index]:
                await _run_guarded(task, database_health)
                # a library that swallows the cancellation must not keep the process alive
                if current.cancelling():
                    return
                due[index] = loop.time() + task.every
        await asyncio.sleep(poll_interval)


async def _run_guarded(task: IntervalTask, database_health: BackendHealth) -> None:
    try:
        await task.work()
    except BackendError as error:
        database_health.record_own_failure(error)
    except Exception:  # the next run repeats it; if the loop ended, all sending would stop
        log.exception("background_task_failed", task=task.name)


@dataclass(slots=True)
class ScheduledTask:
    """Work that runs at intervals, once among all processes.

    The database gives each run to one process. One run makes up for all that were missed while no process was running.
    The time of the next run is read once and kept until then. It is read again before the claim, since another process
    may have claimed the run or the run may have been rescheduled.
    """

    store: Store
    clock: Clock
    name: str
    every: timedelta
    work: Callable[[], Awaitable[object]]
    _next_run_at: datetime | None = None

    async def run_if_due(self) -> bool:
        """Do the work if it is due and no other process has claimed this run. Return whether it was done.

        Raises what the work raises. The run then counts as done, and the next one is due at its regular time.
        """
        now = self.clock.now()
        if self._is_waiting(now):
            return False
        async with self.store.read_once() as tx:
            self._next_run_at = await self.store.schedules.next_run_at(tx, self.name)
        if self._is_waiting(now):
            return False
        self._next_run_at = None
        async with self.store.transaction() as tx:
            is_claimed = await self.store.schedules.claim_run(tx, self.name, every=self.every, now=now)
        if is_claimed:
            await self.work()
        return is_claimed

    def _is_waiting(self, now: datetime) -> bool:
        # a next run further ahead than the interval means that the clock has jumped
        return self._next_run_at is not None and now < self._next_run_at <= now + self.every
