"""Changes feeds in transactions of their own, and publishes the changes after the commit."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from tidings.errors import Conflict, NotFound, TidingsError, ValidationFailed
from tidings.micro_batcher import MicroBatcher
from tidings.model.inbox import InboxChange, InboxCounts, InboxItem, InboxState, InboxView
from tidings.ports.broadcaster import Broadcaster
from tidings.ports.clock import Clock
from tidings.ports.store import Store, Transaction
from tidings.ports.transaction import retry_on_conflict

#: a change of some items of one user
ItemChange = Callable[[Transaction, str, Collection[str], datetime], Awaitable[Sequence[InboxChange]]]
#: users per transaction of a recall, of due items and of a purge
BATCH_SIZE = 500


@dataclass(frozen=True, slots=True)
class InboxPage:
    """A page of a user's feed with the counters of the same moment."""

    #: up to one more than the limit, so that the caller knows whether there is a next page
    items: Sequence[InboxItem]
    counts: InboxCounts


class InboxService:
    """The feeds of users. One instance per process."""

    def __init__(self, store: Store, clock: Clock, broadcaster: Broadcaster) -> None:
        self._store = store
        self._clock = clock
        self._broadcaster = broadcaster
        # One transaction at a time: they would wait for each other on the counters of users with several items.
        self._add_batched: MicroBatcher[InboxItem, None] = MicroBatcher(self._add_many, workers=1)

    async def deliver(self, item: InboxItem) -> None:
        """Store an item, possibly together with others in one transaction. A repeat has no effect.

        Raises BackendError if the database does not respond.
        """
        await self._add_batched(item)

    async def load_page(self, user_id: str, view: InboxView, *, before: int | None, limit: int) -> InboxPage:
        """Return a page of a view, the latest arrival first. before: position of the last item of the page before."""
        await self._settle_if_due(user_id)
        async with self._store.read_snapshot() as tx:
            items = await self._store.inbox.page(tx, user_id, view, before=before, limit=limit + 1)
            return InboxPage(items, await self._store.inbox.get_counts(tx, user_id))

    async def load_counts(self, user_id: str) -> InboxCounts:
        """Return the counters of a user's feed."""
        await self._settle_if_due(user_id)
        async with self._store.read_once() as tx:
            return await self._store.inbox.get_counts(tx, user_id)

    async def mark_seen(self, user_id: str, refs: Collection[str]) -> InboxCounts:
        """Mark items as seen, and ignore ids that are not the user's. Returns the counters."""
        now = self._clock.now()
        return await self._change(user_id, lambda tx: self._store.inbox.set_seen(tx, user_id, refs, now))

    async def mark_all_read(self, user_id: str, up_to: str) -> InboxCounts:
        """Mark the items up to one as read. Raises ValidationFailed if the user has no item `up_to`."""
        now = self._clock.now()

        async def work(tx: Transaction) -> Sequence[InboxChange]:
            changes = await self._store.inbox.read_all(tx, user_id, up_to, now)
            if not changes and await self._store.inbox.get_position(tx, user_id, up_to) is None:
                raise ValidationFailed.for_field("upTo", "must be the id of the newest item that was shown")
            return changes

        return await self._change(user_id, work)

    async def mark_item_seen(self, user_id: str, ref: str) -> InboxCounts:
        """Mark an item as seen. Raises NotFound."""
        return await self._change_one(user_id, ref, self._store.inbox.set_seen, may_be_expected=True)

    async def mark_item_read(self, user_id: str, ref: str) -> InboxCounts:
        """Mark an item as read. Raises NotFound."""
        return await self._change_one(user_id, ref, self._store.inbox.set_read, may_be_expected=True)

    async def mark_item_unread(self, user_id: str, ref: str) -> InboxCounts:
        """Mark an item as unread. Raises NotFound."""
        return await self._change_one(user_id, ref, self._store.inbox.set_unread)

    async def archive(self, user_id: str, ref: str) -> InboxCounts:
        """Move an item to the archive. Raises NotFound."""
        return await self._change_one(user_id, ref, self._store.inbox.archive)

    async def unarchive(self, user_id: str, ref: str) -> InboxCounts:
        """Move an item back to the feed. Raises NotFound; Conflict if it has expired."""
        return await self._change_one(
            user_id,
            ref,
            self._store.inbox.unarchive,
            check=lambda item: _reject_expired(item, self._clock.now()),
        )

    async def snooze(self, user_id: str, ref: str, until: datetime | None) -> InboxCounts:
        """Hide an item until an instant; None = end its snooze.

        Raises NotFound; Conflict if the item is archived; ValidationFailed if it expires before `until`.
        """

        async def work(tx: Transaction, user_id: str, refs: Collection[str], now: datetime) -> Sequence[InboxChange]:
            return await self._store.inbox.snooze(tx, user_id, refs, until, now)

        return await self._change_one(user_id, ref, work, check=lambda item: _check_snooze(item, until))

    async def recall(self, notification_id: str) -> int:
        """Remove a notification from all feeds. Returns the number of feeds that it was removed from."""
        now = self._clock.now()
        return await self._change_in_batches(
            lambda tx: self._store.inbox.recall(tx, notification_id, now, limit=BATCH_SIZE)
        )

    async def settle_due(self) -> int:
        """Remove expired items and return those whose snooze ended, of all users. Returns the number of changes."""
        now = self._clock.now()
        async with self._store.read_once() as tx:
            if not await self._store.inbox.has_due(tx, None, now):
                return 0
        return await self._change_in_batches(lambda tx: self._store.inbox.settle_due(tx, now, limit=BATCH_SIZE))

    async def purge(self, before: datetime) -> int:
        """Delete items that were created before an instant. Returns the number of feeds that lost some, per batch."""
        return await self._change_in_batches(lambda tx: self._store.inbox.purge(tx, before, limit=BATCH_SIZE))

    async def _settle_if_due(self, user_id: str) -> None:
        """Bring the feed up to date before it is read. Usually the periodic `settle_due` has done so."""
        now = self._clock.now()
        async with self._store.read_once() as tx:
            if not await self._store.inbox.has_due(tx, user_id, now):
                return
        await self._run(lambda tx: self._store.inbox.settle(tx, user_id, now))

    async def _change_one(
        self,
        user_id: str,
        ref: str,
        change: ItemChange,
        *,
        check: Callable[[InboxItem], None] | None = None,
        may_be_expected: bool = False,
    ) -> InboxCounts:
        """may_be_expected: whether the change applies to an item that has not arrived yet."""
        now = self._clock.now()

        async def work(tx: Transaction) -> Sequence[InboxChange]:
            if check is not None:
                check(await self._get_item(tx, user_id, ref))
            changes = await change(tx, user_id, [ref], now)
            if not changes:
                # marked already, marked before it arrived, or unknown
                item = await self._get_item(tx, user_id, ref)
                if item.state is InboxState.EXPECTED and not may_be_expected:
                    raise _item_not_found()
            return changes

        return await self._change(user_id, work)

    async def _get_item(self, tx: Transaction, user_id: str, ref: str) -> InboxItem:
        item = await self._store.inbox.find(tx, user_id, ref)
        if item is None:
            raise _item_not_found()
        return item

    async def _change(
        self, user_id: str, work: Callable[[Transaction], Awaitable[Sequence[InboxChange]]]
    ) -> InboxCounts:
        """Run a change of one user's feed. Returns the counters after it."""

        # not repeated here: the routes repeat a call whose transaction met a concurrent one
        async with self._store.transaction() as tx:
            changes = await work(tx)
            counts = changes[-1].counts if changes else await self._store.inbox.get_counts(tx, user_id)
        await self._broadcaster.publish(changes)
        return counts

    async def _change_in_batches(self, work: Callable[[Transaction], Awaitable[Sequence[InboxChange]]]) -> int:
        total = 0
        while number := await self._run(work):
            total += number
        return total

    async def _run(self, work: Callable[[Transaction], Awaitable[Sequence[InboxChange]]]) -> int:
        """Run a change in a transaction, again if a concurrent one made the database roll it back."""

        async def run() -> Sequence[InboxChange]:
            async with self._store.transaction() as tx:
                return await work(tx)

        changes = await retry_on_conflict(run)
        await self._broadcaster.publish(changes)
        return len(changes)

    async def _add_many(self, items: Sequence[InboxItem]) -> Sequence[TidingsError | None]:
        now = self._clock.now()
        await self._run(lambda tx: self._store.inbox.add_many(tx, items, now))
        return [None] * len(items)


def _item_not_found() -> NotFound:
    return NotFound("Your feed has no such item. It may have expired or been recalled.", code="unknown_item")


def _check_snooze(item: InboxItem, until: datetime | None) -> None:
    if item.state is InboxState.ARCHIVED:
        raise Conflict("The item is archived; unarchive it before you snooze it.", code="item_archived")
    if until is not None and item.expires_at is not None and until >= item.expires_at:
        raise ValidationFailed.for_field("until", f"must be before the item expires: {item.expires_at.isoformat()}")


def _reject_expired(item: InboxItem, now: datetime) -> None:
    if item.state is InboxState.ARCHIVED and item.expires_at is not None and item.expires_at <= now:
        raise Conflict("The item has expired and remains in the archive.", code="item_expired")
