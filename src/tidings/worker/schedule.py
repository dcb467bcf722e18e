"""What runs at intervals, once among all processes (MISSION M22)."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from tidings.ports.clock import Clock
from tidings.ports.store import Store


@dataclass(frozen=True, slots=True)
class Scheduled:
    """One schedule. Several processes ask; the database gives each run to one of them, and missed ones once."""

    store: Store
    clock: Clock
    name: str
    every: timedelta
    work: Callable[[], Awaitable[object]]

    async def run_if_due(self) -> bool:
        """Do the work if it is due and nobody else has taken this run. Returns whether it did.

        Raises what the work raises; the run counts as taken, the next one is due at its time.
        """
        now = self.clock.now()
        async with self.store.look() as tx:
            due = await self.store.schedules.next_run(tx, self.name)
        if due is not None and now < due <= now + self.every:
            return False
        async with self.store.begin() as tx:
            mine = await self.store.schedules.claim(tx, self.name, every=self.every, now=now)
        if mine:
            await self.work()
        return mine
