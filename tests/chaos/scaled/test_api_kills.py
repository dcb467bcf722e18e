"""API processes killed between request and queue, and concurrent repeats of a call on two API processes."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import asyncpg
import pytest
from tests.support.chaos_cluster import ChaosCluster, build_single_notification, notify, wait_until_final
from tests.support.server import TidingsServer, eventually

from tidings.errors import BackendError

pytestmark = pytest.mark.asyncio(loop_scope="session")

ClusterFactory = Callable[..., Awaitable[ChaosCluster]]
RecordMeasurement = Callable[[str, object], None]
#: where the API process exits, in the order of its steps → number of notifications stored by then
EXIT_POINTS = {
    "tidings.stores.repositories.idempotency_keys:SqlIdempotencyKeys.reserve_many:after": 0,
    "tidings.stores.repositories.notifications:SqlNotifications.add_many:after": 0,
    "tidings.stores.repositories.outbox:SqlOutbox.add:after": 0,
    "tidings.stores.repositories.idempotency_keys:SqlIdempotencyKeys.complete_many:after": 0,
    "tidings.flow.dispatch.outbox_relay:OutboxRelay.publish:before": 1,
    "tidings.flow.dispatch.outbox_relay:OutboxRelay.publish:after": 1,
}


@pytest.mark.extended
async def test_an_api_process_killed_at_any_step_loses_and_duplicates_nothing(
    create_cluster: ClusterFactory, fault_hooks: dict[str, str], record_measurement: RecordMeasurement
) -> None:
    cluster = await create_cluster(len(EXIT_POINTS))
    waited = {}
    apis = {
        exit_point: cluster.create_process("api", **fault_hooks, CHAOS_EXIT=exit_point) for exit_point in EXIT_POINTS
    }
    async with cluster.start_processes("api", "worker") as (api, _), AsyncExitStack() as stack:
        await asyncio.gather(*(stack.enter_async_context(doomed) for doomed in apis.values()))
        for (exit_point, stored), user in zip(EXIT_POINTS.items(), cluster.user_ids, strict=True):
            before = await _count_notifications(cluster)
            doomed = apis[exit_point]
            with pytest.raises(BackendError, match="was not answered"):
                await notify(doomed, build_single_notification(user), key=user)
            await eventually(partial(_has_exited, doomed))
            assert await _count_notifications(cluster) - before == stored, exit_point
            started = time.monotonic()
            if stored:
                # it is sent without a repeated request and without a task in the queue
                await eventually(partial(_is_delivered, cluster, user), within=30)
            # the client got no response, and repeats its call on another process
            await wait_until_final(api, await notify(api, build_single_notification(user), key=user), within=30)
            waited[exit_point] = round(time.monotonic() - started, 2)
            assert await _count_notifications(cluster) - before == 1, exit_point
    record_measurement("seconds until it was sent", waited)
    audit = await cluster.audit()
    audit.check_consistency()
    assert audit.state_counts == {"delivered": len(EXIT_POINTS)}
    assert Counter(device for device, _ in audit.receipts) == dict.fromkeys(cluster.user_ids, 1)
    assert audit.duplicates == 0


@pytest.mark.long
async def test_an_api_killed_after_its_commit_while_the_queue_hangs(
    create_cluster: ClusterFactory, record_measurement: RecordMeasurement
) -> None:
    cluster = await create_cluster(1)
    async with cluster.start_processes("api", "worker") as (api, _):
        cluster.valkey.pause()
        request = asyncio.create_task(notify(api, build_single_notification("u00000"), key="once"))
        await eventually(lambda: _has_notification(cluster), pause=0.005)
        await api.kill()
        # the process may have responded just in time; if not, the call was not confirmed
        answered = await asyncio.gather(request, return_exceptions=True)
        record_measurement("the client got", type(answered[0]).__name__)
        await eventually(lambda: _is_delivered(cluster, "u00000"), within=30)
        cluster.valkey.resume()
        await api.start()
        again = await notify(api, build_single_notification("u00000"), key="once")
        assert await wait_until_final(api, again) == {"delivered": 1}
        assert answered[0] == again or isinstance(answered[0], BackendError)
    (await cluster.audit()).check(cluster.user_ids)


@pytest.mark.extended
async def test_fifty_concurrent_repeats_of_a_call_create_one_notification(
    create_cluster: ClusterFactory, record_measurement: RecordMeasurement
) -> None:
    cluster = await create_cluster(5)
    async with cluster.start_processes("api", "api", "worker") as (one, other, _):
        for number, user in enumerate(cluster.user_ids[:4]):
            calls = [_post_notification((one, other)[turn % 2], user, f"key-{number}") for turn in range(50)]
            statuses, ids = zip(*await asyncio.gather(*calls), strict=True)
            assert set(statuses) <= {202, 409}, Counter(statuses)
            assert len({found for found in ids if found}) == 1
            if number == 0:
                record_measurement("answers", dict(Counter(statuses)))
            # a different request under the same key
            changed = await other.call(
                "POST",
                "/api/notifications",
                build_single_notification(cluster.user_ids[-1]),
                headers={"Idempotency-Key": f"key-{number}"},
            )
            assert changed.status == 422
            await wait_until_final(one, next(found for found in ids if found))
    audit = await cluster.audit()
    audit.check_consistency()
    assert len(audit.counts) == 4
    assert Counter(device for device, _ in audit.receipts) == dict.fromkeys(cluster.user_ids[:4], 1)
    assert audit.duplicates == 0


@pytest.mark.long
async def test_a_repeat_of_a_call_in_progress_is_not_executed_twice(
    create_cluster: ClusterFactory, record_measurement: RecordMeasurement
) -> None:
    """The first call is blocked in its transaction, its process is killed, and the second takes over."""
    cluster = await create_cluster(1)
    async with cluster.start_processes("api", "api", "worker") as (one, other, _):
        blocker = asyncio.create_task(_lock_outbox(cluster, held := asyncio.Event(), let_go := asyncio.Event()))
        await held.wait()
        first = asyncio.create_task(_post_notification(one, "u00000", "key"))
        second = asyncio.create_task(_post_notification(other, "u00000", "key"))
        await eventually(lambda: _has_lock_waiter(cluster))
        await one.kill()
        let_go.set()
        await blocker
        with pytest.raises(BackendError, match="was not answered"):
            await first
        status, _ = await second
        record_measurement("the second got", status)
        assert status in (202, 409)
        assert await wait_until_final(other, await notify(other, build_single_notification("u00000"), key="key")) == {
            "delivered": 1
        }
    (await cluster.audit()).check(cluster.user_ids)


async def _post_notification(api: TidingsServer, user: str, key: str) -> tuple[int, str | None]:
    """Return the status, and the notification's id if there is one."""
    answer = await api.call(
        "POST", "/api/notifications", build_single_notification(user), headers={"Idempotency-Key": key}
    )
    return answer.status, answer.read(dict[str, Any])["id"] if answer.status == 202 else None


async def _lock_outbox(cluster: ChaosCluster, locked: asyncio.Event, release: asyncio.Event) -> None:
    connection = await asyncpg.connect(cluster.database_url)
    async with connection.transaction():
        await connection.execute("LOCK TABLE outbox IN EXCLUSIVE MODE")
        locked.set()
        await release.wait()
    await connection.close()


async def _has_lock_waiter(cluster: ChaosCluster) -> bool:
    """Return whether a database session is waiting for a lock."""
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return bool(await cluster.run_sql(waiting))


async def _count_notifications(cluster: ChaosCluster) -> int:
    return int((await cluster.run_sql("SELECT count(*) FROM notifications"))[0][0])


async def _has_notification(cluster: ChaosCluster) -> bool:
    return await _count_notifications(cluster) > 0


async def _is_delivered(cluster: ChaosCluster, user: str) -> bool:
    rows = await cluster.run_sql("SELECT state FROM deliveries WHERE user_id = $1", user)
    return [row[0] for row in rows] == ["delivered"]


async def _has_exited(member: TidingsServer) -> bool:
    return not member.is_running
