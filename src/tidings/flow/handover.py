"""From the outbox to the queue: at once after a commit, by the relay when that failed, and crossed off a little later.

The outbox keeps a row until the queue has its task. Whoever dies in between has it handed over twice, which is
harmless: the second finds nothing to do.
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


class Handover:
    """Knows which tasks the queue has and the outbox still lists. One per process."""

    def __init__(self, store: Store, queue: Queue, clock: Clock, *, relay: int, grace: timedelta) -> None:
        """Take how many rows are relayed together, and how old a row must be before other processes relay it."""
        self._store = store
        self._queue = queue
        self._clock = clock
        self._relay = relay
        self._grace = grace
        self._handed_over: dict[str, None] = {}
        self._away = False

    async def publish(self, tasks: Sequence[Task]) -> bool:
        """Give the queue what is committed; False if it did not take it. Never raises: the outbox still has it."""
        try:
            await self._queue.publish(tasks)
        except BackendError as error:
            if not self._away:
                log.warning("queue_away", tasks=len(tasks), problem=error.message)
            self._away = True
            return False
        except Exception:  # the caller's work is committed, and must not look as if it had failed
            log.exception("hand_over_failed", tasks=len(tasks))
            return False
        if self._away:
            log.info("queue_back")
        self._away = False
        self._handed_over.update(dict.fromkeys(task.id for task in tasks))
        return True

    async def relay(self) -> int:
        """Give the queue what is due and still in the outbox. Returns how many tasks it took.

        With a shared queue others have just been given most of it by the process that wrote it: only what is older
        than the grace is taken, so that it is not said twice.
        """
        if len(self._handed_over) >= 2 * self._relay:
            # a long backlog: what was handed over would be read again with every look
            await self.settle()
        now = self._clock.now()
        made_before = now - self._grace if self._queue.shared else None
        async with self._store.look() as tx:
            limit = self._relay + len(self._handed_over)
            due = await self._store.outbox.due(tx, now, limit, made_before=made_before)
        fresh = [task for task in due if task.id not in self._handed_over]
        return len(fresh) if fresh and await self.publish(fresh) else 0

    async def settle(self) -> None:
        """Cross off in the outbox what the queue has: off the way of what was just accepted."""
        if handed_over := list(self._handed_over):
            async with self._store.begin() as tx:
                await self._store.outbox.remove(tx, handed_over)
            for task_id in handed_over:
                self._handed_over.pop(task_id, None)
