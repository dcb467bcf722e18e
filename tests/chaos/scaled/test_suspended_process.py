"""Processes that are suspended in the middle of a transaction (SIGSTOP): the others do not wait for their locks."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta

import pytest
from tests.support.chaos_cluster import ChaosCluster, build_single_notification, notify
from tests.support.server import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.extended]

ClusterFactory = Callable[..., Awaitable[ChaosCluster]]
CLAIM = "tidings.stores.repositories.delivery_claims:DeliveryClaims.claim"
RESERVATION = "tidings.stores.repositories.idempotency_keys:SqlIdempotencyKeys.reserve_many"
#: seconds in which a cancellation is confirmed
CANCELLED_WITHIN = 6.0


async def test_a_cancellation_is_confirmed_while_a_worker_is_suspended_within_a_claim(
    create_cluster: ClusterFactory, fault_hooks: Mapping[str, str]
) -> None:
    cluster = await create_cluster(10)
    async with (
        cluster.start_processes("api") as (api,),
        cluster.start_processes("worker", CHAOS_SUSPEND=CLAIM, **fault_hooks),
    ):
        await notify(api)
        await eventually(lambda: _has_silent_session(cluster), within=30)
        in_an_hour = datetime.now(UTC) + timedelta(hours=1)
        later = {**build_single_notification(cluster.user_ids[0]), "options": {"sendAt": in_an_hour.isoformat()}}
        notification = await notify(api, later)
        started = time.monotonic()
        await api.expect(200, "DELETE", f"/api/notifications/{notification}")
        assert time.monotonic() - started < CANCELLED_WITHIN


async def test_a_key_reserved_by_a_suspended_api_process_becomes_free(
    create_cluster: ClusterFactory, short_leases: Mapping[str, str]
) -> None:
    cluster = await create_cluster(10)
    single = build_single_notification(cluster.user_ids[0])
    async with (
        cluster.start_processes("api", "worker", **short_leases) as (api, _),
        cluster.start_processes("api", CHAOS_SUSPEND=RESERVATION, **short_leases) as (suspended,),
    ):
        unanswered = suspended.call("POST", "/api/notifications", single, headers={"Idempotency-Key": "order-1"})
        task = asyncio.create_task(unanswered)
        await eventually(lambda: _has_silent_session(cluster), within=30)

        async def is_accepted() -> bool:
            response = await api.call("POST", "/api/notifications", single, headers={"Idempotency-Key": "order-1"})
            assert response.status in (202, 409, 503), response.body
            return response.status == 202

        await eventually(is_accepted, within=30)
        task.cancel()


async def _has_silent_session(cluster: ChaosCluster) -> bool:
    rows = await cluster.run_sql(
        """SELECT 1 FROM pg_stat_activity WHERE datname = current_database()
        AND (state LIKE 'idle in transaction%' OR state = 'active' AND wait_event_type = 'Client')
        AND state_change < clock_timestamp() - interval '0.2 seconds'"""
    )
    return bool(rows)
