"""A push host that hangs or answers a byte a second does not slow down another host, and no message is lost."""

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from tests.support.chaos_cluster import BROADCAST, ChaosCluster, notify, wait_until_final
from tests.support.cluster import ServerProcess
from tests.support.server import eventually

from tidings.mockpush import ResponseRule

pytestmark = pytest.mark.asyncio(loop_scope="session")

ClusterFactory = Callable[..., Awaitable[ChaosCluster]]
RecordMeasurement = Callable[[str, object], None]
HANGING_HOST, DRIPPING_HOST = ResponseRule(hang=True), ResponseRule(drip=True)
#: the response time of the push service, so that slots and not the CPU limit the rate
RESPONSE_DELAY_MS = 250


@pytest.mark.extended
async def test_a_hanging_host_delays_no_other_and_its_messages_expire(
    create_cluster: ClusterFactory, record_measurement: RecordMeasurement
) -> None:
    cluster = await create_cluster(400, hosts=2)
    well, gone = cluster.push_services
    await gone.control.set_rules(HANGING_HOST)
    async with cluster.start_processes("api", "worker", "worker") as (api, *_):
        expires = datetime.now(UTC) + timedelta(seconds=8)
        notification = await notify(api, {**BROADCAST, "options": {"expiresAt": expires.isoformat()}})
        # retried until the messages expire
        assert await wait_until_final(api, notification, within=60) == {"delivered": 200, "expired": 200}
        sent, tried = await well.control.stats(), await gone.control.stats()
    assert sent.first_at is not None
    assert sent.last_at is not None
    record_measurement("seconds for the messages of the other host", round(sent.last_at - sent.first_at, 1))
    record_measurement("tries at the host that hangs", tried.received)
    audit = await cluster.audit()
    audit.check_consistency()
    assert {device for device, _ in audit.receipts} == set(cluster.user_ids[::2])
    assert audit.duplicates == 0
    # the host receives few requests
    assert tried.received < 200


@pytest.mark.long
@pytest.mark.parametrize("harm", [HANGING_HOST, DRIPPING_HOST], ids=["hangs", "drips-a-byte-a-second"])
async def test_the_other_host_keeps_nine_tenths_of_its_rate(
    create_cluster: ClusterFactory, record_measurement: RecordMeasurement, harm: ResponseRule
) -> None:
    cluster = await create_cluster(6000, hosts=2)
    async with cluster.start_processes("api", "worker", "worker") as (api, *_):
        # a first run warms up both hosts; the last run detects other load on the machine
        await _measure_rate(cluster, api)
        usual = await _measure_rate(cluster, api)
        await _reset(cluster, ResponseRule(delay_ms=RESPONSE_DELAY_MS), harm)
        notification = await notify(api)
        await cluster.push_service.control.wait_for(timeout=300, accepted=3000)
        harmed = await _read_rate(cluster)
        recovered = time.monotonic()
        await cluster.push_services[1].control.set_rules()
        assert await wait_until_final(api, notification, within=300) == {"delivered": 6000}
        record_measurement("seconds from its return to the end", round(time.monotonic() - recovered, 1))
        audit = await cluster.audit()
        usual = min(usual, await _measure_rate(cluster, api))
    _record_rates(record_measurement, usual, harmed)
    assert harmed >= 0.9 * usual
    audit.check_consistency()
    assert {device for device, _ in audit.receipts} == set(cluster.user_ids)
    # a message whose response is late is sent to the host again
    record_measurement("duplicates", audit.duplicates)
    assert (audit.duplicates == 0) or harm.drip


@pytest.mark.long
async def test_a_hanging_device_does_not_affect_its_host(
    create_cluster: ClusterFactory, record_measurement: RecordMeasurement
) -> None:
    cluster = await create_cluster(400)
    await cluster.push_service.control.set_rules(
        ResponseRule(hang=True, device="u00100", times=1), ResponseRule(delay_ms=RESPONSE_DELAY_MS)
    )
    async with cluster.start_processes("api", "worker") as (api, _):
        notification = await notify(api)
        started = time.monotonic()
        await cluster.push_service.control.wait_for(timeout=60, accepted=399)
        record_measurement("seconds until all others had theirs", round(time.monotonic() - started, 1))
        assert await wait_until_final(api, notification, within=60) == {"delivered": 400}
        record_measurement("seconds until it had its own", round(time.monotonic() - started, 1))
    (await cluster.audit()).check(cluster.user_ids)


async def _measure_rate(cluster: ChaosCluster, api: ServerProcess) -> float:
    """Return the first host's messages per second while both hosts are healthy."""
    await _reset(cluster, *[ResponseRule(delay_ms=RESPONSE_DELAY_MS)] * 2)
    assert set(await wait_until_final(api, await notify(api), within=300)) == {"delivered"}
    return await _read_rate(cluster)


async def _reset(cluster: ChaosCluster, *rules: ResponseRule) -> None:
    """Clear the receipts of the push services, and set one rule for each."""
    await eventually(lambda: _is_all_final(cluster))
    await cluster.run_sql("TRUNCATE notifications, deliveries, attempts, skips, outbox")
    for push, rule in zip(cluster.push_services, rules, strict=True):
        await push.control.reset()
        await push.control.set_rules(rule)


async def _is_all_final(cluster: ChaosCluster) -> bool:
    return not await cluster.run_sql(
        "SELECT 1 FROM outbox UNION ALL SELECT 1 FROM deliveries WHERE lease_until IS NOT NULL"
    )


async def _read_rate(cluster: ChaosCluster) -> float:
    stats = await cluster.push_service.control.stats()
    assert stats.first_at is not None
    assert stats.last_at is not None
    return stats.accepted / (stats.last_at - stats.first_at)


def _record_rates(record_measurement: RecordMeasurement, usual: float, harmed: float) -> None:
    record_measurement("messages a second, both well", round(usual))
    record_measurement("messages a second, the other host gone", f"{harmed:.0f} ({harmed / usual:.0%})")
