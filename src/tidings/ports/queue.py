"""The queue wakes workers. It carries ids only; the work itself is in the database."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from tidings.model.priority import Lane
from tidings.model.task import Task


@dataclass(frozen=True, slots=True)
class LaneStats:
    """Statistics of one lane. None of them requires counting row by row."""

    waiting: int
    active: int
    #: due later
    delayed: int
    #: tasks that the queue no longer retries; their work is in the database and is re-enqueued from there
    failed: int
    #: since the queue began to count, or for as long as it keeps finished tasks
    completed: int
    #: when the oldest waiting task was published; None = no task waits
    oldest_published_at: datetime | None
    #: tasks finished per second over the last minute, by all processes together
    rate: float


class Queue(Protocol):
    """Lanes of tasks, each with a due time.

    A task that already waits (same id and generation) is not added a second time.
    """

    @property
    def is_shared(self) -> bool:
        """Whether other processes see the same tasks."""
        ...

    @property
    def down_seconds(self) -> float | None:
        """Seconds for which a shared queue has been unavailable to this process; None = it is available."""
        ...

    async def publish(self, tasks: Sequence[Task]) -> None:
        """Put tasks on their lanes. Raises BackendError when the queue does not answer in time."""
        ...

    async def receive(self, lane: Lane, limit: int) -> Sequence[Task]:
        """Wait until at least one task of the lane is due, then return up to `limit` of them, oldest first.

        A queue that stores several tasks in one entry may return a few more. Empty only after `stop`.
        """
        ...

    async def ack(self, tasks: Sequence[Task]) -> None:
        """Mark tasks as finished. Never raises when the queue is unavailable: a redelivery is harmless."""
        ...

    async def nack(self, tasks: Sequence[Task], *, retry_at: datetime, why: str) -> None:
        """Return failed tasks to the queue, due again at `retry_at`. Never raises, as `ack`."""
        ...

    async def instance_id(self) -> str:
        """Return the queue epoch, an id that changes when the queue lost its data. All open work is then re-enqueued.

        Raises BackendError when the queue does not answer in time.
        """
        ...

    async def stats(self, lane: Lane) -> LaneStats:
        """Return the statistics of a lane. Raises BackendError as `instance_id`."""
        ...

    async def external_stats(self) -> LaneStats | None:
        """Return the statistics of the intake queue, in jobs. Raises BackendError as `instance_id`.

        None: there is no intake queue, or it is unreachable during a local fallback.
        """
        ...

    async def purge(self) -> None:
        """Delete finished tasks after their retention. Raises BackendError as `instance_id`."""
        ...

    async def ping(self) -> None:
        """Raise BackendError if the queue does not answer or accepts no tasks."""
        ...

    async def stop(self) -> None:
        """Stop delivering tasks. Waiting `receive` calls return an empty sequence; `ack` and `nack` still work."""
        ...

    async def aclose(self) -> None:
        """Free resources. Call it after `stop` and the last `ack`."""
        ...
