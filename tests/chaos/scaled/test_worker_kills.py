"""Workers killed in the middle of batches: no user is missed, and duplicates stay within the bound."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
from tests.support.chaos_cluster import ChaosCluster, notify, wait_until_final
from tests.support.cluster import ServerProcess
from tests.support.server import eventually

from tidings.mockpush import ResponseRule

pytestmark = pytest.mark.asyncio(loop_scope="session")

ClusterFactory = Callable[..., Awaitable[ChaosCluster]]
RecordMeasurement = Callable[[str, object], None]
IN_FLIGHT, UNFLUSHED = 50, 50
#: per kill
MAX_DUPLICATES = IN_FLIGHT + UNFLUSHED

#: where a worker exits, in the order of its steps
EXIT_POINTS = [
    "tidings.flow.fanout.fan_out:FanOut.plan_next_pages:before",
    "tidings.stores.repositories.deliveries:SqlDeliveries.add:after",
    "tidings.flow.fanout.fan_out:FanOut.plan_next_pages:after",
    "tidings.stores.repositories.delivery_claims:DeliveryClaims.claim:before",
    "tidings.stores.repositories.delivery_claims:DeliveryClaims.claim:after",
    "tidings.flow.deliver.lease_claimer:DeliveryRunner.deliver:before",
    "tidings.channels.webpush.channel:WebPushChannel.send:before",
    "tidings.channels.webpush.channel:WebPushChannel.send:after",
    "tidings.flow.pipeline:Pipeline.record:before",
    "tidings.flow.pipeline:Pipeline.record:after",
    "tidings.queues.failover_queue:FailoverQueue.ack:before",
    "tidings.queues.failover_queue:FailoverQueue.ack:after",
]


@dataclass(frozen=True)
class Case:
    """The parameters of one run."""

    user_count: int
    kills: int
    seed: int


async def run(case: Case, cluster: ChaosCluster, record_measurement: RecordMeasurement, **more: str) -> float:
    """Kill one of two workers repeatedly, timed by progress. Return the seconds from the last kill to the end."""
    moments = random.Random(case.seed)
    # responses take a moment, so that every kill hits sends in flight
    await cluster.push_service.control.set_rules(ResponseRule(delay_ms=20))
    async with cluster.start_processes("api", "worker", "worker", **more) as (api, *workers):
        notification = await notify(api)
        for kill in range(case.kills):
            await _wait_for_sent(
                cluster, round(case.user_count * (kill + moments.random()) / (case.kills + 1)), workers
            )
            victim = moments.choice(workers)
            await victim.kill()
            if kill < case.kills - 1:
                await victim.start()
        last = time.monotonic()
        # the last killed worker is not restarted: the other takes over its deliveries
        assert await wait_until_final(api, notification, within=150) == {"delivered": case.user_count}
        after = time.monotonic() - last
        for worker in workers:
            assert not worker.is_running or await worker.stop() == 0
    audit = await cluster.audit()
    record_measurement("duplicates", f"{audit.duplicates}, promised ≤ {case.kills * MAX_DUPLICATES}")
    record_measurement("seconds from the last kill to the end", round(after, 1))
    audit.check(cluster.user_ids, max_duplicates=case.kills * MAX_DUPLICATES)
    return after


async def _wait_for_sent(cluster: ChaosCluster, number: int, workers: list[ServerProcess]) -> None:
    """Wait until `number` messages were accepted, or sending stops because killed workers hold the rest."""
    seen: list[int] = []

    async def is_reached() -> bool:
        seen.append((await cluster.push_service.control.stats()).accepted)
        is_stalled = len(seen) > 40 and len(set(seen[-40:])) == 1
        return seen[-1] >= number or is_stalled

    await eventually(is_reached, within=120, pause=0.05)


async def test_another_worker_takes_over_from_a_killed_one(
    create_cluster: ClusterFactory, short_leases: dict[str, str], record_measurement: RecordMeasurement
) -> None:
    await run(Case(600, 2, 1), await create_cluster(600), record_measurement, **short_leases)


@pytest.mark.long
async def test_no_user_is_missed_in_twenty_kills(
    create_cluster: ClusterFactory, record_measurement: RecordMeasurement
) -> None:
    after = await run(Case(10_000, 20, 2), await create_cluster(10_000), record_measurement)
    # a lease of 60 s, and a sweep interval
    assert after < 60 + 15 + 30


@pytest.mark.long
async def test_deliveries_of_a_killed_worker_are_released_within_seventy_seconds(
    create_cluster: ClusterFactory, record_measurement: RecordMeasurement
) -> None:
    cluster = await create_cluster(1000)
    await cluster.push_service.control.set_rules(ResponseRule(delay_ms=20))
    async with cluster.start_processes("api", "worker", "worker", TIDINGS_LEASE_SECONDS="30") as (api, victim, _):
        notification = await notify(api)
        await cluster.wait_for_accepted(300)
        await victim.kill()
        killed = time.monotonic()
        assert await wait_until_final(api, notification) == {"delivered": 1000}
        duration = time.monotonic() - killed
        record_measurement("seconds until all was sent", round(duration, 1))
        assert duration < 70
    (await cluster.audit()).check(cluster.user_ids, max_duplicates=MAX_DUPLICATES)


@pytest.mark.long
async def test_both_workers_killed_together_with_the_queue(
    create_cluster: ClusterFactory, short_leases: dict[str, str], record_measurement: RecordMeasurement
) -> None:
    cluster = await create_cluster(1000)
    await cluster.push_service.control.set_rules(ResponseRule(delay_ms=20))
    async with cluster.start_processes("api", "worker", "worker", **short_leases) as (api, *workers):
        notification = await notify(api)
        await cluster.wait_for_accepted(300)
        await asyncio.gather(*(worker.kill() for worker in workers))
        cluster.valkey.kill()
        cluster.valkey.start()
        await asyncio.gather(*(worker.start() for worker in workers))
        assert await wait_until_final(api, notification) == {"delivered": 1000}
    audit = await cluster.audit()
    record_measurement("duplicates", f"{audit.duplicates}, promised ≤ {2 * MAX_DUPLICATES}")
    audit.check(cluster.user_ids, max_duplicates=2 * MAX_DUPLICATES)


@pytest.mark.long
@pytest.mark.parametrize("exit_point", EXIT_POINTS)
async def test_another_worker_takes_over_from_one_killed_at_any_step(
    create_cluster: ClusterFactory, short_leases: dict[str, str], record_measurement: RecordMeasurement, exit_point: str
) -> None:
    cluster = await create_cluster(200)
    async with (
        cluster.start_processes("api") as (api,),
        cluster.create_process("worker", **short_leases, CHAOS_EXIT=exit_point) as doomed,
    ):
        notification = await notify(api)
        await eventually(lambda: _has_exited(doomed), within=60)
        async with cluster.start_processes("worker", **short_leases):
            assert await wait_until_final(api, notification) == {"delivered": 200}
    audit = await cluster.audit()
    record_measurement("duplicates", f"{audit.duplicates}, promised ≤ {MAX_DUPLICATES}")
    audit.check(cluster.user_ids, max_duplicates=MAX_DUPLICATES)


async def _has_exited(worker: ServerProcess) -> bool:
    return not worker.is_running
