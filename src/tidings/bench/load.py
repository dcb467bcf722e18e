"""Measures a load: from the request that starts it to the last recorded outcome."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from tidings.bench.server_process import RunningServer

ATTEMPTS_METRIC = "tidings_attempts_total"
_STATEMENTS_METRIC = "tidings_sql_statements"


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """Figures of one process including its child processes."""

    #: since the start, of the largest process
    peak_memory_mb: float
    #: during the load
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class LoadUsage:
    """Usage of the server during one load."""

    seconds: float
    #: SQL statements of all processes in that time, including background tasks
    queries: int
    processes: Mapping[str, ProcessResult]

    @property
    def max_memory(self) -> float:
        """Peak memory of the largest process, in MiB."""
        return max(process.peak_memory_mb for process in self.processes.values())

    @property
    def cpu_seconds(self) -> float:
        """CPU time of all processes of the server."""
        return round(sum(process.cpu_seconds for process in self.processes.values()), 2)


async def measure_load(
    server: RunningServer, start: Callable[[], Awaitable[object]], wait_until_done: Callable[[float], Awaitable[None]]
) -> LoadUsage:
    """Measure from the call of `start` to the return of `wait_until_done`.

    wait_until_done: takes the number of attempts that were recorded before the start.
    """
    attempts_before = await server.metric(ATTEMPTS_METRIC)
    statements_before = await server.metric(_STATEMENTS_METRIC)
    usage_before = server.measure_usage()
    started = time.perf_counter()
    await start()
    await wait_until_done(attempts_before)
    seconds = time.perf_counter() - started
    processes = {
        name: ProcessResult(
            round(usage.peak_memory_mb, 1), round(usage.cpu_seconds - usage_before[name].cpu_seconds, 2)
        )
        for name, usage in server.measure_usage().items()
    }
    queries = await server.metric(_STATEMENTS_METRIC) - statements_before
    return LoadUsage(seconds, int(queries), processes)


async def wait_until_recorded(server: RunningServer, count: float, *, interval: float = 0.01) -> None:
    """Wait until so many attempts are recorded. interval: seconds between two readings of the metrics."""
    while await server.metric(ATTEMPTS_METRIC) < count:  # noqa: ASYNC110  # another process: no event
        await asyncio.sleep(interval)
