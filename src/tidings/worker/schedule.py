"""What runs at intervals, once among all processes (MISSION M22)."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from tidings.ports.clock import Clock
from tidings.ports.store import Store


@dataclass(slots=True)
class Scheduled:
    """One schedule. Several processes ask; the database gives each run to one of them, and missed ones once.

    When the next run is due is asked once and remembered until then: others may have taken it by that time, and it
    may have been moved, but who asks then learns both.
    """

    store: Store
    clock: Clock
    name: str
    every: timedelta
    work: Callable[[], Awaitable[object]]
    _due: datetime | None = None

    async def run_if_due(self) -> bool:
        """Do the work if it is due and nobody else has taken this run. Returns whether it did.

        Raises what the work raises; the run counts as taken, the next one is due at its time.
        """
        now = self.clock.now()
        if self._waits(now):
            return False
        async with self.store.look() as tx:
            self._due = await self.store.schedules.next_run(tx, self.name)
        if self._waits(now):
            return False
        self._due = None
        async with self.store.begin() as tx:
            mine = await self.store.schedules.claim(tx, self.name, every=self.every, now=now)
        if mine:
            await self.work()
        return mine

    def _waits(self, now: datetime) -> bool:
        # further ahead than that it cannot be: a clock has jumped
        return self._due is not None and now < self._due <= now + self.every
