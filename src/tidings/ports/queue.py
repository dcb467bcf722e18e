"""The queue wakes workers. It holds hints only: the database knows what the work is (MISSION B4)."""

from collections.abc import Sequence
from typing import Protocol

from tidings.model.priority import Lane
from tidings.model.task import Task


class Queue(Protocol):
    """Lanes of tasks, each task due at a time."""

    async def publish(self, tasks: Sequence[Task]) -> None:
        """Put tasks on their lanes. Raises BackendError when the queue does not answer in time."""
        ...

    async def take(self, lane: Lane, limit: int) -> Sequence[Task]:
        """Wait until at least one task of the lane is due, then return up to `limit` of them, oldest first."""
        ...

    async def done(self, tasks: Sequence[Task]) -> None:
        """Tell the queue that the tasks need no repeat."""
        ...

    async def epoch(self) -> str:
        """Return an id that changes whenever the queue lost what it held; a new one makes everything re-driven."""
        ...

    async def close(self) -> None:
        """Stop handing out tasks and free resources. Waiting `take` calls end with an empty sequence."""
        ...
