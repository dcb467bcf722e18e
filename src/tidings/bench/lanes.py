"""`tidings bench lanes`: the latency of urgent notifications during a broadcast.

Urgent notifications are sent at a constant rate, each to a different user, over the same push service as the broadcast.
Latency is measured from sending the request to the receipt of the push. Requests do not wait for earlier responses.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from tidings.bench.audience import SINGLE_USER_PREFIX, prepare_audience, single_user_id
from tidings.bench.backends import Backends, select_backends
from tidings.bench.push import default_workers
from tidings.bench.report import Latency, show_progress, to_camel_case
from tidings.bench.server_process import RunningServer, run_server
from tidings.errors import TidingsError
from tidings.mockpush import MockPushOptions, SpawnedMockPush, spawn

#: notifications before the measurement and their rate; they open connections and compile templates
WARM_UP_COUNT, WARM_UP_PER_SECOND = 60, 500.0
#: maximum number of notifications on the idle system
MAX_IDLE_COUNT = 100
#: share of the broadcast that has been received when the urgent notifications begin
_UNDERWAY_SHARE = 0.01
#: seconds to wait for the first pushes of the broadcast, and for the last urgent push after its request
_ARRIVAL_TIMEOUT = 120.0
#: seconds between checks for the end of the broadcast
_POLL_INTERVAL = 0.25


@dataclass(frozen=True, slots=True)
class TimedSendsResult:
    """Figures of single notifications at a constant rate."""

    sent: int
    #: from sending the request to the 202 response
    accept_ms: Latency
    #: from sending the request to the receipt by the push service
    receipt_ms: Latency


@dataclass(frozen=True, slots=True)
class LanesBenchResult:
    """The figures of one run of `tidings bench lanes`. Field names are those of the JSON output, in snake case."""

    broadcast: int
    per_second: float
    #: urgent notifications before the broadcast
    idle: TimedSendsResult
    #: urgent notifications during the broadcast
    urgent: TimedSendsResult
    #: messages of the broadcast received per second in that time
    broadcast_per_second: float
    #: peak resident memory of each process including its children
    peak_memory_mb: Mapping[str, float]
    workers: int
    database: str
    queue: str
    cores: int

    def json_object(self) -> dict[str, object]:
        """Return the figures under their JSON names."""
        return to_camel_case(asdict(self))


async def run(
    *, broadcast: int, urgent: int, per_second: float, workers: int | None = None, folder: Path | None = None
) -> LanesBenchResult:
    """Start a broadcast to `broadcast` users and meanwhile send `urgent` notifications, `per_second` per second.

    The workers, the folder and the database are those of `bench.push.run`. Sending stops when the broadcast ends.
    Raises TidingsError if a process does not start, a push does not arrive, or the broadcast ends too soon.
    """
    idle = min(urgent, MAX_IDLE_COUNT)
    with tempfile.TemporaryDirectory(dir=folder, prefix="tidings-bench-") as data:
        async with (
            spawn(MockPushOptions(verify_share=0.0, timed=SINGLE_USER_PREFIX)) as sink,
            select_backends(Path(data), push_host=urlsplit(sink.origin).netloc) as backends,
        ):
            singles = WARM_UP_COUNT + idle + urgent
            event_id = await prepare_audience(backends, recipients=broadcast, origin=sink.origin, singles=singles)
            workers = default_workers(backends) if workers is None else workers
            async with run_server(backends, workers=workers) as server:
                sender = UrgentSender(server, sink, per_second)
                warm_up = replace(sender, per_second=WARM_UP_PER_SECOND)
                await warm_up.send(range(WARM_UP_COUNT), "Warming up", asyncio.Event())
                idle_result = await sender.send(
                    range(WARM_UP_COUNT, WARM_UP_COUNT + idle), "Without a broadcast", asyncio.Event()
                )
                return await _measure(
                    backends, sender, event_id, broadcast, idle_result, range(singles - urgent, singles), workers
                )


async def _measure(
    backends: Backends,
    sender: "UrgentSender",
    event_id: str,
    broadcast: int,
    idle: TimedSendsResult,
    urgent: range,
    workers: int,
) -> LanesBenchResult:
    server, sink = sender.server, sender.sink
    await sink.control.reset()
    body = {
        "audience": {"kind": "ticket_holders", "eventId": event_id},
        "templateCode": "MESSAGE",
        "variables": {"title": "News", "body": "For all ticket holders."},
        "options": {"priority": "normal"},
    }
    await server.request("POST", "/api/notifications", body)
    try:
        await sink.control.wait_for(timeout=_ARRIVAL_TIMEOUT, accepted=max(1, int(broadcast * _UNDERWAY_SHARE)))
    except TimeoutError:
        raise TidingsError(f"the broadcast did not begin within {_ARRIVAL_TIMEOUT:.0f} s") from None
    async with watch_messages(sink, broadcast) as ended:
        accepted_before, started = (await sink.control.stats()).accepted, time.perf_counter()
        urgent_result = await sender.send(urgent, "During the broadcast", ended)
        seconds = time.perf_counter() - started
        received = (await sink.control.stats()).accepted - accepted_before - urgent_result.sent
    return LanesBenchResult(
        broadcast=broadcast,
        per_second=sender.per_second,
        idle=idle,
        urgent=urgent_result,
        broadcast_per_second=round(max(0, received) / seconds, 1),
        peak_memory_mb={name: round(usage.peak_memory_mb, 1) for name, usage in server.measure_usage().items()},
        workers=workers,
        database=backends.database,
        queue=backends.queue,
        cores=os.cpu_count() or 1,
    )


@asynccontextmanager
async def watch_messages(sink: SpawnedMockPush, broadcast: int) -> AsyncIterator[asyncio.Event]:
    """Set the yielded event once all messages of the broadcast have been received."""
    ended = asyncio.Event()

    async def watch() -> None:
        while (await sink.control.stats()).accepted < broadcast:  # noqa: ASYNC110  # another process: no event
            await asyncio.sleep(_POLL_INTERVAL)
        ended.set()

    watch_task = asyncio.create_task(watch())
    try:
        yield ended
    finally:
        watch_task.cancel()
        with suppress(asyncio.CancelledError):
            await watch_task


@dataclass(frozen=True, slots=True)
class UrgentSender:
    """Sends urgent notifications at a constant rate, without waiting for earlier responses."""

    server: RunningServer
    sink: SpawnedMockPush
    per_second: float

    async def send(self, numbers: range, title: str, stop: asyncio.Event) -> TimedSendsResult:
        """Send one notification to each of the single users until `stop` is set. Return when all have been received."""
        sent_at: dict[str, float] = {}
        accept_ms: list[float] = []

        async def send_one(number: int) -> None:
            user_id = single_user_id(number)
            sent_at[user_id] = time.time()
            await self.server.request("POST", "/api/notifications", _build_urgent_body(user_id))
            accept_ms.append((time.time() - sent_at[user_id]) * 1000)

        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            with show_progress(title, len(numbers)) as report:
                async with asyncio.TaskGroup() as group:
                    for index, number in enumerate(numbers):
                        await _sleep_unless_set(stop, started + index / self.per_second - loop.time())
                        if stop.is_set():
                            break
                        group.create_task(send_one(number))
                        if report is not None:
                            report(index + 1)
        except* TidingsError as errors:
            raise errors.exceptions[0] from None
        if not sent_at:
            raise TidingsError("the broadcast ended before an urgent notification could be sent; raise --broadcast")
        received_at = await self._wait_for_receipts(sent_at)
        receipt_ms = [(received_at[user_id] - at) * 1000 for user_id, at in sent_at.items()]
        return TimedSendsResult(
            len(sent_at), Latency.from_milliseconds(accept_ms), Latency.from_milliseconds(receipt_ms)
        )

    async def _wait_for_receipts(self, user_ids: Collection[str]) -> Mapping[str, float]:
        """Return user → time of the first receipt. Raises TidingsError when some are missing."""
        deadline = time.monotonic() + _ARRIVAL_TIMEOUT
        while True:
            received_at: dict[str, float] = {}
            for device, at in await self.sink.control.times():
                received_at.setdefault(device.removesuffix("-1"), at)
            if missing := [user_id for user_id in user_ids if user_id not in received_at]:
                if time.monotonic() > deadline:
                    raise TidingsError(
                        f"{len(missing)} urgent notifications did not arrive within {_ARRIVAL_TIMEOUT:.0f} s"
                    )
                await asyncio.sleep(0.05)
                continue
            return received_at


async def _sleep_unless_set(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()


def _build_urgent_body(user_id: str) -> Mapping[str, object]:
    return {
        "userId": user_id,
        "templateCode": "MESSAGE",
        "variables": {"title": "Your code", "body": "Valid for ten minutes."},
        "options": {"priority": "urgent"},
    }
