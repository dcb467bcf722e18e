"""The outbox relay: publishes outbox rows to the queue and removes them afterwards.

Tasks are published right after the commit, or by `relay` if that failed. `ack` removes their rows a little later. If a
process dies in between, the task is published twice, which is harmless: the second one finds no work.
"""

from collections.abc import Sequence
from datetime import timedelta

import structlog

from tidings.errors import BackendError
from tidings.model.task import Task
from tidings.ports.clock import Clock
from tidings.ports.queue import Queue
from tidings.ports.store import Store

log = structlog.get_logger(__name__)


class OutboxRelay:
    """Publishes tasks, and remembers those whose outbox rows are not removed yet. One per process."""

    def __init__(self, store: Store, queue: Queue, clock: Clock, *, batch_size: int, grace_period: timedelta) -> None:
        """Create a relay.

        batch_size: maximum number of rows relayed together. grace_period: with a shared queue, minimum age of a row
        before it is relayed.
        """
        self._store = store
        self._queue = queue
        self._clock = clock
        self._batch_size = batch_size
        self._grace_period = grace_period
        self._published: dict[str, None] = {}

    async def publish(self, tasks: Sequence[Task]) -> bool:
        """Publish tasks of committed outbox rows. Returns False if the queue failed.

        Never raises, as the rows remain in the outbox. The queue adapter logs the outage.
        """
        try:
            await self._queue.publish(tasks)
        except BackendError as error:
            log.debug("tasks_left_in_outbox", tasks=len(tasks), error=error.message)
            return False
        except Exception:  # the caller's work is committed and must not appear to have failed
            log.exception("hand_over_failed", tasks=len(tasks))
            return False
        self._published.update(dict.fromkeys(task.id for task in tasks))
        return True

    async def relay(self) -> int:
        """Publish due outbox rows. Returns the number of published tasks.

        With a shared queue, rows younger than the grace period are left out: the process that wrote them normally
        publishes them itself.
        """
        if len(self._published) >= 2 * self._batch_size:
            # with a long backlog, each query would read the published rows again
            await self.ack()
        now = self._clock.now()
        created_before = now - self._grace_period if self._queue.is_shared else None
        async with self._store.read_once() as tx:
            limit = self._batch_size + len(self._published)
            due = await self._store.outbox.list_due(tx, now, limit, created_before=created_before)
        unpublished = [task for task in due if task.id not in self._published]
        return len(unpublished) if unpublished and await self.publish(unpublished) else 0

    async def ack(self) -> None:
        """Remove the outbox rows of published tasks. Not part of `publish`, so that accepting does not wait for it."""
        if task_ids := list(self._published):
            async with self._store.transaction() as tx:
                await self._store.outbox.remove(tx, task_ids)
            for task_id in task_ids:
                self._published.pop(task_id, None)
