"""Urgent notifications at a constant rate beside other messages: what `bench lanes` and `bench release` share.

Each goes to a different user, over the same push service as the other messages. Latency is measured from sending the
request to the receipt of the push. Requests do not wait for earlier responses.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tidings.bench.audience import SINGLE_USER_PREFIX, prepare_audience, single_user_id
from tidings.bench.backends import Backends, select_backends
from tidings.bench.push import default_workers
from tidings.bench.report import Latency, show_progress, to_camel_case
from tidings.bench.server_process import RunningServer
from tidings.errors import TidingsError
from tidings.mockpush import MockPushOptions, SpawnedMockPush, spawn

#: notifications before the measurement and their rate; they open connections and compile templates
_WARM_UP_COUNT, _WARM_UP_PER_SECOND = 60, 500.0
#: maximum number of notifications on the idle system
_MAX_IDLE_COUNT = 100
#: seconds to wait for the last urgent push after its request
_ARRIVAL_TIMEOUT = 120.0
#: seconds between checks for the end of the other messages
_POLL_INTERVAL = 0.25


@dataclass(frozen=True, slots=True)
class TimedSendsResult:
    """Figures of single notifications at a constant rate."""

    sent: int
    #: from sending the request to the 202 response
    accept_ms: Latency
    #: from sending the request to the receipt by the push service
    receipt_ms: Latency


@dataclass(frozen=True, slots=True, kw_only=True)
class UrgentBenchResult:
    """The figures that both benchmarks have. Field names are those of the JSON output, in snake case."""

    per_second: float
    #: urgent notifications while nothing else is sent
    idle: TimedSendsResult
    #: urgent notifications meanwhile
    urgent: TimedSendsResult
    #: peak resident memory of each process including its children
    peak_memory_mb: Mapping[str, float]
    workers: int
    database: str
    queue: str
    cores: int = field(default_factory=lambda: os.cpu_count() or 1)

    def json_object(self) -> dict[str, object]:
        """Return the figures under their JSON names."""
        return to_camel_case(asdict(self))


@dataclass(frozen=True, slots=True)
class UrgentBench:
    """The back ends, the push service and the users of one run."""

    backends: Backends
    sink: SpawnedMockPush
    event_id: str
    workers: int
    per_second: float
    #: urgent notifications on the idle system
    idle_count: int
    #: urgent notifications meanwhile, at most
    urgent_count: int

    async def measure_idle(self, server: RunningServer, title: str) -> TimedSendsResult:
        """Warm up and return the figures of the idle system."""
        warm_up = UrgentSender(server, self.sink, _WARM_UP_PER_SECOND)
        await warm_up.send(range(_WARM_UP_COUNT), "Warming up", asyncio.Event())
        numbers = range(_WARM_UP_COUNT, _WARM_UP_COUNT + self.idle_count)
        return await UrgentSender(server, self.sink, self.per_second).send(numbers, title, asyncio.Event())

    async def measure_until(self, ended: asyncio.Event, server: RunningServer, title: str) -> TimedSendsResult:
        """Return the figures of the urgent notifications that were sent before the end."""
        first = _WARM_UP_COUNT + self.idle_count
        numbers = range(first, first + self.urgent_count)
        return await UrgentSender(server, self.sink, self.per_second).send(numbers, title, ended)

    async def notify_all(self, server: RunningServer) -> str:
        """Notify all ticket holders, and return the id of the notification."""
        body = {
            "audience": {"kind": "ticket_holders", "eventId": self.event_id},
            "templateCode": "MESSAGE",
            "variables": {"title": "News", "body": "For all ticket holders."},
            "options": {"priority": "normal"},
        }
        return str((await server.request("POST", "/api/notifications", body))["id"])

    @asynccontextmanager
    async def watch(self, messages: int) -> AsyncIterator[asyncio.Event]:
        """Set the yielded event once so many messages have been received since the last reset of the service."""
        ended = asyncio.Event()

        async def watch() -> None:
            while (await self.sink.control.stats()).accepted < messages:  # noqa: ASYNC110  # another process: no event
                await asyncio.sleep(_POLL_INTERVAL)
            ended.set()

        watch_task = asyncio.create_task(watch())
        try:
            yield ended
        finally:
            watch_task.cancel()
            with suppress(asyncio.CancelledError):
                await watch_task


@asynccontextmanager
async def prepare_urgent_bench(
    *,
    recipients: int,
    urgent: int,
    per_second: float,
    workers: int | None,
    folder: Path | None,
    variables: Mapping[str, str] | None = None,
) -> AsyncIterator[UrgentBench]:
    """Start a push service and fill an empty database with `recipients` ticket holders for the length of the block.

    workers, folder and the database are those of `bench.push.run`. variables: further settings of the processes.
    Raises ConfigError for a database that is in use.
    """
    idle = min(urgent, _MAX_IDLE_COUNT)
    with tempfile.TemporaryDirectory(dir=folder, prefix="tidings-bench-") as data:
        async with (
            spawn(MockPushOptions(verify_share=0.0, timed=SINGLE_USER_PREFIX)) as sink,
            select_backends(Path(data), push_host=urlsplit(sink.origin).netloc, variables=variables) as backends,
        ):
            singles = _WARM_UP_COUNT + idle + urgent
            event_id = await prepare_audience(backends, recipients=recipients, origin=sink.origin, singles=singles)
            workers = default_workers(backends) if workers is None else workers
            yield UrgentBench(backends, sink, event_id, workers, per_second, idle, urgent)


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
            raise TidingsError("everything was sent before an urgent notification; send more messages")
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
