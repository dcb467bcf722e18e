"""`tidings bench rooms`: memory and CPU of idle viewers, joins and departures per second, and a returning herd."""

import asyncio
import itertools
import os
import resource
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from tidings.bench.backends import Backends, require_empty_database, select_backends
from tidings.bench.report import Latency, to_camel_case
from tidings.bench.room_client import RoomClient, join_room
from tidings.bench.server_process import RunningServer, run_server
from tidings.container import AppContainer
from tidings.credentials import sign_user_token
from tidings.presence import room_state
from tidings.presence.room_state import EndDecision, RoomState

#: connections that are opened at the same time
_CONCURRENCY = 100
#: connections are spread over this many rooms
_ROOMS = 20
#: files of this process and of the server besides the connections
_OTHER_FILES = 200
#: seconds; of the rooms in the measurement of decisions
_GRACE = 30.0
_VARIABLES = {
    "TIDINGS_STREAM_USER_CONNECTIONS": "0",
    "TIDINGS_STREAM_ADDRESS_CONNECTIONS": "0",
    "TIDINGS_STREAM_CONNECTIONS": "0",
    "TIDINGS_WEBSOCKET_PORT": "0",
}


@dataclass(frozen=True, slots=True)
class RoomsBenchResult:
    """The figures of one run of `tidings bench rooms`. Field names are those of the JSON output, in snake case."""

    connections: int
    #: resident memory of the server per connection beyond the server without connections
    kib_per_connection: float
    #: percent of one core while all connections are idle, heartbeats included
    idle_cpu_percent: float
    #: pairs of one join and one departure
    joins_and_leaves_per_second: float
    join_ms: Latency
    #: joins and departures that the state machine of rooms decides on one core, without connections and stores
    decisions_per_second: float
    #: seconds until all viewers were back after all connections were lost at once
    herd_seconds: float
    #: epochs that ended although their viewers came back
    false_ends: int
    database: str
    queue: str
    cores: int

    def json_object(self) -> dict[str, object]:
        """Return the figures under their JSON names."""
        return to_camel_case(asdict(self))


async def run(
    *, connections: int, pairs: int = 2000, seconds: float = 20.0, folder: Path | None = None
) -> RoomsBenchResult:
    """Measure live rooms.

    Arguments: connections — idle viewers; pairs — joins with a departure; seconds — length of the idle measurement.
    The folder, the database and the errors are those of `bench.push.run`.
    """
    connections = _limit_to_open_files(connections)
    with tempfile.TemporaryDirectory(dir=folder, prefix="tidings-bench-") as data:
        async with select_backends(Path(data), variables=_VARIABLES) as backends:
            async with AppContainer.open(backends.settings) as runtime:
                await require_empty_database(runtime)
                secret = runtime.settings.user_secret
            async with run_server(backends, workers=0) as server:
                bench = _Bench(backends, server, secret)
                await bench.create_events()
                return await bench.measure(connections, pairs, seconds)


