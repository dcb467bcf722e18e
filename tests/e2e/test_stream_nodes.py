"""Live rooms over two API processes with one Redis: a killed and a suspended process, restarts, an outage, a reset."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.support.cluster import ServerProcess
from tests.support.server import TidingsServer, eventually
from tests.support.stream_viewer import StreamViewer

from tidings.testing.ports import free_port
from tidings.testing.postgres import PostgresServer
from tidings.testing.valkey import ValkeyServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]
#: seconds; the lease of a viewer is 2.5 and that of a process 1.5 heartbeats
HEARTBEAT, GRACE = 1.0, 3.0
#: seconds within which every lease ends and every end is decided
SETTLED = 30.0
#: viewers who join at the same time
JOINS_AT_ONCE = 100


class Nodes:
    """Two API processes, each with a fixed port, that tests kill and restart."""

    def __init__(self, data_dir: Path, valkey: ValkeyServer, settings: Mapping[str, str]) -> None:
        self.valkey = valkey
        self._data_dir = data_dir
        self._settings = settings
        self._ports = [free_port(), free_port()]
        self.processes = [self._create(port) for port in self._ports]

    def _create(self, port: int) -> ServerProcess:
        return ServerProcess("api", self._data_dir, settings=self._settings, options=("--port", str(port)))

    async def restart(self, number: int) -> None:
        """Start a process that has ended."""
        self.processes[number] = self._create(self._ports[number])
        await self.processes[number].start()


@asynccontextmanager
async def run_nodes(data_dir: Path, timing: Mapping[str, str]) -> AsyncIterator[Nodes]:
    """Run two processes with a database and a Redis of their own. timing: settings of heartbeat and grace."""
    with PostgresServer(settings=("fsync=off",)) as postgres, ValkeyServer() as valkey:
        settings = {
            "TIDINGS_DATABASE": postgres.create_database(),
            "TIDINGS_REDIS": valkey.url,
            "TIDINGS_DATABASE_POOL": "8",
            "TIDINGS_STREAM_ADDRESS_CONNECTIONS": "0",
            "WEBSOCKET_PORT": "0",
            **timing,
        }
        created = Nodes(data_dir, valkey, settings)
        try:
            await created.processes[0].start()
            await created.processes[1].start()
            await created.processes[0].expect(201, "PUT", "/api/users/host", {})
            yield created
        finally:
            for process in created.processes:
                if process.is_running:
                    await process.kill()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Nodes]:
    timing = {"TIDINGS_STREAM_HEARTBEAT": str(HEARTBEAT), "TIDINGS_STREAM_GRACE": str(GRACE)}
    async with run_nodes(tmp_path_factory.mktemp("nodes") / "data", timing) as created:
        yield created


async def create_event(server: TidingsServer, title: str) -> str:
    body = {"title": title, "startDate": "2027-01-01T20:00:00Z", "hostId": "host", "status": "ACTIVE"}
    created: Json = (await server.expect(201, "POST", "/api/events", body)).read(Json)
    return str(created["id"])


async def stream_of(server: TidingsServer, event: str) -> tuple[str, int, int]:
    """Return the state, the epoch, and the number of viewers."""
    stream: Json = (await server.expect(200, "GET", f"/api/streams/{event}")).read(Json)
    return stream["state"], stream["epoch"], stream["viewers"]


async def wait_for(server: TidingsServer, event: str, expected: tuple[str, int, int]) -> None:
    found = ("", 0, 0)

    async def check() -> bool:
        nonlocal found
        found = await stream_of(server, event)
        return found == expected

    with suppress(TimeoutError):
        await eventually(check, within=SETTLED, pause=0.1)
    assert found == expected


async def notices_of(server: TidingsServer, event: str) -> list[str]:
    """Return the sources of the notices about an event."""
    page: Json = (await server.expect(200, "GET", "/api/notifications?limit=100")).read(Json)
    return [item["source"] for item in page["items"] if str(item["source"]).startswith(f"stream:{event}")]


async def test_e06_row_33_a_killed_process_leaves_no_ghosts_and_ends_no_room_with_other_viewers(nodes: Nodes) -> None:
    first, second = nodes.processes
    shared, own = await create_event(second, "Shared"), await create_event(second, "Own")
    async with (
        StreamViewer([second], shared, "bo"),
        StreamViewer([first], shared, "ada"),
        StreamViewer([first], own, "cy"),
    ):
        await wait_for(second, shared, ("live", 1, 2))
        await wait_for(second, own, ("live", 1, 1))
        await first.kill()
        await wait_for(second, shared, ("live", 1, 1))
        await wait_for(second, own, ("ended", 1, 0))
        await nodes.restart(0)
        # the viewer comes back by itself, as the next epoch
        await wait_for(second, own, ("live", 2, 1))
        await wait_for(second, shared, ("live", 1, 2))
    assert await notices_of(second, own) == [f"stream:{own}:1"]
    assert await notices_of(second, shared) == []


async def test_e08_a_process_that_was_suspended_neither_ends_nor_revives_a_room(nodes: Nodes) -> None:
    first, second = nodes.processes
    ended, shared = await create_event(second, "Ended"), await create_event(second, "Still live")
    async with AsyncExitStack() as stack:
        viewer = await stack.enter_async_context(StreamViewer([first], ended, "cy"))
        await stack.enter_async_context(StreamViewer([first], shared, "ada"))
        await stack.enter_async_context(StreamViewer([second], shared, "bo"))
        await wait_for(second, shared, ("live", 1, 2))
        first.pause()
        try:
            await viewer.stop()
            await wait_for(second, ended, ("ended", 1, 0))
            await wait_for(second, shared, ("live", 1, 1))
        finally:
            first.resume()
        # the viewer who is still connected counts as soon as it shows a sign of life
        await wait_for(second, shared, ("live", 1, 2))
        assert await stream_of(second, ended) == ("ended", 1, 0)
        assert await stream_of(first, ended) == ("ended", 1, 0)
    assert len(await notices_of(second, ended)) <= 1


async def test_e11_rooms_are_complete_again_after_redis_lost_its_data(nodes: Nodes) -> None:
    first, second = nodes.processes
    event = await create_event(first, "Flushed")
    async with StreamViewer([first], event, "ada"), StreamViewer([second], event, "bo"):
        await wait_for(first, event, ("live", 1, 2))
        nodes.valkey.flush()
        await wait_for(first, event, ("live", 1, 2))
        await wait_for(second, event, ("live", 1, 2))
        # longer than the grace period: no decision was made on the lost data
        await asyncio.sleep(GRACE)
        assert await stream_of(first, event) == ("live", 1, 2)


async def test_e10_a_room_of_several_processes_does_not_end_while_redis_is_away(nodes: Nodes) -> None:
    first, second = nodes.processes
    shared, own = await create_event(first, "Shared"), await create_event(first, "Own")
    async with AsyncExitStack() as stack:
        # the first process hears of the other one with its own report, so this viewer comes first
        await stack.enter_async_context(StreamViewer([second], shared, "bo"))
        await wait_for(first, shared, ("live", 1, 1))
        ada = await stack.enter_async_context(StreamViewer([first], shared, "ada"))
        cy = await stack.enter_async_context(StreamViewer([first], own, "cy"))
        await wait_for(first, shared, ("live", 1, 2))
        nodes.valkey.kill()
        try:
            await ada.stop()
            await cy.stop()
            # the process had all viewers of this room, so it decides by itself
            await wait_for(first, own, ("ended", 1, 0))
            assert (await stream_of(first, shared))[:2] == ("grace", 1)
            assert await stream_of(second, shared) == ("live", 1, 1)
        finally:
            nodes.valkey.start()
        await wait_for(first, shared, ("live", 1, 1))
    await wait_for(first, shared, ("ended", 1, 0))
    assert len(await notices_of(first, own)) <= 1


@pytest.mark.parametrize(
    "viewers",
    [pytest.param(200, marks=pytest.mark.extended), pytest.param(2000, marks=pytest.mark.long)],
)
async def test_e09_a_rolling_restart_ends_no_room(tmp_path: Path, viewers: int) -> None:
    # with the default heartbeat and grace: on a loaded machine a process may need longer than 3 s to start
    async with run_nodes(tmp_path / "data", {}) as nodes:
        await restart_in_turn(nodes, viewers=viewers, rooms=50)


async def restart_in_turn(nodes: Nodes, *, viewers: int, rooms: int) -> None:
    """Restart both processes while half of the viewers share a room and the others have rooms on one process each."""
    shared = await create_event(nodes.processes[0], "Deploy")
    own = [await create_event(nodes.processes[0], f"Deploy {number}") for number in range(rooms)]
    own_size = viewers // 2 // rooms
    expected = {shared: viewers - own_size * rooms, **dict.fromkeys(own, own_size)}
    places = [(event, number) for event, size in expected.items() for number in range(size)]
    async with AsyncExitStack() as stack:
        for start in range(0, len(places), JOINS_AT_ONCE):
            joins = []
            # each viewer is another user: connections per user are limited
            for user, (event, number) in enumerate(places[start : start + JOINS_AT_ONCE], start):
                # all viewers of a room of its own are on the process that stops
                first = number % 2 if event == shared else own.index(event) % 2
                order = nodes.processes[first:] + nodes.processes[:first]
                viewer = StreamViewer(order, event, f"user-{user}")
                stack.push_async_callback(viewer.stop)
                joins.append(viewer.start())
            await asyncio.gather(*joins)
        for process in nodes.processes:
            await process.stop()
            for event, size in expected.items():
                other = next(other for other in nodes.processes if other is not process)
                await wait_for(other, event, ("live", 1, size))
            await process.start()
        for process in nodes.processes:
            for event, size in expected.items():
                await wait_for(process, event, ("live", 1, size))
        for event in expected:
            assert await notices_of(nodes.processes[0], event) == []
