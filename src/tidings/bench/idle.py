"""`tidings bench idle`: CPU time, memory and SQL statements of idle processes."""

import asyncio
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tidings.bench.backends import require_empty_database, select_backends
from tidings.bench.report import show_progress, to_camel_case
from tidings.bench.server_process import run_server
from tidings.container import AppContainer

#: seconds after the start that are not measured: first scans, first heartbeats
_SETTLE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class IdleProcessResult:
    """Figures of one process and its child processes."""

    #: percent of one core
    cpu_percent: float
    #: resident memory of the largest process
    memory_mb: float


@dataclass(frozen=True, slots=True)
class IdleBenchResult:
    """The figures of one run of `tidings bench idle`. Field names are those of the JSON output, in snake case."""

    seconds: float
    processes: Mapping[str, IdleProcessResult]
    #: SQL statements per second of all processes
    queries_per_second: float
    database: str
    queue: str
    cores: int

    def json_object(self) -> dict[str, object]:
        """Return the figures under their JSON names."""
        return to_camel_case(asdict(self))


async def run(
    *, seconds: float, workers: int | None = None, settle: float = _SETTLE_SECONDS, folder: Path | None = None
) -> IdleBenchResult:
    """Measure idle processes for `seconds` seconds.

    Arguments: workers — sender processes of the server (default 0), or on PostgreSQL `tidings worker` processes
    (default 1); settle — seconds before the measurement. The folder, the database and the errors are those of
    `bench.push.run`.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix="tidings-bench-") as data:
        async with select_backends(Path(data)) as backends:
            async with AppContainer.open(backends.settings) as runtime:
                await require_empty_database(runtime)
            workers = int(backends.is_scaled) if workers is None else workers
            async with run_server(backends, workers=workers) as server:
                await _wait(settle, "Waiting for the start to complete")
                # read before the measurement starts, because the request itself costs CPU time
                queries = await server.metric("tidings_sql_statements")
                before, started = server.measure_usage(), time.perf_counter()
                await _wait(seconds, "Measuring")
                after, elapsed = server.measure_usage(), time.perf_counter() - started
                queries = await server.metric("tidings_sql_statements") - queries
                return IdleBenchResult(
                    seconds=round(elapsed, 1),
                    processes={
                        name: IdleProcessResult(
                            round((usage.cpu_seconds - before[name].cpu_seconds) / elapsed * 100, 2),
                            round(usage.memory_mb, 1),
                        )
                        for name, usage in after.items()
                    },
                    queries_per_second=round(queries / elapsed, 1),
                    database=backends.database,
                    queue=backends.queue,
                    cores=os.cpu_count() or 1,
                )


async def _wait(seconds: float, title: str) -> None:
    with show_progress(title, int(seconds * 10)) as report:
        if report is None:
            await asyncio.sleep(seconds)
            return
        for tenth in range(int(seconds * 10)):
            await asyncio.sleep(0.1)
            report(tenth + 1)
