"""A worker stalls for longer than its lease and resumes: its outcomes are fenced, each delivery ends once."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import pytest
from tests.support.chaos_cluster import ChaosCluster, notify, wait_until_final
from tests.support.server import eventually

from tidings.mockpush import ResponseRule

pytestmark = pytest.mark.asyncio(loop_scope="session")

ClusterFactory = Callable[..., Awaitable[ChaosCluster]]
RecordMeasurement = Callable[[str, object], None]
USER_COUNT = 200
IN_FLIGHT, UNFLUSHED = 50, 50


@pytest.mark.extended
async def test_a_worker_that_resumes_after_its_lease_is_fenced(
    create_cluster: ClusterFactory, short_leases: Mapping[str, str], record_measurement: RecordMeasurement
) -> None:
    await run(await create_cluster(USER_COUNT), short_leases, record_measurement, seconds=0)


@pytest.mark.long
async def test_a_worker_stalled_for_ninety_seconds_is_fenced(
    create_cluster: ClusterFactory, record_measurement: RecordMeasurement
) -> None:
    await run(await create_cluster(USER_COUNT), {}, record_measurement, seconds=90)


async def run(
    cluster: ChaosCluster, variables: Mapping[str, str], record_measurement: RecordMeasurement, *, seconds: float
) -> None:
    """Pause one worker until the other has sent everything, for at least `seconds`, then resume it."""
    # slow enough that the paused worker has sends in flight, whose responses it reads when resumed
    await cluster.push_service.control.set_rules(ResponseRule(delay_ms=300))
    async with cluster.start_processes("api", "worker", "worker", **variables) as (api, stalled, _):
        notification = await notify(api)
        await cluster.wait_for_accepted(USER_COUNT // 8)
        stalled.pause()
        stopped = time.monotonic()
        held = await cluster.run_sql("SELECT count(DISTINCT lease_token) FROM deliveries WHERE state = 'sending'")
        record_measurement("leases held when it was stopped", held[0][0])
        await cluster.push_service.control.set_rules(ResponseRule(delay_ms=20))
        assert await wait_until_final(api, notification, within=180) == {"delivered": USER_COUNT}
        record_measurement("seconds until the other had sent everything", round(time.monotonic() - stopped, 1))
        await asyncio.sleep(max(0.0, seconds - (time.monotonic() - stopped)))
        before = await cluster.run_sql("SELECT id, state, attempts, updated_at FROM deliveries ORDER BY id")
        stalled.resume()
        await eventually(lambda: _log_contains(stalled.log.read_text, "outcomes_rejected_stale_lease"), within=60)
        assert await stalled.stop() == 0
        after = await cluster.run_sql("SELECT id, state, attempts, updated_at FROM deliveries ORDER BY id")
        assert after == before, "a fenced outcome changed a row"
        assert "Traceback" not in stalled.log_tail()
    audit = await cluster.audit()
    record_measurement("duplicates", f"{audit.duplicates}, promised ≤ {IN_FLIGHT + UNFLUSHED}")
    audit.check(cluster.user_ids, max_duplicates=IN_FLIGHT + UNFLUSHED)


async def _log_contains(read: Callable[[], str], word: str) -> bool:
    return word in read()
