"""Caches the system status for /metrics."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import structlog

from tidings.container import AppContainer
from tidings.errors import BackendError
from tidings.observability.status_collector import SystemStatusCollector
from tidings.observability.system_status import (
    count_dead_letters,
    count_open_digests,
    list_live_processes,
    load_queue_status,
)
from tidings.ports.queue import Queue

log = structlog.get_logger(__name__)

_T = TypeVar("_T")
#: seconds; limits the load that scrapes of /metrics put on the database
CACHE_TTL = 5.0


class SystemStatusCache:
    """Loads the system status at most once per `CACHE_TTL`."""

    def __init__(self, runtime: AppContainer) -> None:
        self._runtime = runtime
        self._status = SystemStatusCollector()
        self._loaded_at: float | None = None
        self._lock = asyncio.Lock()

    async def get_latest(self) -> SystemStatusCollector:
        """Return the system status, at most `CACHE_TTL` seconds old."""
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if self._loaded_at is None or now - self._loaded_at > CACHE_TTL:
                self._status, self._loaded_at = await self._load(), now
        return self._status

    async def _load(self) -> SystemStatusCollector:
        store, clock, queue = self._runtime.store, self._runtime.clock, self._runtime.queue
        responds, queue_status, processes, dead_letters, open_digests = await asyncio.gather(
            _result_or_none(_ping(queue)),
            _result_or_none(load_queue_status(store, queue, clock)),
            _result_or_none(list_live_processes(store, clock)),
            _result_or_none(count_dead_letters(store)),
            _result_or_none(count_open_digests(store)),
        )
        # a queue that answers the ping may still fail to report its lanes
        is_queue_up = bool(responds) and (queue_status is None or queue_status.unavailable_reason is None)
        alerts = self._runtime.alerts.list_active()
        return SystemStatusCollector(
            queue_status, processes, dead_letters, alerts, open_digests, is_queue_up=is_queue_up
        )


async def _ping(queue: Queue) -> bool:
    await queue.ping()
    return True


async def _result_or_none(query: Awaitable[_T]) -> _T | None:
    """Return the result, None on a BackendError, so that one failed query does not affect the others."""
    try:
        return await query
    except BackendError as error:
        log.debug("status_query_failed", error=error.message)
        return None
