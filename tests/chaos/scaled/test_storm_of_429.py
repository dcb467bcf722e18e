"""429 responses from every device: Retry-After is honoured, no attempt is counted, every message arrives."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import cycle

import pytest
from tests.support.chaos_cluster import ChaosCluster, notify, wait_until_final
from tests.support.server import eventually

from tidings.mockpush import ResponseRule

pytestmark = pytest.mark.asyncio(loop_scope="session")

ClusterFactory = Callable[..., Awaitable[ChaosCluster]]
RecordMeasurement = Callable[[str, object], None]
#: the minimum wait after an implausible Retry-After
MIN_WAIT_SECONDS = 2.0
RETRY_AFTER_SECONDS = 3
#: intervals between answered attempts
SELECT_TRY_INTERVALS = """
    SELECT extract(epoch FROM started_at - lag(started_at) OVER (PARTITION BY delivery_id ORDER BY started_at))::float
    FROM attempts WHERE status IS NOT NULL
"""
FAR_RETRY_AFTER = "99999999999999999999"


@dataclass(frozen=True)
class ExpectedRetry:
    """The response of one device, and the retry that must follow."""

    retry_after: str | int
    #: minimum seconds after each response
    min_wait: float
    #: attempts counted in the end
    spent_attempts: int = 1
    #: Unix time before which no retry may arrive
    not_before: float = 0.0


@pytest.mark.parametrize(
    "user_count", [pytest.param(15, marks=pytest.mark.extended), pytest.param(60, marks=pytest.mark.long)]
)
async def test_no_retry_arrives_before_its_retry_after(
    create_cluster: ClusterFactory, record_measurement: RecordMeasurement, user_count: int
) -> None:
    cluster = await create_cluster(user_count)
    async with cluster.start_processes("api", "worker", "worker") as (api, *_):
        expected = _build_expected_retries(cluster)
        await cluster.push_service.control.set_rules(
            *(
                ResponseRule(device=device, status=429, retry_after=retry.retry_after, times=1)
                for device, retry in expected.items()
            )
        )
        notification = await notify(api)
        assert await wait_until_final(api, notification, within=120) == {"delivered": user_count}
    stats = await cluster.push_service.control.stats()
    assert stats.by_status["429"] == user_count
    refused_at = await _read_first_429_times(cluster)
    sooner = {}
    for message in await cluster.push_service.control.messages(limit=user_count):
        retry, arrived_at = expected[message.device], message.received_at
        waited = arrived_at - refused_at[message.device]
        if waited < retry.min_wait or arrived_at < retry.not_before:
            sooner[message.device] = (retry, waited)
    record_measurement("retries before their Retry-After", len(sooner))
    assert sooner == {}
    spent = dict(await cluster.run_sql("SELECT user_id, attempts FROM deliveries"))
    assert spent == {device: retry.spent_attempts for device, retry in expected.items()}
    (await cluster.audit()).check(cluster.user_ids)


@pytest.mark.long
async def test_a_service_wide_429_storm_of_half_a_minute(
    create_cluster: ClusterFactory, record_measurement: RecordMeasurement
) -> None:
    """The service throttles every request until the storm is over."""
    cluster = await create_cluster(2000)
    await cluster.push_service.control.set_rules(ResponseRule(status=429, retry_after=RETRY_AFTER_SECONDS))
    async with cluster.start_processes("api", "worker", "worker") as (api, *_):
        notification = await notify(api)
        await cluster.push_service.control.wait_for(received=1)
        await asyncio.sleep(30)
        stats = await cluster.push_service.control.stats()
        record_measurement("requests in half a minute, of 2 000 waiting", stats.received)
        assert stats.accepted == 0
        await cluster.push_service.control.set_rules()
        over = time.monotonic()
        assert await wait_until_final(api, notification, within=180) == {"delivered": 2000}
        record_measurement("seconds from its end until all was sent", round(time.monotonic() - over, 1))
    assert dict(await cluster.run_sql("SELECT attempts, count(*) FROM deliveries GROUP BY 1")) == {1: 2000}
    waits = [row[0] for row in await cluster.run_sql(SELECT_TRY_INTERVALS) if row[0] is not None]
    record_measurement("seconds between two tries for one device, at least", round(min(waits), 2))
    assert min(waits) >= RETRY_AFTER_SECONDS
    (await cluster.audit()).check(cluster.user_ids)


@pytest.mark.long
async def test_an_excessive_retry_after_is_capped_at_a_day_and_delays_no_other_device(
    create_cluster: ClusterFactory, record_measurement: RecordMeasurement
) -> None:
    cluster = await create_cluster(200)
    far = cluster.user_ids[:3]
    await cluster.push_service.control.set_rules(
        *(ResponseRule(device=device, status=429, retry_after=FAR_RETRY_AFTER, times=1) for device in far)
    )
    async with cluster.start_processes("api", "worker") as (api, worker):
        notification = await notify(api)
        await cluster.push_service.control.wait_for(timeout=60, accepted=197)
        await eventually(lambda: _has_pending(cluster, 3))
        rows = await cluster.run_sql("SELECT due_at, attempts FROM deliveries WHERE state = 'pending'")
        waits = [(row[0] - datetime.now(UTC)) / timedelta(hours=1) for row in rows]
        record_measurement("hours until they are tried again", [round(wait, 1) for wait in waits])
        assert all(23.9 < wait < 30.1 for wait in waits)
        assert [row[1] for row in rows] == [0, 0, 0]
        # simulate the next day: shift the rows' times, and start a new worker without memory of the wait
        assert await worker.stop() == 0
        await cluster.run_sql("UPDATE deliveries SET due_at = now() WHERE state = 'pending'")
        await worker.start()
        assert await wait_until_final(api, notification) == {"delivered": 200}
    (await cluster.audit()).check(cluster.user_ids)


def _build_expected_retries(cluster: ChaosCluster) -> Mapping[str, ExpectedRetry]:
    date = (datetime.now(UTC) + timedelta(seconds=6)).replace(microsecond=0)
    past = datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)
    kinds = cycle(
        [
            ExpectedRetry(RETRY_AFTER_SECONDS, RETRY_AFTER_SECONDS),
            ExpectedRetry(format_datetime(date, usegmt=True), MIN_WAIT_SECONDS, not_before=date.timestamp()),
            ExpectedRetry(format_datetime(past, usegmt=True), MIN_WAIT_SECONDS),
            ExpectedRetry(-5, MIN_WAIT_SECONDS),
            ExpectedRetry(0, MIN_WAIT_SECONDS),
        ]
    )
    return dict(zip(cluster.user_ids, kinds, strict=False))


async def _read_first_429_times(cluster: ChaosCluster) -> Mapping[str, float]:
    """Return user → Unix time of the start of the first attempt answered with 429."""
    rows = await cluster.run_sql(
        "SELECT user_id, min(started_at) FROM attempts JOIN deliveries ON deliveries.id = delivery_id "
        "WHERE status = 429 GROUP BY user_id"
    )
    return {row[0]: row[1].timestamp() for row in rows}


async def _has_pending(cluster: ChaosCluster, number: int) -> bool:
    ((pending,),) = await cluster.run_sql(
        "SELECT count(*) FROM deliveries WHERE state = 'pending' AND lease_until IS NULL"
    )
    return bool(pending == number)
