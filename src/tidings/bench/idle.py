"""`tidings bench idle`: what the processes cost while there is nothing to do."""

import asyncio
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tidings.bench.backends import backends, refuse_used
from tidings.bench.figures import camel
from tidings.bench.progress import progress
from tidings.bench.serving import serving
from tidings.runtime import Runtime

#: seconds after the start that are not measured: first looks, first heartbeats
_SETTLE = 5.0


@dataclass(frozen=True, slots=True)
class Idle:
    """One process, with those that it started."""

    #: of one core
    cpu_percent: float
    #: resident size of the largest
    memory_mb: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run of `tidings bench idle` measured. Field names are those of the JSON output, in snake case."""

    seconds: float
    processes: Mapping[str, Idle]
    #: SQL statements per second, of all processes
    queries_per_second: float
    database: str
    queue: str
    cores: int

    def json_object(self) -> dict[str, object]:
        """Return the figures under their JSON names."""
        return camel(asdict(self))


async def run(
    *, seconds: float, workers: int | None = None, settle: float = _SETTLE, folder: Path | None = None
) -> Figures:
    """Watch idle processes for some seconds.

    workers: sender processes beside the server (default 0), or on PostgreSQL `tidings worker` processes (default 1).
    settle: seconds before. folder and the database as in `bench push`. Raises TidingsError, ConfigError as that.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix="tidings-bench-") as data:
        async with backends(Path(data)) as chosen:
            async with Runtime.open(chosen.settings) as runtime:
                await refuse_used(runtime)
            workers = int(chosen.scaled) if workers is None else workers
            async with serving(chosen, workers=workers) as server:
                await _wait(settle, "Waiting until all is quiet")
                # before the clock starts: the question itself costs something
                queries = await server.metric("tidings_sql_statements")
                before, started = server.costs(), time.perf_counter()
                await _wait(seconds, "Watching")
                after, took = server.costs(), time.perf_counter() - started
                queries = await server.metric("tidings_sql_statements") - queries
                return Figures(
                    seconds=round(took, 1),
                    processes={
                        name: Idle(
                            round((cost.cpu_seconds - before[name].cpu_seconds) / took * 100, 2),
                            round(cost.memory_mb, 1),
                        )
                        for name, cost in after.items()
                    },
                    queries_per_second=round(queries / took, 1),
                    database=chosen.database,
                    queue=chosen.queue,
                    cores=os.cpu_count() or 1,
                )


async def _wait(seconds: float, title: str) -> None:
    with progress(title, int(seconds * 10)) as tell:
        if tell is None:
            await asyncio.sleep(seconds)
            return
        for tenth in range(int(seconds * 10)):
            await asyncio.sleep(0.1)
            tell(tenth + 1)
