"""Plans fit the tables as they are, not as the server last counted them: a first broadcast is looked up by its keys."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from sqlalchemy import text

from tidings.model.delivery import Due
from tidings.model.ids import new_id
from tidings.model.outcome import Delivered
from tidings.ports.store import Transaction
from tidings.stores.connection import of
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
    batch_id = await _broadcast(store, "single-1")
    await _claimed(store, [batch_id], most=10 * BATCH)


async def test_a_claim_is_looked_up_by_its_keys_in_whatever_order_tables_are_joined(postgres_store: SqlStore) -> None:
    """A planner that believes that notifications have one delivery each may go from a claim to those of all of it."""
    store = postgres_store
    await planned_scene(store, "ana")
    batch_id = await _broadcast(store, "ana")
    async with store.begin() as tx:
        await of(tx).execute(text("SET LOCAL join_collapse_limit = 1"))
        before = await _read(tx)
        claimed = await store.deliveries.claim(tx, [batch_id], token=new_id(NOW), now=NOW, lease_until=NOW + LEASE)
        assert len(claimed) == BATCH
        _check(before, await _read(tx), 10 * BATCH)


async def _broadcast(store: SqlStore, user: str) -> str:
    """Add one of `CROWD` deliveries; return the batch of the first `BATCH` of them."""
    batch_id = new_id(NOW)
    async with store.begin() as tx:
        await store.notifications.add(tx, broadcast := a_notification())
        planned = [
            a_planned(broadcast, user, new_id(NOW), batch_id=batch_id if number < BATCH else new_id(NOW))
            for number in range(CROWD)
        ]
        await store.deliveries.add(tx, planned, [], NOW)
    return batch_id


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
