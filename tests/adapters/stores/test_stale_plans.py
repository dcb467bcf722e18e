"""Query plans use keys although planner statistics are stale, as at a first broadcast."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import text

from tidings.model.delivery import ClaimedDelivery
from tidings.model.ids import new_id
from tidings.model.outcome import Accepted
from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema import partitions, retention
from tidings.stores.schema.partitions import Week
from tidings.stores.store import SqlStore
from tidings.testing.contracts.samples import (
    LEASE,
    NOW,
    create_planned_notification,
    make_attempt_result,
    make_notification,
    make_planned_delivery,
)

#: deliveries of a broadcast, and of one claim
CROWD, BATCH = 30_000, 200
#: rows read by this connection from tables with a name prefix
_READ = text(
    "SELECT coalesce(sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)), 0) "
    "FROM pg_stat_xact_user_tables WHERE relname LIKE :name"
)


@pytest.fixture
def upgraded_url(fresh_upgraded_url: str) -> str:
    """A new database, so that its planner statistics belong to this test."""
    return fresh_upgraded_url


async def test_a_first_broadcast_is_claimed_and_recorded_by_key(postgres_store: SqlStore) -> None:
    store = postgres_store
    for number in range(16):
        # more often than it takes PostgreSQL to switch to a generic plan
        scene = await create_planned_notification(store, f"single-{number}")
        await _claim_and_record(store, [scene.batch_id])
        if number == 7:
            async with store.transaction() as tx:
                # from here on the planner assumes one delivery per notification
                await connection_of(tx).execute(text("ANALYZE"))
    await _add_broadcast(store, "single-1", [batch_id := new_id(NOW)])
    await _claim_and_record(store, [batch_id], max_reads=10 * BATCH)


async def test_a_claim_uses_keys_in_every_join_order(postgres_store: SqlStore) -> None:
    """A planner that assumes one delivery per notification may join from a claim to all of its deliveries."""
    store = postgres_store
    await create_planned_notification(store, "ana")
    await _add_broadcast(store, "ana", [batch_id := new_id(NOW)])
    async with store.transaction() as tx:
        await connection_of(tx).execute(text("SET LOCAL join_collapse_limit = 1"))
        before = await _count_reads(tx)
        claimed = await store.deliveries.claim(tx, [batch_id], token=new_id(NOW), now=NOW, lease_until=NOW + LEASE)
        assert len(claimed) == BATCH
        _check(before, await _count_reads(tx), 10 * BATCH)


@pytest.mark.parametrize("weeks", [False, True], ids=["the default partition", "a week of its own"])
async def test_statistics_of_single_notifications_do_not_cause_full_reads_of_a_broadcast(
    postgres_store: SqlStore, *, weeks: bool
) -> None:
    """Two indexes start with the notification id. With one delivery each both look equally good; one reads all rows.

    The choice depends on a hundredth of the cost, and changes as the table grows.
    """
    store = postgres_store
    names = ["deliveries_default", *([await _create_own_partition(store)] if weeks else [])]
    async with store.transaction() as tx:
        for name in names:
            # only this test runs ANALYZE
            await connection_of(tx).execute(text(f"ALTER TABLE {name} SET (autovacuum_enabled = off)"))
    # found by trial, as the following numbers: the costs of both indexes must be almost equal
    for _ in range(69):
        scene = await create_planned_notification(store, "a")
        await _claim_and_record(store, [scene.batch_id])
    async with store.transaction() as tx:
        await connection_of(tx).execute(text("ANALYZE"))
    async with store.transaction() as tx:
        await store.notifications.add_many(tx, [broadcast := make_notification()])
    for added in range(0, 60_000, 1000):
        batch_id = new_id(NOW)
        planned = [
            make_planned_delivery(broadcast, "a", new_id(NOW), batch_id=batch_id if number < BATCH else new_id(NOW))
            for number in range(1000)
        ]
        async with store.transaction() as tx:
            await store.deliveries.add(tx, planned, [], NOW)
        # a full scan of a small table is fine
        await _claim_and_record(store, [batch_id], max_reads=10 * BATCH if added >= CROWD else None)


async def test_a_partition_created_by_an_older_version_gets_its_statistics_override(postgres_store: SqlStore) -> None:
    store = postgres_store
    name = await _create_own_partition(store)
    async with store.transaction() as tx:
        await connection_of(tx).execute(text(f"ALTER TABLE {name} ALTER COLUMN notification_id RESET (n_distinct)"))
    await create_planned_notification(store, "ana")
    async with store.transaction() as tx:
        await connection_of(tx).execute(text(f"ANALYZE {name}"))
    n_distinct = text("SELECT n_distinct FROM pg_stats WHERE tablename = :name AND attname = 'notification_id'")
    async with store.read_snapshot() as tx:
        assert await partitions.list_without_ndistinct(connection_of(tx)) == [name]
        assert await connection_of(tx).scalar(n_distinct.bindparams(name=name)) == -1
    await retention.run_retention(store, NOW, timedelta())
    async with store.read_snapshot() as tx:
        assert await partitions.list_without_ndistinct(connection_of(tx)) == []
        assert await connection_of(tx).scalar(n_distinct.bindparams(name=name)) == pytest.approx(-0.01)


async def test_outcomes_are_written_by_key_while_a_backup_holds_an_old_snapshot(postgres_store: SqlStore) -> None:
    """While an old snapshot exists, indexes of updated columns keep entries of all row versions."""
    store = postgres_store
    await create_planned_notification(store, "ana")
    batches = [new_id(NOW) for _ in range(20)]
    await _add_broadcast(store, "ana", batches)
    async with store.read_snapshot() as backup:
        # the pool reuses the last connection, which reports the counters of the earlier claims and outcomes
        await connection_of(backup).execute(text("SELECT count(*) FROM deliveries"))
        for batch_id in batches:
            before = await _count_index_reads(store)
            await _claim_and_record(store, [batch_id])
            read = await _count_index_reads(store) - before
    assert read <= 10 * BATCH, f"{read} index entries were read to claim {BATCH} deliveries and record their outcomes"


async def _create_own_partition(store: SqlStore) -> str:
    """Create the partition for deliveries planned now; return its name.

    It may differ from the partition of `NOW`: a process's ids only increase, and other tests use other weeks.
    """
    week = Week.from_instant(datetime.fromtimestamp((UUID(new_id(NOW)).int >> 80) / 1000, UTC))
    async with store.transaction() as tx:
        await partitions.create(connection_of(tx), "deliveries", week)
    return week.partition_name("deliveries")


async def _count_index_reads(store: SqlStore) -> int:
    """Return the number of entries read from indexes of deliveries so far, by all connections."""
    async with store.transaction() as tx:
        # a connection reports its counters with a delay unless it is forced to
        await connection_of(tx).execute(text("SELECT pg_stat_force_next_flush()"))
    async with store.transaction() as tx:
        count: int = await connection_of(tx).scalar(
            text("SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes WHERE relname LIKE 'deliveries%'")
        )
        return count


async def _add_broadcast(store: SqlStore, user: str, batches: Sequence[str]) -> None:
    """Add a broadcast of `CROWD` deliveries, `BATCH` of them in each of the batches."""
    named = [batch_id for batch_id in batches for _ in range(BATCH)]
    async with store.transaction() as tx:
        await store.notifications.add_many(tx, [broadcast := make_notification()])
        planned = [
            make_planned_delivery(
                broadcast, user, new_id(NOW), batch_id=named[number] if number < len(named) else new_id(NOW)
            )
            for number in range(CROWD)
        ]
        await store.deliveries.add(tx, planned, [], NOW)


async def _claim_and_record(store: SqlStore, batch_ids: Sequence[str], *, max_reads: int | None = None) -> None:
    """Claim and record; fail if either reads more than `max_reads` deliveries, devices or users."""
    async with store.transaction() as tx:
        before = await _count_reads(tx)
        claimed: Sequence[ClaimedDelivery] = await store.deliveries.claim(
            tx, batch_ids, token=new_id(NOW), now=NOW, lease_until=NOW + LEASE
        )
        _check(before, await _count_reads(tx), max_reads)
    async with store.transaction() as tx:
        before = await _count_reads(tx)
        outcomes = [make_attempt_result(due, Accepted(status=201)) for due in claimed]
        assert await store.deliveries.record(tx, outcomes, NOW + timedelta(seconds=1)) == len(claimed)
        _check(before, await _count_reads(tx), max_reads)


async def _count_reads(tx: Transaction) -> dict[str, int]:
    names = ("deliveries", "contact_points", "users")
    return {name: await connection_of(tx).scalar(_READ.bindparams(name=f"{name}%")) for name in names}


def _check(before: Mapping[str, int], after: Mapping[str, int], max_reads: int | None) -> None:
    for name, count in after.items():
        count_read = count - before[name]
        assert max_reads is None or count_read <= max_reads, (
            f"{count_read} rows of {name} were read for {BATCH} deliveries"
        )
