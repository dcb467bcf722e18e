"""`tidings bench lanes`: how long urgent notifications take while a broadcast is going out (MISSION B5).

The urgent ones come at a steady rate from outside, each to another user, over the same push service as the broadcast,
and are timed from sending the request to the receipt of the push. A request that is late holds up no other.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from tidings.bench.backends import Backends, backends
from tidings.bench.figures import Latency, camel
from tidings.bench.people import SINGLE, prepare, single
from tidings.bench.progress import progress
from tidings.bench.push import default_workers
from tidings.bench.serving import Served, serving
from tidings.errors import TidingsError
from tidings.testing.mock_push import MockPushOptions, SpawnedMockPush, spawn

#: notifications before the measured ones, and how many a second: connections, compiled templates
_WARM_UP, _WARM_UP_PER_SECOND = 60, 500.0
#: single notifications on the idle system, at most
_IDLE = 100
#: share of the broadcast that has arrived when the urgent ones begin
_UNDERWAY = 0.01
#: seconds until the first push of the broadcast, and until the last urgent one after its request
_PATIENCE = 120.0
#: seconds between looks whether the broadcast is over
_LOOK_EVERY = 0.25


@dataclass(frozen=True, slots=True)
class Timed:
    """Single notifications at a steady rate."""

    sent: int
    #: request sent → answered with 202
    accept_ms: Latency
    #: request sent → received by the push service
    receipt_ms: Latency


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run of `tidings bench lanes` measured. Field names are those of the JSON output, in snake case."""

    broadcast: int
    per_second: float
    #: urgent ones before the broadcast
    idle: Timed
    #: urgent ones while the broadcast went out
    urgent: Timed
    #: messages of the broadcast received meanwhile, per second
    broadcast_per_second: float
    #: largest resident size of each process, with those it started
    peak_memory_mb: Mapping[str, float]
    workers: int
    database: str
    queue: str
    cores: int

    def json_object(self) -> dict[str, object]:
        """Return the figures under their JSON names."""
        return camel(asdict(self))


async def run(
    *, broadcast: int, urgent: int, per_second: float, workers: int | None = None, folder: Path | None = None
) -> Figures:
    """Start a broadcast to `broadcast` users and send `urgent` urgent notifications meanwhile, `per_second` of them.

    workers, folder and the database as in `bench push`. When the broadcast ends first, the rest is not sent.
    Raises TidingsError when something does not start, a push does not arrive, or the broadcast is over too soon.
    """
    idle = min(urgent, _IDLE)
    with tempfile.TemporaryDirectory(dir=folder, prefix="tidings-bench-") as data:
        async with (
            spawn(MockPushOptions(verify_share=0.0, timed=SINGLE)) as sink,
            backends(Path(data), push_host=urlsplit(sink.origin).netloc) as chosen,
        ):
            people = _WARM_UP + idle + urgent
            event_id = await prepare(chosen, recipients=broadcast, origin=sink.origin, singles=people)
            workers = default_workers(chosen) if workers is None else workers
            async with serving(chosen, workers=workers) as server:
                caller = _Caller(server, sink, per_second)
                warming = replace(caller, per_second=_WARM_UP_PER_SECOND)
                await warming.send(range(_WARM_UP), "Warming up", asyncio.Event())
                before = await caller.send(range(_WARM_UP, _WARM_UP + idle), "Without a broadcast", asyncio.Event())
                return await _measured(
                    chosen, caller, event_id, broadcast, before, range(people - urgent, people), workers
                )


