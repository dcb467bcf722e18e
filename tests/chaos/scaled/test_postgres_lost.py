"""PostgreSQL outages under load, by restart or terminated connections: 503 meanwhile, no confirmed request is lost."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial

import pytest
from tests.support.chaos_cluster import ChaosCluster, build_single_notification, notify, wait_until_final
from tests.support.cluster import ServerProcess
from tests.support.load import LoadGenerator
from tests.support.server import eventually

from tidings.errors import BackendError
from tidings.mockpush import ResponseRule
from tidings.testing.postgres import PostgresServer

pytestmark = pytest.mark.asyncio(loop_scope="session")

ClusterFactory = Callable[..., Awaitable[ChaosCluster]]
RecordMeasurement = Callable[[str, object], None]
#: of both workers: duplicates allowed per failure, if outcomes are lost with it
MAX_DUPLICATES = 2 * (50 + 50)
#: seconds: the drain timeout, and the extra time while the database hangs on a slow machine
DRAIN, SLACK = 1.0, 11.0


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this file, with full durability of commits."""
    with PostgresServer() as server:
        yield server


async def _restart(cluster: ChaosCluster) -> None:
    await asyncio.to_thread(cluster.postgres.restart, "immediate")


async def _terminate_connections(cluster: ChaosCluster) -> None:
    await asyncio.to_thread(cluster.postgres.terminate_backends, cluster.database_url.rpartition("/")[2])


@pytest.mark.extended
async def test_an_immediate_restart_under_load(
    create_cluster: ClusterFactory, own_postgres: PostgresServer, record_measurement: RecordMeasurement
) -> None:
    await run(await create_cluster(300, on=own_postgres), record_measurement, _restart, 1)


@pytest.mark.extended
async def test_terminated_connections_under_load(
    create_cluster: ClusterFactory, own_postgres: PostgresServer, record_measurement: RecordMeasurement
) -> None:
    await run(await create_cluster(300, on=own_postgres), record_measurement, _terminate_connections, 1)


@pytest.mark.long
async def test_five_immediate_restarts_under_load(
    create_cluster: ClusterFactory, own_postgres: PostgresServer, record_measurement: RecordMeasurement
) -> None:
    await run(await create_cluster(5000, on=own_postgres), record_measurement, _restart, 5)


@pytest.mark.long
async def test_twenty_rounds_of_terminated_connections(
    create_cluster: ClusterFactory, own_postgres: PostgresServer, record_measurement: RecordMeasurement
) -> None:
    await run(await create_cluster(5000, on=own_postgres), record_measurement, _terminate_connections, 20)


