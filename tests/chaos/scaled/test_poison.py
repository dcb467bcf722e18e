"""A delivery that crashes its worker is quarantined after three crashes; others are sent; it can be replayed."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest
from tests.support.chaos_cluster import ChaosCluster, notify, wait_until_final
from tests.support.cluster import ServerProcess
from tests.support.server import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

ClusterFactory = Callable[..., Awaitable[ChaosCluster]]
RecordMeasurement = Callable[[str, object], None]
USER_COUNT = 60
POISON_USER_ID = "u00037"
MAX_CRASHES = 3
IN_FLIGHT, UNFLUSHED = 50, 50
QUARANTINE_ERROR = "quarantined: 3 workers died while sending it"


@pytest.mark.extended
async def test_a_poison_delivery_is_quarantined_and_can_be_replayed(
    create_cluster: ClusterFactory, short_leases: Mapping[str, str], record_measurement: RecordMeasurement
) -> None:
    await run(await create_cluster(USER_COUNT), short_leases, record_measurement, within=60)


@pytest.mark.long
async def test_a_poison_delivery_is_quarantined_with_default_leases(
    create_cluster: ClusterFactory, fault_hooks: Mapping[str, str], record_measurement: RecordMeasurement
) -> None:
    await run(
        await create_cluster(USER_COUNT), {**fault_hooks, "TIDINGS_LEASE_SECONDS": "30"}, record_measurement, within=300
    )


async def run(
    cluster: ChaosCluster, variables: Mapping[str, str], record_measurement: RecordMeasurement, *, within: float
) -> None:
    """Let workers crash on one delivery, and restart them as a supervisor does."""
    ((target,),) = await cluster.run_sql(
        "SELECT id::text FROM contact_points WHERE channel = 'webpush' AND user_id = $1", POISON_USER_ID
    )
    crash_counts: list[ServerProcess] = []
    async with AsyncExitStack() as stack:
        (api,) = await stack.enter_async_context(cluster.start_processes("api"))
        workers = [cluster.create_process("worker", **variables, CHAOS_POISON=target) for _ in range(2)]
        supervisors = [asyncio.create_task(_supervise(worker, crash_counts)) for worker in workers]
        try:
            notification = await notify(api)
            states = await wait_until_final(api, notification, within=within)
        finally:
            for supervisor in supervisors:
                supervisor.cancel()
            await asyncio.gather(*supervisors, return_exceptions=True)
        assert states == {"delivered": USER_COUNT - 1, "refused": 1}
        record_measurement("workers that died", len(crash_counts))
        assert len(crash_counts) == MAX_CRASHES
        first = await cluster.audit()
        assert POISON_USER_ID not in {device for device, _ in first.receipts}
        record_measurement("duplicates", f"{first.duplicates}, promised ≤ {MAX_CRASHES * (IN_FLIGHT + UNFLUSHED)}")
        assert first.duplicates <= MAX_CRASHES * (IN_FLIGHT + UNFLUSHED)
        (dead,) = (await api.expect(200, "GET", "/api/dead-letters")).read(dict[str, Any])["items"]
        assert (dead["userId"], dead["error"], dead["crashes"]) == (POISON_USER_ID, QUARANTINE_ERROR, MAX_CRASHES)
        # once the cause is fixed, the delivery is replayed
        await stack.enter_async_context(cluster.start_processes("worker"))
        await api.expect(202, "POST", "/api/dead-letters/replay", {"ids": [dead["id"]]})
        await eventually(lambda: _are_all_delivered(cluster), within=60)
    audit = await cluster.audit()
    audit.check(cluster.user_ids, max_duplicates=MAX_CRASHES * (IN_FLIGHT + UNFLUSHED))
    assert audit.duplicates == first.duplicates


async def _supervise(worker: ServerProcess, crash_counts: list[ServerProcess]) -> None:
    """Restart a worker whenever it exits; kill it when cancelled."""
    try:
        while True:
            await worker.start()
            await eventually(lambda: _has_exited(worker), within=600)
            crash_counts.append(worker)
    finally:
        if worker.is_running:
            await worker.kill()


async def _has_exited(worker: ServerProcess) -> bool:
    return not worker.is_running


async def _are_all_delivered(cluster: ChaosCluster) -> bool:
    return (await cluster.audit()).state_counts == {"delivered": USER_COUNT}
