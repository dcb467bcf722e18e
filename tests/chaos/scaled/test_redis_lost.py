"""Redis outages: data loss, hang, stop, rollback. No user is missed, and no process needs a restart."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import pytest
from tests.support.chaos_cluster import (
    ChaosCluster,
    build_single_notification,
    count_queued_tasks,
    notify,
    wait_until_final,
    wait_until_healthy,
)
from tests.support.cluster import ServerProcess
from tests.support.server import eventually

from tidings.mockpush import ResponseRule
from tidings.testing.valkey import ValkeyServer

pytestmark = pytest.mark.asyncio(loop_scope="session")

ClusterFactory = Callable[..., Awaitable[ChaosCluster]]
RecordMeasurement = Callable[[str, object], None]
USER_COUNT = 600
#: small, so that most of a broadcast is in the queue and not claimed by workers
SMALL_BATCH_SETTINGS = {"TIDINGS_BATCH_SIZE": "5"}


def flush(valkey: ValkeyServer) -> None:
    valkey.flush()


def kill_and_restart_empty(valkey: ValkeyServer) -> None:
    valkey.kill()
    valkey.start()


@pytest.mark.parametrize(
    "failure",
    [flush, pytest.param(kill_and_restart_empty, marks=pytest.mark.extended)],
    ids=lambda failure: failure.__name__,
)
async def test_a_queue_reset_half_way_through_a_broadcast(
    create_cluster: ClusterFactory, record_measurement: RecordMeasurement, failure: Callable[[ValkeyServer], None]
) -> None:
    await _run_queue_loss(await create_cluster(USER_COUNT), record_measurement, [failure])


@pytest.mark.long
async def test_repeated_queue_resets_during_a_broadcast(
    create_cluster: ClusterFactory, record_measurement: RecordMeasurement
) -> None:
    await _run_queue_loss(await create_cluster(10_000), record_measurement, [flush, kill_and_restart_empty] * 3)


async def _run_queue_loss(
    cluster: ChaosCluster, record_measurement: RecordMeasurement, failures: Sequence[Callable[[ValkeyServer], None]]
) -> None:
    user_count = len(cluster.user_ids)
    await cluster.push_service.control.set_rules(ResponseRule(delay_ms=20))
    async with cluster.start_processes("api", "worker", "worker", **SMALL_BATCH_SETTINGS) as (api, *workers):
        pids = [process.pid for process in (api, *workers)]
        notification = await notify(api)
        lost, refilled = [], []
        for number, failure in enumerate(failures, 1):
            await cluster.wait_for_accepted(user_count * number // (2 * len(failures)))
            lost.append(await count_queued_tasks(api))
            reset_count = _count_logged_resets(workers)
            failure(cluster.valkey)
            failed_at = time.monotonic()
            await eventually(partial(_has_new_reset, workers, reset_count), within=70)
            refilled.append(round(time.monotonic() - failed_at, 1))
        assert await wait_until_final(api, notification) == {"delivered": user_count}
        assert [process.pid for process in (api, *workers)] == pids
        assert all(process.is_running for process in (api, *workers))
    record_measurement("tasks lost", lost)
    record_measurement("seconds until refilled", refilled)
    assert max(lost) > 0
    assert max(refilled) < 60
    # no worker crashed, so there are no duplicates
    (await cluster.audit()).check(cluster.user_ids)


def _count_logged_resets(workers: Sequence[ServerProcess]) -> int:
    return sum(worker.log.read_text().count('"queue_reset_detected"') for worker in workers)


async def _has_new_reset(workers: Sequence[ServerProcess], previous_count: int) -> bool:
    return _count_logged_resets(workers) > previous_count


@pytest.mark.extended
async def test_work_continues_while_redis_hangs(
    create_cluster: ClusterFactory, record_measurement: RecordMeasurement
) -> None:
    await _run_outage(
        await create_cluster(USER_COUNT), record_measurement, ValkeyServer.pause, ValkeyServer.resume, seconds=0
    )


@pytest.mark.long
async def test_work_continues_while_redis_is_stopped(
    create_cluster: ClusterFactory, record_measurement: RecordMeasurement
) -> None:
    await _run_outage(
        await create_cluster(USER_COUNT), record_measurement, ValkeyServer.kill, ValkeyServer.start, seconds=0
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("begin_outage", "end_outage"),
    [(ValkeyServer.pause, ValkeyServer.resume), (ValkeyServer.kill, ValkeyServer.start)],
    ids=["hangs", "is-stopped"],
)
async def test_work_continues_during_a_redis_outage_of_three_minutes(
    create_cluster: ClusterFactory,
    record_measurement: RecordMeasurement,
    begin_outage: Callable[[ValkeyServer], None],
    end_outage: Callable[[ValkeyServer], None],
) -> None:
    await _run_outage(await create_cluster(USER_COUNT), record_measurement, begin_outage, end_outage, seconds=180)


async def _run_outage(
    cluster: ChaosCluster,
    record_measurement: RecordMeasurement,
    begin_outage: Callable[[ValkeyServer], None],
    end_outage: Callable[[ValkeyServer], None],
    *,
    seconds: float,
) -> None:
    """Make Redis unavailable in the middle of a broadcast until it is sent, for at least `seconds`, then recover it."""
    await cluster.push_service.control.set_rules(ResponseRule(delay_ms=20))
    async with cluster.start_processes("api", "worker", "worker", **SMALL_BATCH_SETTINGS) as processes:
        api, pids = processes[0], [process.pid for process in processes]
        broadcast = await notify(api)
        await cluster.wait_for_accepted(USER_COUNT // 3)
        begin_outage(cluster.valkey)
        failed_at = time.monotonic()
        accepts, arrivals = [], []
        accepted_ids = 0
        while accepted_ids < 3 or time.monotonic() - failed_at < seconds:
            statuses = time.monotonic()
            one = await notify(api, build_single_notification(cluster.user_ids[accepted_ids]))
            accepts.append(time.monotonic() - statuses)
            assert await wait_until_final(api, one) == {"delivered": 1}
            arrivals.append(time.monotonic() - statuses)
            accepted_ids += 1
            if accepted_ids > 3:
                await asyncio.sleep(5)
        # tasks in the unavailable queue are re-enqueued from the database, sooner than they would count as stuck
        assert await wait_until_final(api, broadcast, within=30) == {"delivered": USER_COUNT}
        record_measurement("seconds without Redis", round(time.monotonic() - failed_at, 1))
        await wait_until_healthy(api, "/health/ready")
        end_outage(cluster.valkey)
        recovered_at = time.monotonic()
        await wait_until_healthy(api, "/health/queue")
        record_measurement("seconds until it was noticed", round(time.monotonic() - recovered_at, 1))
        last = await notify(api, build_single_notification(cluster.user_ids[accepted_ids]))
        assert await wait_until_final(api, last) == {"delivered": 1}
        assert await wait_until_final(api, broadcast, within=120) == {"delivered": USER_COUNT}
        _assert_not_restarted(processes, pids)
    record_measurement("seconds to accept meanwhile", _format_range(accepts))
    record_measurement("seconds to arrive meanwhile", _format_range(arrivals))
    assert max(accepts) < 5
    audit = await cluster.audit()
    audit.check_consistency()
    assert audit.state_counts == {"delivered": USER_COUNT + accepted_ids + 1}
    assert len(audit.receipts) == USER_COUNT + accepted_ids + 1
    assert audit.duplicates == 0


@pytest.mark.extended
async def test_redis_recovers_with_an_old_snapshot(
    create_cluster: ClusterFactory, short_leases: Mapping[str, str], record_measurement: RecordMeasurement
) -> None:
    """Tasks completed since the snapshot are delivered again, and have nothing to do."""
    await _run_rollback(await create_cluster(USER_COUNT), record_measurement, short_leases, loses_work=False)


@pytest.mark.long
async def test_redis_recovers_with_an_old_snapshot_that_lacks_tasks(
    create_cluster: ClusterFactory, record_measurement: RecordMeasurement
) -> None:
    """Tasks added since the snapshot are re-enqueued from the database after a minute."""
    await _run_rollback(await create_cluster(USER_COUNT), record_measurement, {}, loses_work=True)


async def _run_rollback(
    cluster: ChaosCluster, record_measurement: RecordMeasurement, variables: Mapping[str, str], *, loses_work: bool
) -> None:
    await cluster.push_service.control.set_rules(ResponseRule(delay_ms=20))
    async with cluster.start_processes("api", "worker", "worker", **SMALL_BATCH_SETTINGS, **variables) as processes:
        api, *workers = processes
        pids = [process.pid for process in processes]
        first = await notify(api)
        await cluster.wait_for_accepted(USER_COUNT // 4)
        snapshot = cluster.valkey.snapshot()
        expected: Mapping[str, int] = {"delivered": USER_COUNT}
        assert await wait_until_final(api, first) == expected
        second = await notify(api)
        if loses_work:
            await cluster.wait_for_accepted(USER_COUNT + USER_COUNT // 4)
        else:
            assert await wait_until_final(api, second) == expected
        # pausing the workers makes the restored tasks visible
        for worker in workers:
            worker.pause()
        cluster.valkey.kill()
        cluster.valkey.restore(snapshot)
        cluster.valkey.start()
        record_measurement("tasks handed out again", replayed := await _count_redelivered(api))
        assert replayed > 0
        for worker in workers:
            worker.resume()
        assert await wait_until_final(api, second, within=180) == expected
        await eventually(lambda: _is_empty(api), within=120, pause=0.2)
        _assert_not_restarted(processes, pids)
    audit = await cluster.audit()
    record_measurement("duplicates", audit.duplicates)
    audit.check(cluster.user_ids, notifications=2)


async def _count_redelivered(api: ServerProcess) -> int:
    await wait_until_healthy(api, "/health/queue")
    return await count_queued_tasks(api)


async def _is_empty(api: ServerProcess) -> bool:
    return await count_queued_tasks(api) == 0


def _assert_not_restarted(processes: Sequence[ServerProcess], pids: Sequence[int]) -> None:
    assert all(process.is_running for process in processes)
    assert [process.pid for process in processes] == pids
    for process in processes:
        assert "Traceback" not in process.log_tail()


def _format_range(seconds: Sequence[float]) -> str:
    return f"{min(seconds):.2f} to {max(seconds):.2f}"
