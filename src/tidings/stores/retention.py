"""What is old goes: on PostgreSQL whole weeks of the ledger at once, elsewhere and for what is left a little at a time.

Never while something is open: a delivery that waits or is being sent, a notification that is not fanned out to its end.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import structlog
from sqlalchemy import delete, select, text, tuple_
from sqlalchemy.exc import DBAPIError

from tidings.errors import BackendError
from tidings.model.delivery import DeliveryState
from tidings.model.notification import NotificationState
from tidings.ports.store import Store
from tidings.stores import partitions
from tidings.stores.connection import SqlConnection, of
from tidings.stores.id_times import earliest_id
from tidings.stores.json_list import json_ids
from tidings.stores.locks import is_locked
from tidings.stores.partitions import LOCK_TIMEOUT, Week
from tidings.stores.schema import deliveries, notifications, skips

log = structlog.get_logger(__name__)

#: notifications looked at together
PAGE = 1000
#: rows per transaction: a few hundredths of a second of SQLite's only writer
ROWS = 1000
#: rows per call: what is left waits for the next hour
MOST = 1_000_000
_CLOSED = (NotificationState.FANNED_OUT.value, NotificationState.CANCELLED.value)
_OPEN = (DeliveryState.PENDING.value, DeliveryState.SENDING.value)
_n = notifications.c
_d = deliveries.c


@dataclass(frozen=True, slots=True)
class Tidied:
    """What a round did."""

    #: partitions made for the weeks that come
    made: int
    #: partitions dropped, of all three tables
    dropped: int
    #: notifications deleted
    notifications: int
    #: their deliveries and skips deleted one by one, not with a partition
    rows: int


async def tidy(store: Store, now: datetime, keep: timedelta, *, most: int = MOST) -> Tidied:
    """Make the partitions of the weeks that come, and delete notifications older than `keep` with all about them.

    What an older process made is told of (`partitions.tell`). keep: zero = for ever. most: rows deleted one by one,
    after which the rest waits for the next call. PostgreSQL keeps up to a week more. Runs in many short transactions;
    two callers at once do no harm.
    """
    async with store.read() as tx:
        partitioned = of(tx).dialect.name == "postgresql"
        missing = await partitions.missing(of(tx), now) if partitioned else []
        untold = await partitions.untold(of(tx)) if partitioned else []
    await _in_turn(store, [partial(partitions.tell, partition=name) for name in untold])
    made = await _in_turn(store, [partial(partitions.make, table=table, week=week) for table, week in missing])
    if not keep:
        return Tidied(made, 0, 0, 0)
    limit = now - keep
    if partitioned:
        limit = Week.of(limit).start
    dropped = await _drop_weeks(store, limit) if partitioned else 0
    gone, rows = await _delete(store, earliest_id(limit), most)
    return Tidied(made, dropped, gone, rows)


async def _drop_weeks(store: Store, limit: datetime) -> int:
    old = {}
    for table in partitions.KEYS:
        async with store.read() as tx:
            old[table] = [week for week in await partitions.weeks(of(tx), table) if week.next.start <= limit]
    dropped = await _in_turn(store, [partial(_drop_deliveries, week=week) for week in old["deliveries"]])
    async with store.read() as tx:
        kept = await partitions.weeks(of(tx), "deliveries")
    # a delivery is made in the week of its notification or later, and its tries are kept in that week
    tried = [week for week in old["attempts"] if not kept or week < kept[0]]
    silent = [week for week in old["skips"] if week not in kept]
    for table, gone in (("skips", silent), ("attempts", tried)):
        dropped += await _in_turn(store, [partial(_drop, table=table, week=week) for week in gone])
    return dropped


async def _drop_deliveries(at: SqlConnection, week: Week) -> None:
    if await _is_open(at, week):
        raise _StillOpen(week.of_table("deliveries"))
    await at.execute(LOCK_TIMEOUT)
    await at.execute(text("LOCK TABLE ONLY deliveries IN ACCESS EXCLUSIVE MODE"))
    if await _is_open(at, week):  # nobody adds to it any more
        raise _StillOpen(week.of_table("deliveries"))
    await _drop(at, "deliveries", week)


async def _drop(at: SqlConnection, table: str, week: Week) -> None:
    await at.execute(LOCK_TIMEOUT)
    await at.execute(text(f"DROP TABLE IF EXISTS {week.of_table(table)}"))


async def _is_open(at: SqlConnection, week: Week) -> bool:
    partition = week.of_table("deliveries")
    # three conditions, each the very one of a partial index
    found: bool = await at.scalar(
        text(
            f"""SELECT EXISTS (SELECT FROM {partition} WHERE state = 'pending' AND batch_id IS NOT NULL)
            OR EXISTS (SELECT FROM {partition} WHERE state = 'pending' AND batch_id IS NULL)
            OR EXISTS (SELECT FROM {partition} WHERE state = 'sending')
            OR EXISTS (SELECT FROM notifications WHERE state IN ('accepted', 'fanning_out')
                       AND id >= '{week.first_id}' AND id < '{week.next.first_id}')"""  # noqa: S608  # our own names
        )
    )
    return found


async def _delete(store: Store, before: str, most: int) -> tuple[int, int]:
    """Delete old notifications a page at a time, the rows of each page first. Returns (notifications, rows)."""
    gone = rows = 0
    after: str | None = None
    while rows < most:
        async with store.read() as tx:
            page = await _old(of(tx), before, after)
        if not page:
            break
        after = page[-1]
        for table in (deliveries, skips):
            key = tuple_(table.c.notification_id, table.c.id)
            some = select(table.c.notification_id, table.c.id).where(table.c.notification_id.in_(json_ids(page)))
            while rows < most:
                async with store.begin() as tx:
                    done = await of(tx).execute(delete(table).where(key.in_(some.limit(ROWS))))
                rows += done.rowcount
                if done.rowcount < ROWS:
                    break
        if rows < most:
            async with store.begin() as tx:
                gone += (await of(tx).execute(delete(notifications).where(_n.id.in_(json_ids(page))))).rowcount
    return gone, rows


async def _old(at: SqlConnection, before: str, after: str | None) -> Sequence[str]:
    waits = select(_d.id).where(_d.notification_id == _n.id, _d.state.in_(_OPEN)).exists()
    query = select(_n.id).where(_n.id < before, _n.state.in_(_CLOSED), ~waits).order_by(_n.id).limit(PAGE)
    if after is not None:
        query = query.where(_n.id > after)
    return (await at.scalars(query)).all()


class _StillOpen(Exception):
    """A week in which something is still to be done."""


async def _in_turn(store: Store, works: Sequence[Callable[[SqlConnection], Awaitable[None]]]) -> int:
    """Do what stops everybody else for a moment, each in a transaction of its own. Returns how many were done.

    A table that is in use for longer than that moment is left for the next round, with those that come after it.
    """
    done = 0
    for work in works:
        try:
            async with store.begin() as tx:
                await work(of(tx))
        except _StillOpen as week:
            log.info("partition_kept", partition=str(week), why="something in it is still open")
        except (DBAPIError, BackendError) as error:
            if not is_locked(error):
                raise
            log.warning("partitions_postponed", count=len(works) - done, why="the table was in use")
            break
        else:
            done += 1
    return done
