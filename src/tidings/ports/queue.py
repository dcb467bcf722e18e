"""The queue wakes workers. It holds hints only: the database knows what the work is (MISSION B4)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from tidings.model.priority import Lane
from tidings.model.task import Task


@dataclass(frozen=True, slots=True)
class LaneStats:
    """How one lane stands (MISSION M20). Nothing here is counted row by row."""

    waiting: int
    active: int
    #: due later
    delayed: int
    #: given up on; the work itself is in the database and is found there
    failed: int
    #: since the queue began to count, or of as long as it keeps finished ones
    completed: int
    #: when the oldest waiting task was published; None = none waits
    oldest: datetime | None
    #: tasks done per second over the last minute, by all processes together
    rate: float


class Queue(Protocol):
    """Lanes of tasks, each task due at a time.

    A task that waits already (same id and generation) is not put in a second time.
    """

    @property
    def shared(self) -> bool:
        """Whether other processes see the same tasks."""
        ...

    async def publish(self, tasks: Sequence[Task]) -> None:
        """Put tasks on their lanes. Raises BackendError when the queue does not answer in time."""
        ...

    async def take(self, lane: Lane, limit: int) -> Sequence[Task]:
        """Wait until at least one task of the lane is due, then return up to `limit` of them, oldest first.

        A queue that carries several tasks in one job may return a few more. Empty only when the queue was closed.
        """
        ...

    async def done(self, tasks: Sequence[Task]) -> None:
        """Tell the queue that the tasks need no repeat. Never raises for a queue that is away: a repeat is harmless."""
        ...

    async def again(self, tasks: Sequence[Task], *, at: datetime, why: str) -> None:
        """Give tasks back that failed, to be taken again at `at`. Never raises, as `done`."""
        ...

    async def epoch(self) -> str:
        """Return an id that changes whenever the queue lost what it held; a new one makes everything re-driven.

        Raises BackendError when the queue does not answer in time.
        """
        ...

    async def stats(self, lane: Lane) -> LaneStats:
        """Say how a lane stands. Raises BackendError as `epoch`."""
        ...

    async def intake(self) -> LaneStats | None:
        """Say how the queue stands on which other services leave jobs, in jobs. Raises BackendError as `epoch`.

        None: there is none, or it cannot be asked while the process goes on without the shared queue.
        """
        ...

    async def tidy(self) -> None:
        """Erase finished tasks that have been kept long enough (MISSION M27). Raises BackendError as `epoch`."""
        ...

    async def ping(self) -> None:
        """Raise BackendError if the queue does not answer."""
        ...

    async def close(self) -> None:
        """Stop handing out tasks. Waiting `take` calls end with an empty sequence; `done` and `again` still work."""
        ...

    async def release(self) -> None:
        """Free resources, after `close` and the last `done`."""
        ...
