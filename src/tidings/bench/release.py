"""`tidings bench release`: quiet hours of many users end in the same second, while urgent notifications are sent.

A notification is held for all users by quiet hours of the installation. The server is then started without them, and
all held messages are due at once: the release is not spread.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import update

from tidings.bench.audience import prepare_audience
from tidings.bench.backends import Backends, select_backends
from tidings.bench.lanes import (
    MAX_IDLE_COUNT,
    WARM_UP_COUNT,
    WARM_UP_PER_SECOND,
    TimedSendsResult,
    UrgentSender,
    watch_messages,
)
from tidings.bench.push import default_workers
from tidings.bench.report import to_camel_case
from tidings.bench.server_process import RunningServer, run_server
from tidings.container import AppContainer
from tidings.errors import TidingsError
from tidings.mockpush import MockPushOptions, SpawnedMockPush, spawn
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.tables import WHERE_HELD, deliveries

_QUIET_HOURS = "TIDINGS_QUIET_HOURS"
#: seconds to wait until all messages are held, and until all are released
_TIMEOUT = 900.0
_POLL_INTERVAL = 0.25


@dataclass(frozen=True, slots=True)
class ReleaseBenchResult:
    """The figures of one run of `tidings bench release`. Field names are those of the JSON output, in snake case."""

    messages: int
    #: from the start of the server until the last held message was received
    seconds: float
    messages_per_second: float
    per_second: float
    #: urgent notifications while nothing else is sent
    idle: TimedSendsResult
    #: urgent notifications during the release
    urgent: TimedSendsResult
    peak_memory_mb: Mapping[str, float]
    workers: int
    database: str
    queue: str
    cores: int

    def json_object(self) -> dict[str, object]:
        """Return the figures under their JSON names."""
        return to_camel_case(asdict(self))


async def run(
    *, messages: int, urgent: int, per_second: float, workers: int | None = None, folder: Path | None = None
) -> ReleaseBenchResult:
    """Hold `messages` messages, then release all at once and send `urgent` notifications, `per_second` per second.

    The workers, the folder and the database are those of `bench.push.run`. Raises TidingsError if a process does not
    start, a message is not held, or a push does not arrive.
    """
    idle = min(urgent, MAX_IDLE_COUNT)
    # quiet but for a minute of the day, whenever the benchmark runs
    variables = {_QUIET_HOURS: "webpush=00:00-23:59"}
    with tempfile.TemporaryDirectory(dir=folder, prefix="tidings-bench-") as data:
        async with (
            spawn(MockPushOptions(verify_share=0.0, timed="single-")) as sink,
            select_backends(Path(data), push_host=urlsplit(sink.origin).netloc, variables=variables) as backends,
        ):
            singles = WARM_UP_COUNT + idle + urgent
            event_id = await prepare_audience(backends, recipients=messages, origin=sink.origin, singles=singles)
            workers = default_workers(backends) if workers is None else workers
            async with run_server(backends, workers=workers) as server:
                sender = UrgentSender(server, sink, per_second)
                warm_up = replace(sender, per_second=WARM_UP_PER_SECOND)
                await warm_up.send(range(WARM_UP_COUNT), "Warming up", asyncio.Event())
                idle_numbers = range(WARM_UP_COUNT, WARM_UP_COUNT + idle)
                idle_result = await sender.send(idle_numbers, "Without a release", asyncio.Event())
                await _hold_messages(server, event_id, messages)
            await _make_due(backends, messages)
            awake = replace(
                backends,
                environment={name: text for name, text in backends.environment.items() if name != _QUIET_HOURS},
            )
            await sink.control.reset()
            async with run_server(awake, workers=workers) as server:
                sender = UrgentSender(server, sink, per_second)
                return await _measure(awake, sender, messages, idle_result, range(singles - urgent, singles), workers)


async def _hold_messages(server: RunningServer, event_id: str, messages: int) -> None:
    body = {
        "audience": {"kind": "ticket_holders", "eventId": event_id},
        "templateCode": "MESSAGE",
        "variables": {"title": "News", "body": "For all ticket holders."},
        "options": {"priority": "normal"},
    }
    accepted = await server.request("POST", "/api/notifications", body)
    try:
        async with asyncio.timeout(_TIMEOUT):
            while True:
                progress = await server.request("GET", f"/api/notifications/{accepted['id']}")
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
    backends: Backends,
    sender: UrgentSender,
    messages: int,
    idle: TimedSendsResult,
    urgent: range,
    workers: int,
) -> ReleaseBenchResult:
    server, sink = sender.server, sender.sink
    started = time.perf_counter()
    async with watch_messages(sink, messages) as ended:
        urgent_result = await sender.send(urgent, "During the release", ended)
    await _wait_for_all(sink, messages + urgent_result.sent)
    seconds = time.perf_counter() - started
    return ReleaseBenchResult(
        messages=messages,
        seconds=round(seconds, 2),
        messages_per_second=round(messages / seconds, 1),
        per_second=sender.per_second,
        idle=idle,
        urgent=urgent_result,
        peak_memory_mb={name: round(usage.peak_memory_mb, 1) for name, usage in server.measure_usage().items()},
        workers=workers,
        database=backends.database,
        queue=backends.queue,
        cores=os.cpu_count() or 1,
    )


async def _wait_for_all(sink: SpawnedMockPush, accepted: int) -> None:
    try:
        await sink.control.wait_for(timeout=_TIMEOUT, accepted=accepted)
    except TimeoutError:
        raise TidingsError(f"not all messages were received within {_TIMEOUT:.0f} s") from None
