"""Outages and resets of Redis: what each node decides, and how the views are merged afterwards."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from tidings.presence.failover_presence import FailoverPresence
from tidings.presence.redis_presence import RedisPresence
from tidings.redis_client import RedisClient
from tidings.testing.contracts.presence_contract import LEASE, ROOM, make_departure, make_report
from tidings.testing.polling import eventually
from tidings.testing.valkey import ValkeyServer

NodeFactory = Callable[..., FailoverPresence]


@pytest.fixture
async def create_node(own_valkey: ValkeyServer) -> AsyncIterator[NodeFactory]:
    """Return a factory of nodes that share the server."""
    created: list[FailoverPresence] = []

    def create(**options: Callable[[], float]) -> FailoverPresence:
        shared = RedisPresence(RedisClient(own_valkey.url, backend="presence"), "test")
        created.append(FailoverPresence(shared, probe_interval=0.05, **options))
        return created[-1]

    yield create
    for node in created:
        await node.close()


async def sweep_until_ended(node: FailoverPresence) -> list[tuple[str, int]]:
    async def sweep() -> list[tuple[str, int]] | None:
        ends = (await node.sweep(10, node_lease=LEASE)).ends
        return [(end.room, end.epoch) for end in ends] or None

    return await eventually(sweep, within=20)


async def test_e10_during_an_outage_a_node_decides_only_on_rooms_that_it_had_for_itself(
    create_node: NodeFactory, own_valkey: ValkeyServer
) -> None:
    first, second = create_node(), create_node()
    own = replace(make_report("ada"), room="own")
    await first.report("first", [make_report("ada"), own])
    await second.report("second", [make_report("bo")])
    # the second report tells the first node of the other
    await first.report("first", [make_report("ada"), own])
    for room, epoch in ((ROOM, 7), ("own", 3)):
        await first.set_epoch(room, epoch)
    own_valkey.kill()
    await first.report("first", [make_departure("ada"), replace(make_departure("ada"), room="own")])
    assert first.is_down
    assert await sweep_until_ended(first) == [("own", 3)]
    await first.confirm_end("own", 3)
    held = await first.get_room(ROOM)
    assert held is not None
    assert (held.is_live, held.epoch, held.unrecorded) == (False, 7, None)
    own_valkey.start()

    async def is_merged() -> bool:
        await second.report("second", [replace(make_report("bo"), is_complete=True)])
        view = (await first.report("first", [make_departure()]))[0]
        return not first.is_down and view.is_live

    await eventually(is_merged, within=20)
    assert (first.resync_version, second.resync_version) > (0, 0)


async def test_e11_a_reset_server_is_filled_by_complete_reports_and_nothing_ends(
    create_node: NodeFactory, own_valkey: ValkeyServer
) -> None:
    node = create_node()
    await node.report("node", [make_report("ada", "bo")])
    await node.set_epoch(ROOM, 4)
    before = node.resync_version
    own_valkey.flush()
    partial = (await node.report("node", [make_report()]))[0]
    assert (partial.users, partial.epoch) == (0, None)
    assert node.resync_version > before
    view = (await node.report("node", [replace(make_report("ada", "bo"), is_complete=True)]))[0]
    assert (view.users, view.is_live) == (2, True)
    assert (await node.sweep(10, node_lease=LEASE)).ends == []


async def test_e12_the_clocks_of_nodes_may_differ_by_hours(create_node: NodeFactory) -> None:
    ahead, behind = create_node(timer=lambda: 1e9), create_node(timer=lambda: -1e9)
    await ahead.sweep(10, node_lease=LEASE)
    await ahead.report("ahead", [make_report("ada")])
    await ahead.set_epoch(ROOM, 1)
    view = (await behind.report("behind", [make_report("bo")]))[0]
    assert (view.users, view.epoch) == (2, 1)
    await ahead.report("ahead", [make_departure("ada")])
    assert (await behind.sweep(10, node_lease=LEASE)).ends == []
    await behind.report("behind", [make_departure("bo")])
    assert await sweep_until_ended(behind) == [(ROOM, 1)]
    assert (await ahead.sweep(10, node_lease=LEASE)).ends == []


async def test_e07_a_restarted_process_removes_the_leases_of_its_predecessor_only(create_node: NodeFactory) -> None:
    node = create_node()
    await node.start_node("host:8000", "host:8000#1")
    await node.report("host:8000#1", [make_report("ada")])
    await node.report("host:9000#1", [make_report("bo")])
    await node.start_node("host:8000", "host:8000#2")
    room = await node.get_room(ROOM)
    assert room is not None
    assert (room.users, room.connections, room.is_live) == (1, 1, True)
    assert await node.count_connections() == 1


async def test_e10_a_node_without_rooms_finds_out_that_the_server_is_back(
    create_node: NodeFactory, own_valkey: ValkeyServer
) -> None:
    node = create_node()
    await node.sweep(10, node_lease=LEASE)
    own_valkey.kill()
    await node.sweep(10, node_lease=LEASE)
    assert node.is_down
    own_valkey.start()

    async def is_back() -> bool:
        await node.sweep(10, node_lease=LEASE)
        return not node.is_down

    await eventually(is_back, within=20)
    assert node.resync_version > 0
