"""Heartbeats: a row per process, updated every few seconds with its figures."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import structlog

from tidings.backend_health import BackendHealth
from tidings.concurrency import cancel_all, run_with_deadline
from tidings.errors import BackendError
from tidings.model.ids import new_id
from tidings.observability import metrics
from tidings.observability.alerts import AlertRegistry
from tidings.ports.clock import Clock
from tidings.ports.operations import Process
from tidings.ports.store import Store

log = structlog.get_logger(__name__)

#: seconds between heartbeats; a process without one for 30 seconds does not count as alive
HEARTBEAT_EVERY = 5.0
#: … during a database outage, to detect the recovery soon
HEARTBEAT_EVERY_WHEN_DOWN = 1.0
#: seconds for the deregistration at shutdown
DEREGISTER_TIMEOUT = 2.0


@asynccontextmanager
async def send_heartbeats(
    store: Store,
    clock: Clock,
    kind: str,
    detail: Callable[[], Mapping[str, object]],
    database_health: BackendHealth,
    alerts: AlertRegistry,
) -> AsyncIterator[Process]:
    """Write heartbeats for the duration of the block; deregister the process after it.

    kind: `serve`, `api` or `worker`. detail: called at each heartbeat; returns the figures to store as JSON.
    database_health: receives the result of each heartbeat. Heartbeats decide on recovery, since they are writes.
    alerts: exchanged with those of the other processes at each heartbeat.
    """
    now = clock.now()
    process = Process(new_id(now), kind, socket.gethostname(), os.getpid(), started_at=now, seen_at=now)
    running = asyncio.create_task(
        _send_heartbeats(store, clock, process, detail, database_health, alerts), name="heartbeat"
    )
    try:
        yield process
    finally:
        try:
            # only if the loop ended: a heartbeat that hangs means that the database does not respond
            if await cancel_all([running]):
                await run_with_deadline(DEREGISTER_TIMEOUT, _deregister(store, process, alerts))
        except (BackendError, TimeoutError):
            # harmless: after 30 seconds without a heartbeat the process does not count as alive
            log.debug("deregister_failed", process=process.id)


async def _send_heartbeats(
    store: Store,
    clock: Clock,
    process: Process,
    detail: Callable[[], Mapping[str, object]],
    database_health: BackendHealth,
    alerts: AlertRegistry,
) -> None:
    while True:
        metrics.collect()
        try:
            async with store.transaction() as tx:
                await store.processes.heartbeat(tx, replace(process, seen_at=clock.now(), detail=dict(detail())))
                await alerts.merge(store, tx)
        except BackendError as error:
            database_health.record_failure(error)
        else:
            database_health.record_success()
        await asyncio.sleep(HEARTBEAT_EVERY if database_health.is_available else HEARTBEAT_EVERY_WHEN_DOWN)


async def _deregister(store: Store, process: Process, alerts: AlertRegistry) -> None:
    async with store.transaction() as tx:
        await alerts.merge(store, tx)
        await store.processes.deregister(tx, process.id)
