"""Retention: deletes old notifications with their deliveries, skips and attempts.

On PostgreSQL whole weekly partitions are dropped. The remaining rows, and all rows on SQLite, are deleted in small
transactions. Nothing is deleted while it is open: while a delivery is pending or being sent, or while the fan-out of
the notification has not finished.
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
from tidings.model.digest import DigestItemState
from tidings.model.notification import NotificationState
from tidings.ports.store import Store
from tidings.stores.engine.schema_lock import is_lock_timeout
from tidings.stores.engine.transaction import SqlConnection, connection_of
from tidings.stores.schema import partitions
from tidings.stores.schema.digest_tables import digest_items
from tidings.stores.schema.partitions import SET_LOCK_TIMEOUT, Week
from tidings.stores.schema.step_tables import IS_WAITING, waiting_steps
from tidings.stores.schema.tables import deliveries, notifications, skips
from tidings.stores.sql.ids import min_uuid_at
from tidings.stores.sql.json_params import id_array

log = structlog.get_logger(__name__)

#: notifications selected at once
PAGE_SIZE = 1000
#: rows per transaction: takes SQLite's only writer for a few hundredths of a second
ROWS_PER_TRANSACTION = 1000
#: rows per call; the remaining ones are deleted by the next hourly call
MAX_ROWS = 1_000_000
_CLOSED_STATES = (NotificationState.FANNED_OUT.value, NotificationState.CANCELLED.value)
_OPEN_STATES = (DeliveryState.PENDING.value, DeliveryState.SENDING.value)
_n = notifications.c
_d = deliveries.c
_w = waiting_steps.c
_i = digest_items.c


@dataclass(frozen=True, slots=True)
class RetentionResult:
    """What one call of `run_retention` did."""

    #: partitions created for the coming weeks
    partitions_created: int
    #: partitions dropped, of all three tables
    partitions_dropped: int
    #: notifications deleted
    notifications_deleted: int
    #: their deliveries and skips that were deleted as rows, not with a partition
    rows_deleted: int


async def run_retention(
    store: Store, now: datetime, keep_for: timedelta, *, max_rows: int = MAX_ROWS
) -> RetentionResult:
    """Create the partitions of the coming weeks, and delete notifications older than `keep_for` with their records.

    keep_for: zero = for ever; PostgreSQL keeps up to a week more. max_rows: limit of the rows deleted outside of
    partitions. Also sets `n_distinct` on partitions that lack it. Runs in many short transactions. Concurrent calls are
    safe.
    """
    async with store.read_snapshot() as tx:
        partitioned = connection_of(tx).dialect.name == "postgresql"
        missing = await partitions.list_missing(connection_of(tx), now) if partitioned else []
        unset = await partitions.list_without_ndistinct(connection_of(tx)) if partitioned else []
    await _run_each_in_own_transaction(store, [partial(partitions.set_ndistinct, partition=name) for name in unset])
    created = await _run_each_in_own_transaction(
        store, [partial(partitions.create, table=table, week=week) for table, week in missing]
    )
    if not keep_for:
        return RetentionResult(created, 0, 0, 0)
    cutoff = now - keep_for
    if partitioned:
        cutoff = Week.from_instant(cutoff).start
    dropped = await _drop_old_partitions(store, cutoff) if partitioned else 0
    deleted, rows = await _delete_rows(store, min_uuid_at(cutoff), max_rows, now)
    return RetentionResult(created, dropped, deleted, rows)


async def _drop_old_partitions(store: Store, cutoff: datetime) -> int:
    old = {}
    for table in partitions.PARTITION_KEYS:
        async with store.read_snapshot() as tx:
            old[table] = [
                week for week in await partitions.list_weeks(connection_of(tx), table) if week.next.start <= cutoff
            ]
    dropped = await _run_each_in_own_transaction(
        store, [partial(_drop_deliveries_partition, week=week) for week in old["deliveries"]]
    )
    async with store.read_snapshot() as tx:
        remaining = await partitions.list_weeks(connection_of(tx), "deliveries")
    # a delivery is created in the week of its notification or later, and its attempts are stored in that week
    attempt_weeks = [week for week in old["attempts"] if not remaining or week < remaining[0]]
    skip_weeks = [week for week in old["skips"] if week not in remaining]
    for table, weeks in (("skips", skip_weeks), ("attempts", attempt_weeks)):
        dropped += await _run_each_in_own_transaction(
            store, [partial(_drop_partition, table=table, week=week) for week in weeks]
        )
    return dropped


async def _drop_deliveries_partition(connection: SqlConnection, week: Week) -> None:
    if await _has_open_work(connection, week):
        raise _PartitionInUse(week.partition_name("deliveries"))
    await connection.execute(SET_LOCK_TIMEOUT)
    await connection.execute(text("LOCK TABLE ONLY deliveries IN ACCESS EXCLUSIVE MODE"))
    if await _has_open_work(connection, week):  # checked again: no row can be added under the lock
        raise _PartitionInUse(week.partition_name("deliveries"))
    await _drop_partition(connection, "deliveries", week)


async def _drop_partition(connection: SqlConnection, table: str, week: Week) -> None:
    await connection.execute(SET_LOCK_TIMEOUT)
    await connection.execute(text(f"DROP TABLE IF EXISTS {week.partition_name(table)}"))


async def _has_open_work(connection: SqlConnection, week: Week) -> bool:
    partition = week.partition_name("deliveries")
    # the first three conditions are literally those of partial indexes
    is_open: bool = await connection.scalar(
        text(
            f"""SELECT EXISTS (SELECT FROM {partition} WHERE state = 'pending' AND batch_id IS NOT NULL)
            OR EXISTS (SELECT FROM {partition} WHERE state = 'pending' AND batch_id IS NULL)
            OR EXISTS (SELECT FROM {partition} WHERE state = 'sending')
            OR EXISTS (SELECT FROM notifications WHERE state IN ('accepted', 'fanning_out')
                       AND id >= '{week.first_id}' AND id < '{week.next.first_id}')"""  # noqa: S608  # generated names and ids
        )
    )
    return is_open


async def _delete_rows(store: Store, before: str, max_rows: int, now: datetime) -> tuple[int, int]:
    """Delete notifications with an id below `before` a page at a time, each after its rows.

    Returns the numbers of (notifications, rows).
    """
    deleted = rows = 0
    after: str | None = None
    while rows < max_rows:
        async with store.read_snapshot() as tx:
            page = await _select_old_notifications(connection_of(tx), before, after, now)
        if not page:
            break
        after = page[-1]
        for table in (deliveries, skips):
            key = tuple_(table.c.notification_id, table.c.id)
            matching = select(table.c.notification_id, table.c.id).where(table.c.notification_id.in_(id_array(page)))
            while rows < max_rows:
                async with store.transaction() as tx:
                    result = await connection_of(tx).execute(
                        delete(table).where(key.in_(matching.limit(ROWS_PER_TRANSACTION)))
                    )
                rows += result.rowcount
                if result.rowcount < ROWS_PER_TRANSACTION:
                    break
        if rows < max_rows:
            async with store.transaction() as tx:
                result = await connection_of(tx).execute(delete(notifications).where(_n.id.in_(id_array(page))))
                deleted += result.rowcount
    return deleted, rows


async def _select_old_notifications(
    connection: SqlConnection, before: str, after: str | None, now: datetime
) -> Sequence[str]:
    has_open_delivery = select(_d.id).where(_d.notification_id == _n.id, _d.state.in_(_OPEN_STATES)).exists()
    # those of an expired notification start no more
    has_waiting_step = (
        select(_w.step).where(_w.notification_id == _n.id, *IS_WAITING).exists()
        & (_n.state != NotificationState.CANCELLED.value)
        & (_n.expires_at > now)
    )
    # of a weekly digest, which may close after the retention
    is_collected = (
        select(_i.user_id).where(_i.notification_id == _n.id, _i.state == DigestItemState.COLLECTED.value).exists()
    )
    query = (
        select(_n.id)
        .where(_n.id < before, _n.state.in_(_CLOSED_STATES), ~has_open_delivery, ~is_collected, ~has_waiting_step)
        .order_by(_n.id)
        .limit(PAGE_SIZE)
    )
    if after is not None:
        query = query.where(_n.id > after)
    return (await connection.scalars(query)).all()


class _PartitionInUse(Exception):
    """The partition of a week contains open work. The argument is its name."""


async def _run_each_in_own_transaction(
    store: Store, steps: Sequence[Callable[[SqlConnection], Awaitable[None]]]
) -> int:
    """Run steps that lock a table, each in its own transaction. Returns the number of completed steps.

    If a table is not free within the lock timeout, that step and the following ones are left to the next call.
    """
    done = 0
    for step in steps:
        try:
            async with store.transaction() as tx:
                await step(connection_of(tx))
        except _PartitionInUse as partition:
            log.info("partition_kept", partition=str(partition), why="it contains open work")
        except (DBAPIError, BackendError) as error:
            if not is_lock_timeout(error):
                raise
            log.warning("partitions_postponed", count=len(steps) - done, why="the table is in use")
            break
        else:
            done += 1
    return done
