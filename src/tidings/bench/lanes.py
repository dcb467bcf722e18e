"""`tidings bench lanes`: the latency of urgent notifications during a broadcast."""

import time
from dataclasses import dataclass
from pathlib import Path

from tidings.bench.server_process import RunningServer, run_server
from tidings.bench.urgent_sends import TimedSendsResult, UrgentBench, UrgentBenchResult, prepare_urgent_bench
from tidings.errors import TidingsError

#: share of the broadcast that has been received when the urgent notifications begin
_UNDERWAY_SHARE = 0.01
#: seconds to wait for the first pushes of the broadcast
_ARRIVAL_TIMEOUT = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LanesBenchResult(UrgentBenchResult):
    """The figures of one run of `tidings bench lanes`. Field names are those of the JSON output, in snake case."""

    broadcast: int
    #: messages of the broadcast received per second while urgent notifications were sent
    broadcast_per_second: float


async def run(
    *, broadcast: int, urgent: int, per_second: float, workers: int | None = None, folder: Path | None = None
) -> LanesBenchResult:
    """Start a broadcast to `broadcast` users and meanwhile send `urgent` notifications, `per_second` per second.

    The workers, the folder and the database are those of `bench.push.run`. Sending stops when the broadcast ends.
    Raises TidingsError if a process does not start, a push does not arrive, or the broadcast ends too soon.
    """
    async with (
        prepare_urgent_bench(
            recipients=broadcast, urgent=urgent, per_second=per_second, workers=workers, folder=folder
        ) as bench,
        run_server(bench.backends, workers=bench.workers) as server,
    ):
        idle = await bench.measure_idle(server, "Without a broadcast")
        return await _measure(bench, server, broadcast, idle)


async def _measure(
    bench: UrgentBench, server: RunningServer, broadcast: int, idle: TimedSendsResult
) -> LanesBenchResult:
    control = bench.sink.control
    await control.reset()
    await bench.notify_all(server)
    try:
        await control.wait_for(timeout=_ARRIVAL_TIMEOUT, accepted=max(1, int(broadcast * _UNDERWAY_SHARE)))
    except TimeoutError:
        raise TidingsError(f"the broadcast did not begin within {_ARRIVAL_TIMEOUT:.0f} s") from None
    async with bench.watch(broadcast) as ended:
        accepted_before, started = (await control.stats()).accepted, time.perf_counter()
        urgent = await bench.measure_until(ended, server, "During the broadcast")
        seconds = time.perf_counter() - started
        received = (await control.stats()).accepted - accepted_before - urgent.sent
    return LanesBenchResult(
        broadcast=broadcast,
        broadcast_per_second=round(max(0, received) / seconds, 1),
        per_second=bench.per_second,
        idle=idle,
        urgent=urgent,
        peak_memory_mb=server.measure_memory(),
        workers=bench.workers,
        database=bench.backends.database,
        queue=bench.backends.queue,
    )
