"""Plans fit the tables as they are, not as the server last counted them: a first broadcast is looked up by its keys."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import text

from tidings.model.delivery import Due
from tidings.model.ids import new_id
from tidings.model.outcome import Delivered
from tidings.ports.store import Transaction
from tidings.stores import partitions, retention
from tidings.stores.connection import of
from tidings.stores.partitions import Week
from tidings.stores.store import SqlStore
from tidings.testing.contracts.samples import LEASE, NOW, a_notification, a_planned, planned_scene, tried

#: of a broadcast, and claimed together
CROWD, BATCH = 30_000, 200
#: rows read by this connection of late, of the tables whose names begin so
_READ = text(
    "SELECT coalesce(sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)), 0) "
    "FROM pg_stat_xact_user_tables WHERE relname LIKE :name"
)


async def test_a_first_broadcast_is_claimed_and_recorded_by_its_keys(postgres_store: SqlStore) -> None:
    store = postgres_store
    for number in range(16):
        # more often than it takes until a plan would be kept
        scene = await planned_scene(store, f"single-{number}")
        await _claimed(store, [scene.batch_id])
        if number == 7:
            async with store.begin() as tx:
                # from here on the server believes that every notification has one delivery
                await of(tx).execute(text("ANALYZE"))
    await _broadcast(store, "single-1", [batch_id := new_id(NOW)])
    await _claimed(store, [batch_id], most=10 * BATCH)


async def test_a_claim_is_looked_up_by_its_keys_in_whatever_order_tables_are_joined(postgres_store: SqlStore) -> None:
    """A planner that believes that notifications have one delivery each may go from a claim to those of all of it."""
    store = postgres_store
    await planned_scene(store, "ana")
    await _broadcast(store, "ana", [batch_id := new_id(NOW)])
    async with store.begin() as tx:
        await of(tx).execute(text("SET LOCAL join_collapse_limit = 1"))
        before = await _read(tx)
        claimed = await store.deliveries.claim(tx, [batch_id], token=new_id(NOW), now=NOW, lease_until=NOW + LEASE)
        assert len(claimed) == BATCH
        _check(before, await _read(tx), 10 * BATCH)


@pytest.mark.parametrize("weeks", [False, True], ids=["the default partition", "a week of its own"])
async def test_a_server_that_counted_single_notifications_reads_no_broadcast_for_each_of_its_rows(
    postgres_store: SqlStore, *, weeks: bool
) -> None:
    """Two indexes begin with the notification. Where each has one delivery both look as good, and one reads them all.

    Which of them is taken is a matter of a hundredth of the price, and changes as the table grows.
    """
    store = postgres_store
    names = ["deliveries_default", *([await _week_of_its_own(store)] if weeks else [])]
    async with store.begin() as tx:
        for name in names:
            # nobody counts but this test
            await of(tx).execute(text(f"ALTER TABLE {name} SET (autovacuum_enabled = off)"))
    # found by trial, as what follows: the price of both indexes must be all but the same
    for _ in range(69):
        scene = await planned_scene(store, "a")
        await _claimed(store, [scene.batch_id])
    async with store.begin() as tx:
        await of(tx).execute(text("ANALYZE"))
    async with store.begin() as tx:
        await store.notifications.add(tx, broadcast := a_notification())
    for added in range(0, 60_000, 1000):
        batch_id = new_id(NOW)
        planned = [
            a_planned(broadcast, "a", new_id(NOW), batch_id=batch_id if number < BATCH else new_id(NOW))
            for number in range(1000)
        ]
        async with store.begin() as tx:
            await store.deliveries.add(tx, planned, [], NOW)
        # a small table may well be read from end to end
        await _claimed(store, [batch_id], most=10 * BATCH if added >= CROWD else None)


async def test_a_week_made_by_an_older_version_is_told_of_with_the_next_round(postgres_store: SqlStore) -> None:
    store = postgres_store
    name = await _week_of_its_own(store)
    async with store.begin() as tx:
        await of(tx).execute(text(f"ALTER TABLE {name} ALTER COLUMN notification_id RESET (n_distinct)"))
    await planned_scene(store, "ana")
    async with store.begin() as tx:
        await of(tx).execute(text(f"ANALYZE {name}"))
    believed = text("SELECT n_distinct FROM pg_stats WHERE tablename = :name AND attname = 'notification_id'")
    async with store.read() as tx:
        assert await partitions.untold(of(tx)) == [name]
        assert await of(tx).scalar(believed.bindparams(name=name)) == -1
    await retention.tidy(store, NOW, timedelta())
    async with store.read() as tx:
        assert await partitions.untold(of(tx)) == []
        assert await of(tx).scalar(believed.bindparams(name=name)) == pytest.approx(-0.01)


async def test_outcomes_are_written_by_their_keys_while_a_backup_looks_at_the_past(postgres_store: SqlStore) -> None:
    """As long as somebody sees an old state of the tables, indexes of what changes hold all that it ever was."""
    store = postgres_store
    await planned_scene(store, "ana")
    batches = [new_id(NOW) for _ in range(20)]
    await _broadcast(store, "ana", batches)
    async with store.read() as backup:
        # (the connection used last is used again, and so tells what the claims and outcomes before counted)
        await of(backup).execute(text("SELECT count(*) FROM deliveries"))
        for batch_id in batches:
            before = await _entries_read(store)
            await _claimed(store, [batch_id])
            read = await _entries_read(store) - before
    assert read <= 10 * BATCH, (
        f"{read} entries of indexes were read to claim {BATCH} deliveries and write what came of it"
    )


async def _week_of_its_own(store: SqlStore) -> str:
    """Make the partition that what is planned now lies in; return its name.

    That need not be the one of `NOW`: ids of a process only go forward, and other tests live in other weeks.
    """
    week = Week.of(datetime.fromtimestamp((UUID(new_id(NOW)).int >> 80) / 1000, UTC))
    async with store.begin() as tx:
        await partitions.make(of(tx), "deliveries", week)
    return week.of_table("deliveries")


async def _entries_read(store: SqlStore) -> int:
    """Return how many entries of the indexes of deliveries were read so far, by all connections."""
    async with store.begin() as tx:
        # what a connection counts it tells now and then, unless it is asked to
        await of(tx).execute(text("SELECT pg_stat_force_next_flush()"))
    async with store.begin() as tx:
        count: int = await of(tx).scalar(
            text("SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes WHERE relname LIKE 'deliveries%'")
        )
        return count


async def _broadcast(store: SqlStore, user: str, batches: Sequence[str]) -> None:
    """Add one of `CROWD` deliveries, `BATCH` of them in each of the batches."""
    named = [batch_id for batch_id in batches for _ in range(BATCH)]
    async with store.begin() as tx:
        await store.notifications.add(tx, broadcast := a_notification())
        planned = [
            a_planned(broadcast, user, new_id(NOW), batch_id=named[number] if number < len(named) else new_id(NOW))
            for number in range(CROWD)
        ]
        await store.deliveries.add(tx, planned, [], NOW)


async def _claimed(store: SqlStore, batch_ids: Sequence[str], *, most: int | None = None) -> None:
    """Claim and record; fail if either reads more than `most` deliveries, devices or users."""
    async with store.begin() as tx:
        before = await _read(tx)
        claimed: Sequence[Due] = await store.deliveries.claim(
            tx, batch_ids, token=new_id(NOW), now=NOW, lease_until=NOW + LEASE
        )
        _check(before, await _read(tx), most)
    async with store.begin() as tx:
        before = await _read(tx)
        outcomes = [tried(due, Delivered(status=201)) for due in claimed]
        assert await store.deliveries.record(tx, outcomes, NOW + timedelta(seconds=1)) == len(claimed)
        _check(before, await _read(tx), most)


async def _read(tx: Transaction) -> dict[str, int]:
    names = ("deliveries", "push_subscriptions", "users")
    return {name: await of(tx).scalar(_READ.bindparams(name=f"{name}%")) for name in names}


def _check(before: Mapping[str, int], after: Mapping[str, int], most: int | None) -> None:
    for name, count in after.items():
        read = count - before[name]
        assert most is None or read <= most, f"{read} rows of {name} were read for {BATCH} deliveries"