async def run(
    cluster: ChaosCluster,
    record_measurement: RecordMeasurement,
    inject_failure: Callable[[ChaosCluster], Awaitable[None]],
    failure_count: int,
) -> None:
    """Inject `failure_count` failures in the middle of a broadcast, while clients send requests."""
    user_count = len(cluster.user_ids)
    await cluster.push_service.control.set_rules(ResponseRule(delay_ms=20))
    async with cluster.start_processes("api", "worker", "worker") as processes:
        api, pids = processes[0], [process.pid for process in processes]
        broadcast = await notify(api)
        load = LoadGenerator(api, list(cluster.user_ids))
        load.start()
        recovery_seconds = []
        for number in range(1, failure_count + 1):
            await cluster.wait_for_accepted(user_count * number // (failure_count + 1))
            accepted_count = len(load.accepted)
            await inject_failure(cluster)
            failed_at = time.monotonic()
            await eventually(partial(load.has_accepted, accepted_count + 4), within=60)
            recovery_seconds.append(round(time.monotonic() - failed_at, 1))
        # the database is available again, so everything pending is sent
        assert await wait_until_final(api, broadcast, within=150) == {"delivered": user_count}
        await load.stop_and_verify()
        assert [process.pid for process in processes] == pids
        assert all(process.is_running for process in processes)
        logs = [process.log.read_text() for process in processes]
    record_measurement("answers", dict(load.status_counts))
    record_measurement("seconds until requests were accepted again", recovery_seconds)
    assert max(recovery_seconds) < 10
    assert not any("Traceback" in text for text in logs), "an outage must not cause an unhandled error"
    audit = await cluster.audit()
    record_measurement("duplicates", f"{audit.duplicates}, promised ≤ {failure_count * MAX_DUPLICATES}")
    load.check_audit(audit, broadcast, max_duplicates=failure_count * MAX_DUPLICATES)


@pytest.mark.extended
async def test_no_request_is_confirmed_during_a_database_outage(
    create_cluster: ClusterFactory, own_postgres: PostgresServer, record_measurement: RecordMeasurement
) -> None:
    cluster = await create_cluster(20, on=own_postgres)
    async with cluster.start_processes("api", "worker") as (api, _):
        first = await notify(api, build_single_notification(cluster.user_ids[0]), key="before")
        await wait_until_final(api, first)
        cluster.postgres.stop("immediate")
        answered = []
        for number in range(5):
            request = time.monotonic()
            headers = {"Idempotency-Key": f"meanwhile-{number}"}
            answer = await api.call(
                "POST", "/api/notifications", build_single_notification(cluster.user_ids[1]), headers=headers
            )
            answered.append(round(time.monotonic() - request, 2))
            assert answer.status == 503
            assert int(answer.headers["retry-after"]) >= 1
        cluster.postgres.start()
        started = time.monotonic()
        again = await eventually(lambda: _try_notify(api, cluster.user_ids[1]), within=30)
        record_measurement("seconds to say no", answered)
        record_measurement("seconds until back", recovery_seconds := round(time.monotonic() - started, 1))
        assert recovery_seconds < 10
        assert await wait_until_final(api, again) == {"delivered": 1}
        assert await notify(api, build_single_notification(cluster.user_ids[0]), key="before") == first
    audit = await cluster.audit()
    audit.check_consistency()
    assert set(audit.counts) == {first, again}
    assert audit.duplicates == 0


@pytest.mark.extended
async def test_a_stop_completes_while_the_database_hangs(
    create_cluster: ClusterFactory, own_postgres: PostgresServer, record_measurement: RecordMeasurement
) -> None:
    cluster = await create_cluster(300, on=own_postgres)
    await cluster.push_service.control.set_rules(ResponseRule(delay_ms=50))
    async with cluster.start_processes("api", "worker", "worker", TIDINGS_DRAIN_SECONDS=str(DRAIN)) as processes:
        broadcast = await notify(processes[0])
        await cluster.wait_for_accepted(50)
        cluster.postgres.pause()
        hanging = [
            asyncio.create_task(processes[0].call("POST", "/api/notifications", build_single_notification("u00001")))
            for _ in range(3)
        ]
        hanging.append(asyncio.create_task(processes[0].call("GET", f"/api/notifications/{broadcast}")))
        started = time.monotonic()
        try:
            codes = await asyncio.gather(*(process.stop() for process in processes))
        finally:
            cluster.postgres.resume()
        record_measurement("seconds to the end", duration := round(time.monotonic() - started, 1))
        logs = [process.log.read_text() for process in processes]
    assert codes == [0, 0, 0]
    answers = await asyncio.gather(*hanging)
    assert [(answer.status, "retry-after" in answer.headers) for answer in answers] == [(503, True)] * 4
    # draining, writing the last outcomes and deregistering each have their own timeout of a few seconds
    assert duration < DRAIN + SLACK
    assert not any("Traceback" in text for text in logs), logs
    async with cluster.start_processes("api", "worker") as (api, _):
        assert await wait_until_final(api, broadcast, within=150) == {"delivered": 300}
    audit = await cluster.audit()
    record_measurement("duplicates", f"{audit.duplicates}, promised ≤ {MAX_DUPLICATES}")
    audit.check(cluster.user_ids, max_duplicates=MAX_DUPLICATES)


@pytest.mark.extended
async def test_an_idle_process_stops_while_the_database_hangs(
    create_cluster: ClusterFactory, own_postgres: PostgresServer
) -> None:
    cluster = await create_cluster(20, on=own_postgres)
    async with cluster.start_processes("api", "worker", TIDINGS_DRAIN_SECONDS=str(DRAIN)) as processes:
        await wait_until_final(processes[0], await notify(processes[0], build_single_notification(cluster.user_ids[0])))
        cluster.postgres.pause()
        try:
            assert await asyncio.gather(*(process.stop(DRAIN + SLACK) for process in processes)) == [0, 0]
        finally:
            cluster.postgres.resume()


async def _try_notify(api: ServerProcess, user: str) -> str | None:
    with suppress(AssertionError, BackendError):
        return await notify(api, build_single_notification(user), key="meanwhile-0")
    return None
