"""`tidings bench release`: quiet hours of many users end in the same second, while urgent notifications are sent.

A notification is held for all users by quiet hours of the installation. The server is then started without them, and
all held messages are due at once: the release is not spread.
"""

import asyncio
import time
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import update

from tidings.bench.backends import Backends
from tidings.bench.server_process import RunningServer, run_server
from tidings.bench.urgent_sends import TimedSendsResult, UrgentBench, UrgentBenchResult, prepare_urgent_bench
from tidings.container import AppContainer
from tidings.errors import TidingsError
from tidings.mockpush import SpawnedMockPush
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.tables import WHERE_HELD, deliveries

_QUIET_HOURS = "TIDINGS_QUIET_HOURS"
#: seconds to wait until all messages are held, and until all are released
_TIMEOUT = 900.0
_POLL_INTERVAL = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseBenchResult(UrgentBenchResult):
    """The figures of one run of `tidings bench release`. Field names are those of the JSON output, in snake case."""

    messages: int
    #: from the start of the server until the last held message was received
    seconds: float
    messages_per_second: float


async def run(
    *, messages: int, urgent: int, per_second: float, workers: int | None = None, folder: Path | None = None
) -> ReleaseBenchResult:
    """Hold `messages` messages, then release all at once and send `urgent` notifications, `per_second` per second.

    The workers, the folder and the database are those of `bench.push.run`. Raises TidingsError if a process does not
    start, a message is not held, or a push does not arrive.
    """
    # quiet but for a minute of the day, whenever the benchmark runs
    variables = {_QUIET_HOURS: "webpush=00:00-23:59"}
    async with prepare_urgent_bench(
        recipients=messages,
        urgent=urgent,
        per_second=per_second,
        workers=workers,
        folder=folder,
        variables=variables,
    ) as bench:
        async with run_server(bench.backends, workers=bench.workers) as server:
            idle = await bench.measure_idle(server, "Without a release")
            await _hold_messages(bench, server, messages)
        await _make_due(bench.backends, messages)
        await bench.sink.control.reset()
        async with run_server(_without_quiet_hours(bench.backends), workers=bench.workers) as server:
            return await _measure(bench, server, messages, idle)


def _without_quiet_hours(backends: Backends) -> Backends:
    environment = {name: text for name, text in backends.environment.items() if name != _QUIET_HOURS}
    return replace(backends, environment=environment)


async def _hold_messages(bench: UrgentBench, server: RunningServer, messages: int) -> None:
    notification_id = await bench.notify_all(server)
    try:
        async with asyncio.timeout(_TIMEOUT):
            while True:
                progress = await server.request("GET", f"/api/notifications/{notification_id}")
                if progress["status"] == "fanned_out" and progress["deliveries"] == messages:
                    return
                await asyncio.sleep(_POLL_INTERVAL)
    except TimeoutError:
        raise TidingsError(f"the messages were not planned within {_TIMEOUT:.0f} s") from None


async def _make_due(backends: Backends, messages: int) -> None:
    """Make all held messages due in the same instant."""
    async with AppContainer.open(backends.settings) as runtime, runtime.store.transaction() as tx:
        released = await connection_of(tx).execute(
            update(deliveries).where(WHERE_HELD).values(due_at=runtime.clock.now())
        )
    if released.rowcount != messages:
        raise TidingsError(f"quiet hours held {released.rowcount} messages of {messages}; run it again in a minute")


async def _measure(
    bench: UrgentBench, server: RunningServer, messages: int, idle: TimedSendsResult
) -> ReleaseBenchResult:
    started = time.perf_counter()
    async with bench.watch(messages) as ended:
        urgent = await bench.measure_until(ended, server, "During the release")
    await _wait_for_all(bench.sink, messages + urgent.sent)
    seconds = time.perf_counter() - started
    return ReleaseBenchResult(
        messages=messages,
        seconds=round(seconds, 2),
        messages_per_second=round(messages / seconds, 1),
        per_second=bench.per_second,
        idle=idle,
        urgent=urgent,
        peak_memory_mb=server.measure_memory(),
        workers=bench.workers,
        database=bench.backends.database,
        queue=bench.backends.queue,
    )


async def _wait_for_all(sink: SpawnedMockPush, accepted: int) -> None:
    try:
        await sink.control.wait_for(timeout=_TIMEOUT, accepted=accepted)
    except TimeoutError:
        raise TidingsError(f"not all messages were received within {_TIMEOUT:.0f} s") from None