async def _measured(
    chosen: Backends, caller: "_Caller", event_id: str, broadcast: int, idle: Timed, urgent: range, workers: int
) -> Figures:
    server, sink = caller.server, caller.sink
    await sink.control.reset()
    body = {
        "audience": {"kind": "ticket_holders", "eventId": event_id},
        "templateCode": "MESSAGE",
        "variables": {"title": "News", "body": "For everybody who has a ticket."},
        "options": {"priority": "normal"},
    }
    await server.request("POST", "/api/notifications", body)
    try:
        await sink.control.wait_for(timeout=_PATIENCE, accepted=max(1, int(broadcast * _UNDERWAY)))
    except TimeoutError:
        raise TidingsError(f"the broadcast did not begin within {_PATIENCE:.0f} s") from None
    async with _watched(sink, broadcast) as over:
        began, started = (await sink.control.stats()).accepted, time.perf_counter()
        timed = await caller.send(urgent, "During the broadcast", over)
        seconds = time.perf_counter() - started
        arrived = (await sink.control.stats()).accepted - began - timed.sent
    return Figures(
        broadcast=broadcast,
        per_second=caller.per_second,
        idle=idle,
        urgent=timed,
        broadcast_per_second=round(max(0, arrived) / seconds, 1),
        peak_memory_mb={name: round(cost.peak_memory_mb, 1) for name, cost in server.costs().items()},
        workers=workers,
        database=chosen.database,
        queue=chosen.queue,
        cores=os.cpu_count() or 1,
    )


@asynccontextmanager
async def _watched(sink: SpawnedMockPush, broadcast: int) -> AsyncIterator[asyncio.Event]:
    """Set an event once the broadcast has arrived."""
    over = asyncio.Event()

    async def watch() -> None:
        while (await sink.control.stats()).accepted < broadcast:  # noqa: ASYNC110  # another process: no event
            await asyncio.sleep(_LOOK_EVERY)
        over.set()

    watching = asyncio.create_task(watch())
    try:
        yield over
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


@dataclass(frozen=True, slots=True)
class _Caller:
    """Sends urgent notifications at a steady rate, whether the last ones were answered or not."""

    server: Served
    sink: SpawnedMockPush
    per_second: float

    async def send(self, numbers: range, title: str, over: asyncio.Event) -> Timed:
        """Send one to each of the single users, until `over`; return once all have arrived."""
        sent: dict[str, float] = {}
        accept_ms: list[float] = []

        async def one(number: int) -> None:
            user_id = single(number)
            sent[user_id] = time.time()
            await self.server.request("POST", "/api/notifications", _urgent(user_id))
            accept_ms.append((time.time() - sent[user_id]) * 1000)

        loop = asyncio.get_running_loop()
        begin = loop.time()
        try:
            with progress(title, len(numbers)) as tell:
                async with asyncio.TaskGroup() as group:
                    for place, number in enumerate(numbers):
                        await _pause(over, begin + place / self.per_second - loop.time())
                        if over.is_set():
                            break
                        group.create_task(one(number))
                        if tell is not None:
                            tell(place + 1)
        except* TidingsError as failed:
            raise failed.exceptions[0] from None
        if not sent:
            raise TidingsError("the broadcast was over before an urgent notification could be sent; raise --broadcast")
        received = await self._received(sent)
        took = [(received[user_id] - at) * 1000 for user_id, at in sent.items()]
        return Timed(len(sent), Latency.of(accept_ms), Latency.of(took))

    async def _received(self, sent: Mapping[str, float]) -> Mapping[str, float]:
        """Return user → time of the first receipt. Raises TidingsError when some are missing."""
        ends = time.monotonic() + _PATIENCE
        while True:
            received: dict[str, float] = {}
            for device, at in await self.sink.control.times():
                received.setdefault(device.removesuffix("-1"), at)
            if missing := [user_id for user_id in sent if user_id not in received]:
                if time.monotonic() > ends:
                    raise TidingsError(f"{len(missing)} urgent notifications did not arrive within {_PATIENCE:.0f} s")
                await asyncio.sleep(0.05)
                continue
            return received


async def _pause(over: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, seconds)):
            await over.wait()


def _urgent(user_id: str) -> Mapping[str, object]:
    return {
        "userId": user_id,
        "templateCode": "MESSAGE",
        "variables": {"title": "Your code", "body": "Valid for ten minutes."},
        "options": {"priority": "urgent"},
    }
