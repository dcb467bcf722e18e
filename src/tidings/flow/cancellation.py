"""Cancelling is final in every process: once it is confirmed, no worker starts another send of that notification.

Its own worker is told at once. Workers of other processes look for cancellations every second, and none sends on the
strength of a look that is older than `TRUSTED_FOR`. So whoever cancels waits until nothing of it is claimed any more,
or, when a worker does not say so (it was killed, or lost the database), for longer than anybody trusts an old look.
"""

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import datetime, timedelta

import structlog

from tidings.errors import BackendError, Conflict, NotFound
from tidings.model.notification import NotificationState
from tidings.ports.clock import Clock
from tidings.ports.store import Store

log = structlog.get_logger(__name__)

#: how old a look for cancellations may be when a message is sent on the strength of it
TRUSTED_FOR = timedelta(seconds=3)
#: how long a cancellation waits for other processes at most, in seconds; longer than any of them trusts an old look
PATIENCE = 5.0
#: seconds between looks whether something is still claimed: at first, and at most
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.25


class Cancellations:
    """Cancels, and hears of what others cancelled. One per process."""

    def __init__(self, store: Store, clock: Clock, *, exclusive: bool) -> None:
        """`exclusive`: no other process sends from this database."""
        self._store = store
        self._clock = clock
        self._exclusive = exclusive
        self._told: list[Callable[[str], None]] = []
        self._heard_at: datetime | None = None
        self._hearing = asyncio.Lock()

    def on_cancel(self, call: Callable[[str], None]) -> None:
        """Register what is told the id of a cancelled notification at once."""
        self._told.append(call)

    async def cancel(self, notification_id: str, *, attended: bool) -> None:
        """Cancel for good. `attended`: a worker of this process sends.

        Raises NotFound, or Conflict when everything has been sent already.
        """
        async with self._store.begin() as tx:
            notification = await self._store.notifications.get(tx, notification_id)
            if notification is None:
                raise NotFound(f"Notification {notification_id[:60]} does not exist.", code="unknown_notification")
            if notification.state is NotificationState.FANNED_OUT:
                counts = await self._store.notifications.counts(tx, notification_id)
                if not counts.by_state.get("pending") and not counts.by_state.get("sending"):
                    raise Conflict("everything has been sent already", code="already_sent")
            await self._store.notifications.cancel(tx, notification_id)
            # what would have planned it, perhaps in a year: it has nothing to do any more, and waits for nothing
            await self._store.outbox.remove(tx, [notification_id])
        self._tell([notification_id])
        if not (attended and self._exclusive):
            await self._until_nothing_is_sending(notification_id)

    async def learn(self, held: Collection[str]) -> None:
        """Hear which of the notifications that this process holds were cancelled by another one."""
        now = self._clock.now()
        if held:
            async with self._store.look() as tx:
                cancelled = await self._store.notifications.cancelled(tx, list(held))
            self._tell(cancelled)
        self._heard_at = now

    async def heard(self, held: Collection[str]) -> None:
        """Return once this process has looked for cancellations lately, looking if need be.

        While the database does not answer nobody knows what was cancelled, and this waits.
        """
        while not self._is_fresh():
            async with self._hearing:
                if self._is_fresh():
                    return
                try:
                    await self.learn(held)
                except BackendError as error:
                    log.warning("cancellations_unknown", problem=error.message)
                    await asyncio.sleep(min(error.retry_after, 1.0))

    def _is_fresh(self) -> bool:
        return self._heard_at is not None and abs(self._clock.now() - self._heard_at) <= TRUSTED_FOR

    def _tell(self, notification_ids: Collection[str]) -> None:
        for notification_id in notification_ids:
            for tell in self._told:
                tell(notification_id)

    async def _until_nothing_is_sending(self, notification_id: str) -> None:
        """Wait for other processes' workers to hear of a cancellation, which they do within a second or so.

        One that does not has no say any more: its claims run out, and whoever takes them over sees the cancellation.
        """
        pause = FIRST_PAUSE
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while await self._is_sending(notification_id):  # it happens in another process
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)

    async def _is_sending(self, notification_id: str) -> bool:
        async with self._store.read() as tx:
            return await self._store.deliveries.any_sending(tx, notification_id)