class _Bench:
    """One run against a server."""

    def __init__(self, backends: Backends, server: RunningServer, secret: str) -> None:
        self._backends = backends
        self._server = server
        self._secret = secret
        url = urlsplit(server.base_url)
        self._host, self._port = url.hostname or "127.0.0.1", url.port or 80
        self._events: list[str] = []

    async def create_events(self) -> None:
        await self._server.request("PUT", "/api/users/host", {})
        body = {"title": "Bench", "startDate": "2030-01-01T00:00:00Z", "hostId": "host", "status": "ACTIVE"}
        for _ in range(_ROOMS):
            self._events.append(str((await self._server.request("POST", "/api/events", body))["id"]))

    async def measure(self, connections: int, pairs: int, seconds: float) -> RoomsBenchResult:
        warm = await self._join(0)
        memory_before = self._measure_memory()
        latencies: list[float] = []
        clients = await self._join_all(range(1, connections + 1), latencies)
        memory = self._measure_memory() - memory_before
        cpu_before, started = self._server.cpu_seconds(), time.perf_counter()
        await asyncio.sleep(seconds)
        idle_cpu = (self._server.cpu_seconds() - cpu_before) / (time.perf_counter() - started)
        started = time.perf_counter()
        for client in clients:
            client.abort()
        clients = await self._join_all(range(1, connections + 1), [])
        herd_seconds = time.perf_counter() - started
        started = time.perf_counter()
        await _run_limited(range(pairs), self._join_and_leave)
        pairs_per_second = pairs / (time.perf_counter() - started)
        false_ends = sum([await self._count_ends(event) for event in self._events])
        for client in (warm, *clients):
            client.abort()
        return RoomsBenchResult(
            connections=connections,
            kib_per_connection=round(memory * 1024 / connections, 1),
            idle_cpu_percent=round(idle_cpu * 100, 1),
            joins_and_leaves_per_second=round(pairs_per_second, 1),
            decisions_per_second=round(measure_decisions(), 1),
            join_ms=Latency.from_milliseconds(latencies),
            herd_seconds=round(herd_seconds, 2),
            false_ends=false_ends,
            database=self._backends.database,
            queue=self._backends.queue,
            cores=os.cpu_count() or 1,
        )

    async def _join(self, number: int) -> RoomClient:
        token = sign_user_token(self._secret, f"user-{number}", timedelta(hours=1), datetime.now(UTC))
        path = f"/api/streams/{self._events[number % _ROOMS]}/ws?token={token}"
        return await join_room(self._host, self._port, path)

    async def _join_all(self, numbers: Sequence[int], latencies: list[float]) -> list[RoomClient]:
        clients: list[RoomClient] = []

        async def join(number: int) -> None:
            started = time.perf_counter()
            clients.append(await self._join(number))
            latencies.append((time.perf_counter() - started) * 1000)

        await _run_limited(numbers, join)
        return clients

    async def _join_and_leave(self, number: int) -> None:
        client = await self._join(1_000_000 + number)
        client.leave()
        await client.closed

    async def _count_ends(self, event: str) -> int:
        """Return the number of epochs of a room that have ended. All rooms have viewers."""
        epoch = (await self._server.request("GET", f"/api/streams/{event}"))["epoch"]
        assert isinstance(epoch, int)
        return max(0, epoch - 1)

    def _measure_memory(self) -> float:
        """Return the resident memory of the server in MiB."""
        return max(usage.memory_mb for usage in self._server.measure_usage().values())


def measure_decisions(seconds: float = 0.5, rooms: int = 1000) -> float:
    """Return how many joins and departures per second of CPU time the state machine decides.

    Each room goes live, loses its viewer, and ends after the grace period, again and again.
    """
    states = [RoomState()] * rooms
    started, decided, now = time.process_time(), 0, 0.0
    for room in itertools.cycle(range(rooms)):
        if room == 0 and time.process_time() - started > seconds:
            break
        now += 1.0
        state = room_state.set_epoch(_report(states[room], now, lease=15.0), room)
        state, decision = room_state.decide(state, now)
        state, end = room_state.decide(_report(state, now, lease=0.0), now + _GRACE)
        if decision is not None or not isinstance(end, EndDecision):
            raise RuntimeError("a room with a viewer ended, or one without did not")
        states[room] = room_state.confirm_end(state, end.epoch, now + _GRACE) or RoomState()
        decided += 2
    return decided / (time.process_time() - started)


def _report(state: RoomState, now: float, *, lease: float) -> RoomState:
    connections = 1 if lease else 0
    return room_state.apply_report(
        state, "node", connections=connections, lease=lease, silent_for=0.0, grace=_GRACE, now=now
    )


async def _run_limited(numbers: Sequence[int], work: Callable[[int], Awaitable[None]]) -> None:
    """Do the work for each number, a limited number at the same time."""
    remaining = iter(numbers)

    async def run_next() -> None:
        for number in remaining:
            await work(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(_CONCURRENCY, len(numbers))):
            group.create_task(run_next())


def _limit_to_open_files(connections: int) -> int:
    """Raise the limit on open files as far as allowed, and return how many connections fit into it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return connections if hard == resource.RLIM_INFINITY else min(connections, hard - _OTHER_FILES)
