"""What an operator does with dead letters: look what a filter means, replay at a rate, discard (MISSION M9).

Every step is a transaction of its own that the caller opens, so that many rows never hold up others for long. What
died again since the order was given is left for the next one: nothing is replayed in a circle.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from tidings.ports.operations import DeadLetter, DeadLetterFilter
from tidings.ports.store import Store, Transaction

#: dead letters that are counted at most
COUNTED = 10_000
#: shown of those that match
SAMPLE = 5
#: dead letters replayed or discarded in one transaction
PAGE = 1_000
#: statements in one transaction: at a low rate each of them replays a few
STATEMENTS = 60


@dataclass(frozen=True, slots=True)
class Pace:
    """So many deliveries per second, in steps of about a second: retries that are due are looked for that often."""

    rate: float

    @property
    def step(self) -> int:
        """How many come due at one instant."""
        return max(1, min(PAGE, int(self.rate)))

    @property
    def page(self) -> int:
        """How many are replayed in one transaction."""
        return self.step * max(1, min(STATEMENTS, PAGE // self.step))

    def after(self, begin: datetime, count: int) -> datetime:
        """Return when the next one is due, `count` after `begin`."""
        return begin + timedelta(seconds=count / self.rate)


_AT_ONCE = Pace(float(COUNTED))


@dataclass(frozen=True, slots=True)
class Survey:
    """What a filter means now."""

    #: those counted, at most `COUNTED`
    matching: int
    #: there are more than were counted
    more: bool
    #: would be sent again
    replayable: int
    #: of notifications that have expired, or will have before it would be their turn
    expired: int
    #: of notifications that were cancelled
    cancelled: int
    #: when the last one would be due, None = none would be
    until: datetime | None
    #: the newest few
    sample: Sequence[DeadLetter]
    #: of the ids that the filter names, those of no dead letter
    unknown_ids: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Replayed:
    """One transaction's part of a replay."""

    count: int
    #: when the replay began
    begun: datetime
    #: when the last of these is due, None = there is none
    until: datetime | None
    #: when the next one would be due
    following: datetime
    #: whether nothing is left that could be replayed
    ended: bool


async def survey(store: Store, tx: Transaction, which: DeadLetterFilter, *, pace: Pace, now: datetime) -> Survey:
    """Count what a filter means and what a replay would do, without doing it; say which of its ids mean nothing."""
    counted = await _counted(store, tx, which, pace=pace, now=now)
    return replace(counted, unknown_ids=await unknown(store, tx, which))


async def _counted(store: Store, tx: Transaction, which: DeadLetterFilter, *, pace: Pace, now: datetime) -> Survey:
    counted = expired = cancelled = replayable = 0
    sample: Sequence[DeadLetter] = ()
    before: str | None = None
    more = True
    while more and counted < COUNTED:
        found = await store.dead_letters.page(tx, which, before=before, limit=PAGE + 1)
        page, more = found[:PAGE], len(found) > PAGE
        sample = sample or page[:SAMPLE]
        dropped = await store.notifications.cancelled(tx, {one.notification_id for one in page})
        for one in page:
            if one.notification_id in dropped:
                cancelled += 1
            elif one.expires_at <= pace.after(now, replayable // pace.step * pace.step):
                expired += 1
            else:
                replayable += 1
        counted += len(page)
        before = page[-1].id if page else None
    until = pace.after(now, (replayable - 1) // pace.step * pace.step) if replayable else None
    return Survey(counted, more, replayable, expired, cancelled, until, sample)


async def replay_page(
    store: Store,
    tx: Transaction,
    which: DeadLetterFilter,
    *,
    pace: Pace,
    most: int,
    now: datetime,
    last: Replayed | None = None,
) -> Replayed:
    """Replay the next ones, newest first, each step due a little after the one before.

    most: of them all together from here on. last: what the transaction before did; None = this is the first.
    """
    if last is not None:
        # what the first transaction revived may have died again; clocks differ, so the first one takes all
        which = _dead_before(which, last.begun)
    due = now if last is None else max(now, last.following)
    begun = now if last is None else last.begun
    count, until = 0, None
    for _ in range(pace.page // pace.step):
        wanted = min(pace.step, most - count)
        if wanted <= 0:
            break
        ids = await store.dead_letters.replay(tx, which, due_at=due, limit=wanted, now=now)
        if ids:
            count, until = count + len(ids), due
            due = pace.after(due, len(ids))
        if len(ids) < wanted:
            # of those left each has ended, or ends before its turn
            return Replayed(count, begun, until, due, ended=True)
    return Replayed(count, begun, until, due, ended=False)


async def unknown(store: Store, tx: Transaction, which: DeadLetterFilter) -> Sequence[str]:
    """Return which of the ids that a filter names are of no dead letter."""
    if which.ids is None:
        return []
    found = await store.dead_letters.page(tx, DeadLetterFilter(ids=which.ids), before=None, limit=len(which.ids))
    known = {one.id for one in found}
    return [one for one in dict.fromkeys(which.ids) if one not in known]


async def left(store: Store, tx: Transaction, which: DeadLetterFilter, *, begun: datetime, now: datetime) -> Survey:
    """Count what a replay that began at an instant has left dead."""
    return await _counted(store, tx, _dead_before(which, begun), pace=_AT_ONCE, now=now)


async def discard_page(
    store: Store, tx: Transaction, which: DeadLetterFilter, *, most: int, now: datetime
) -> tuple[int, bool]:
    """Discard the next ones. Returns how many, and whether none is left."""
    wanted = min(PAGE, most)
    count = await store.dead_letters.discard(tx, which, limit=wanted, now=now)
    return count, count < wanted


def _dead_before(which: DeadLetterFilter, begun: datetime) -> DeadLetterFilter:
    return replace(which, until=begun if which.until is None else min(which.until, begun))
