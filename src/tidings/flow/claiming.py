"""Claim deliveries under a lease, look up what they need, send them; give back what could not be sent.

What a worker has claimed when it dies counts as a crash of each of those deliveries (MISSION B6). So whatever is not
sent for another reason is given back, and never left to its lease.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial

from tidings.flow.deliver.recheck import AUDIENCE_TRUSTED_FOR, is_stale
from tidings.flow.deliver.send import Job, Sender
from tidings.flow.intake.accept import named_only
from tidings.flow.intake.catalog import Catalog
from tidings.flow.recent import Recent
from tidings.model.delivery import Attempted, Due
from tidings.model.ids import new_id
from tidings.model.notification import Notification
from tidings.ports.clock import Clock
from tidings.ports.store import Store


class Claiming:
    """Claims and sends. One per process."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        clock: Clock,
        *,
        lease: timedelta,
        heard: Callable[[Collection[str]], Awaitable[None]],
        bulk: asyncio.Lock,
    ) -> None:
        """`lease`: how long a claim holds; `heard`: returns once cancellations were looked for lately; `bulk`: is held
        while what is not urgent is claimed.
        """
        self._store = store
        self._catalog = catalog
        self._clock = clock
        self._lease = lease
        self._heard = heard
        self._bulk = bulk
        #: what never changes of a notification: template, variables, expiry; state and cursor may be old
        self._known = Recent()
        #: leases under which something was not sent, to be given back when the outcomes of the rest are written …
        self._unsent: list[str] = []
        #: … or at any time, as nothing at all was sent under them
        self._unstarted: list[str] = []
        self._alone = asyncio.Lock()
        #: the lease of the delivery that is sent alone, and whether its outcome is written
        self._alone_lease = ""
        self._alone_written = asyncio.Event()

    def expect(self, notification: Notification) -> None:
        """Keep what was just planned: its deliveries come next, and mostly here."""
        self._known.keep(notification)

    async def deliver(self, batch_ids: Sequence[str], sender: Sender, *, urgent: bool = False) -> None:
        """Claim the deliveries of some batches and send them. `urgent`: others make room while they are claimed."""
        await self._claim_and_send(batch_ids, sender, new_id(self._clock.now()), urgent=urgent)

    async def deliver_alone(self, batch_id: str, sender: Sender, *, urgent: bool = False) -> None:
        """Send a delivery that a worker died with: one at a time in this process, its outcome written before the next.

        If this process dies too, no other of its kind can be blamed for it.
        """
        async with self._alone:
            self._alone_lease = new_id(self._clock.now())
            self._alone_written.clear()
            if await self._claim_and_send([batch_id], sender, self._alone_lease, urgent=urgent):
                sender.hurry()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._lease.total_seconds()):
                        await self._alone_written.wait()

    def written(self, rows: Sequence[Attempted]) -> None:
        """Take note of outcomes that were written."""
        if any(one.lease_token == self._alone_lease for one in rows):
            self._alone_written.set()

    async def give_back(self) -> int:
        """Put back everything that was claimed and not sent; return how much. Outcomes must be recorded before."""
        return await self.give_back_unstarted() + await self._give_back(self._unsent)

    async def give_back_unstarted(self) -> int:
        """Put back claims that failed before anything was sent under them; return how many deliveries."""
        return await self._give_back(self._unstarted)

    async def _give_back(self, tokens: list[str]) -> int:
        count = 0
        if some := list(tokens):
            async with self._store.begin() as tx:
                count = await self._store.deliveries.give_back(tx, some, self._clock.now())
            del tokens[: len(some)]
        return count

    async def _claim_and_send(
        self, batch_ids: Sequence[str], sender: Sender, token: str, *, urgent: bool = False
    ) -> bool:
        """Return whether there was something to send, and all of it was dealt with."""
        jobs: Sequence[Job] | None = None
        try:
            if urgent:
                with sender.urgent_work():
                    jobs = await self._claimed(batch_ids, token)
            else:
                async with self._bulk:
                    jobs = await self._claimed(batch_ids, token)
        finally:
            if jobs is None:
                # whether the claim was committed is not always known, and to give back nothing does no harm
                self._unstarted.append(token)
        if not jobs:
            return False
        left = jobs
        try:
            left = await sender.send(jobs, informed=partial(self._heard, sender.held))
        finally:
            if left:
                self._unsent.append(token)
        return not left

    async def _claimed(self, batch_ids: Sequence[str], token: str) -> Sequence[Job]:
        now = self._clock.now()
        async with self._store.begin() as tx:
            claimed = await self._store.deliveries.claim(
                tx, batch_ids, token=token, now=now, lease_until=now + self._lease
            )
        return await self._jobs(claimed) if claimed else []

    async def _jobs(self, claimed: Sequence[Due]) -> list[Job]:
        notifications = await self._notifications({due.notification_id for due in claimed})
        left = await self._left_their_audience(claimed, notifications)
        return [
            Job(
                due=due,
                notification=notification,
                category=self._catalog.category(notification.category),
                in_audience=due.user_id not in left.get(due.notification_id, ()),
            )
            for due in claimed
            # one that is not there was erased since the claim, and its deliveries with it
            if (notification := notifications.get(due.notification_id)) is not None
        ]

    async def _notifications(self, ids: Collection[str]) -> Mapping[str, Notification]:
        found = {one: known for one in ids if (known := self._known.get(one)) is not None}
        if unread := [one for one in ids if one not in found]:
            async with self._store.look() as tx:
                for one in await self._store.notifications.get_many(tx, unread):
                    found[one.id] = one
                    self._known.keep(one)
        return found

    async def _left_their_audience(
        self, claimed: Sequence[Due], notifications: Mapping[str, Notification]
    ) -> Mapping[str, set[str]]:
        """Return notification → users who were in its audience when it was planned some time ago, and are not now."""
        trusted_since = self._clock.now() - AUDIENCE_TRUSTED_FOR
        stale: dict[str, set[str]] = {}
        for due in claimed:
            known = notifications.get(due.notification_id)
            # who was named stays named; whether they still exist was looked up with the claim
            if known is not None and is_stale(due, trusted_since) and named_only(known.audience) is None:
                stale.setdefault(due.notification_id, set()).add(due.user_id)
        if stale:
            async with self._store.read() as tx:
                for notification_id, users in stale.items():
                    audience = notifications[notification_id].audience
                    stale[notification_id] = users - await self._store.audiences.among(tx, audience, users)
        return stale
