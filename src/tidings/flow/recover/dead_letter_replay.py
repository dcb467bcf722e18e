"""Operations on dead letters: preview a filter, replay at a rate, discard.

Each call runs in a transaction that the caller opens, and changes a limited number of rows, so that locks are held
briefly. A delivery that fails again after the replay began is not replayed a second time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from tidings.ports.operations import DeadLetter, DeadLetterFilter
from tidings.ports.store import Store, Transaction

#: maximum number of dead letters that a preview counts
MAX_COUNTED = 10_000
#: number of matching dead letters in a preview
SAMPLE_SIZE = 5
#: maximum number of dead letters replayed or discarded in one transaction
MAX_ROWS_PER_TRANSACTION = 1_000
#: maximum number of replay statements in one transaction; at a low rate each replays only a few rows
MAX_STATEMENTS_PER_TRANSACTION = 60


@dataclass(frozen=True, slots=True)
class ReplayRate:
    """A rate in deliveries per second, in steps of about a second, the interval at which workers poll for retries."""

    per_second: float

    @property
    def step_size(self) -> int:
        """Number of deliveries with the same due time."""
        return max(1, min(MAX_ROWS_PER_TRANSACTION, int(self.per_second)))

    @property
    def page_size(self) -> int:
        """Number of deliveries replayed in one transaction."""
        return self.step_size * max(1, min(MAX_STATEMENTS_PER_TRANSACTION, MAX_ROWS_PER_TRANSACTION // self.step_size))

    def due_after(self, begin: datetime, count: int) -> datetime:
        """Return when the delivery after the first `count` is due, if the first is due at `begin`."""
        return begin + timedelta(seconds=count / self.per_second)


_UNLIMITED_RATE = ReplayRate(float(MAX_COUNTED))


@dataclass(frozen=True, slots=True)
class ReplayPreview:
    """The effect that replaying a filter would have now."""

    #: number of matching dead letters, at most `MAX_COUNTED`
    matching: int
    #: whether more match than were counted
    more: bool
    #: number that would be sent again
    replayable: int
    #: number whose notification has expired, or will have before the replay reaches it
    expired: int
    #: number whose notification was cancelled
    cancelled: int
    #: when the last one would be due, None = nothing would be replayed
    until: datetime | None
    #: the newest `SAMPLE_SIZE` of them
    sample: Sequence[DeadLetter]
    #: ids in the filter that belong to no dead letter
    unknown_ids: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ReplayBatch:
    """The part of a replay that one transaction did. Stored in resumable requests, so its fields must not change."""

    count: int
    #: when the replay began
    begun: datetime
    #: when the last delivery of this part is due, None = the part is empty
    until: datetime | None
    #: when the next delivery would be due
    following: datetime
    #: whether no more dead letters can be replayed
    ended: bool


async def preview_replay(
    store: Store, tx: Transaction, which: DeadLetterFilter, *, rate: ReplayRate, now: datetime
) -> ReplayPreview:
    """Count the dead letters that match a filter and the effect of a replay, without changing anything."""
    counted = await _count_matching(store, tx, which, rate=rate, now=now)
    return replace(counted, unknown_ids=await find_unknown_ids(store, tx, which))


async def _count_matching(
    store: Store, tx: Transaction, which: DeadLetterFilter, *, rate: ReplayRate, now: datetime
) -> ReplayPreview:
    counted = expired = cancelled = replayable = 0
    sample: Sequence[DeadLetter] = ()
    before: str | None = None
    more = True
    while more and counted < MAX_COUNTED:
        rows = await store.dead_letters.page(tx, which, before=before, limit=MAX_ROWS_PER_TRANSACTION + 1)
        page, more = rows[:MAX_ROWS_PER_TRANSACTION], len(rows) > MAX_ROWS_PER_TRANSACTION
        sample = sample or page[:SAMPLE_SIZE]
        stopped = await store.notifications.find_stopped(tx, {letter.notification_id for letter in page})
        for letter in page:
            if letter.notification_id in stopped:
                cancelled += 1
            elif letter.expires_at <= rate.due_after(now, replayable // rate.step_size * rate.step_size):
                expired += 1
            else:
                replayable += 1
        counted += len(page)
        before = page[-1].id if page else None
    until = rate.due_after(now, (replayable - 1) // rate.step_size * rate.step_size) if replayable else None
    return ReplayPreview(counted, more, replayable, expired, cancelled, until, sample)


async def replay_page(
    store: Store,
    tx: Transaction,
    which: DeadLetterFilter,
    *,
    rate: ReplayRate,
    limit: int,
    now: datetime,
    last: ReplayBatch | None = None,
) -> ReplayBatch:
    """Replay the next dead letters, newest first, each step due after the previous one.

    limit: maximum number from this call on. last: result of the previous transaction; None = this is the first.
    """
    if last is not None:
        # Deliveries of earlier transactions may have failed again. The first transaction has no such restriction,
        # because clocks of different machines may differ.
        which = _restrict_to_dead_before(which, last.begun)
    due = now if last is None else max(now, last.following)
    begun = now if last is None else last.begun
    count, until = 0, None
    for _ in range(rate.page_size // rate.step_size):
        step_limit = min(rate.step_size, limit - count)
        if step_limit <= 0:
            break
        ids = await store.dead_letters.replay(tx, which, due_at=due, limit=step_limit, now=now)
        if ids:
            count, until = count + len(ids), due
            due = rate.due_after(due, len(ids))
        if len(ids) < step_limit:
            # the notifications of all others are cancelled, expired, or expire before `due`
            return ReplayBatch(count, begun, until, due, ended=True)
    return ReplayBatch(count, begun, until, due, ended=False)


async def find_unknown_ids(store: Store, tx: Transaction, which: DeadLetterFilter) -> Sequence[str]:
    """Return the ids of a filter that belong to no dead letter."""
    if which.ids is None:
        return []
    letters = await store.dead_letters.page(tx, DeadLetterFilter(ids=which.ids), before=None, limit=len(which.ids))
    known = {letter.id for letter in letters}
    return [letter_id for letter_id in dict.fromkeys(which.ids) if letter_id not in known]


async def remaining_after(
    store: Store, tx: Transaction, which: DeadLetterFilter, *, begun: datetime, now: datetime
) -> ReplayPreview:
    """Count the matching dead letters that a replay, begun at an instant, has not replayed."""
    return await _count_matching(store, tx, _restrict_to_dead_before(which, begun), rate=_UNLIMITED_RATE, now=now)


async def discard_page(
    store: Store, tx: Transaction, which: DeadLetterFilter, *, limit: int, now: datetime
) -> tuple[int, bool]:
    """Discard the next dead letters. Returns how many, and whether none is left."""
    page_limit = min(MAX_ROWS_PER_TRANSACTION, limit)
    count = await store.dead_letters.discard(tx, which, limit=page_limit, now=now)
    return count, count < page_limit


def _restrict_to_dead_before(which: DeadLetterFilter, begun: datetime) -> DeadLetterFilter:
    return replace(which, until=begun if which.until is None else min(which.until, begun))
