"""Several nodes share one server: each vacancy once, whoever asks; a node that dies; answers that get lost."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest
from redis.asyncio import Redis

from tidings.errors import BackendError
from tidings.presence.redis import RedisPresence
from tidings.presence.redis_commands import STEP
from tidings.redis_link import RedisLink
from tidings.testing.contracts.presence_contract import GRACE, LIFE, MANY, SECOND, rooms_of, see
from tidings.testing.contracts.samples import NOW
from tidings.testing.valkey import ValkeyServer

Nodes = Callable[[str], RedisPresence]


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    """A look at the keys themselves."""
    link = RedisLink(redis_url)
    yield link.client
    await link.close()


async def test_a_node_knows_the_members_of_the_other(redis_url: str, nodes: Nodes) -> None:
    here, there = nodes(redis_url), nodes(redis_url)
    await see(here, "jazz", "ana")
    await see(there, "jazz", "ben")
    assert [await node.members("jazz", NOW) for node in (here, there)] == [2, 2]
    await here.left("jazz", "ana", now=NOW)
    assert await rooms_of(here, NOW + LIFE - SECOND) == [], "the other node's member is there"


async def test_somebody_who_comes_back_to_another_node_cancels_it(redis_url: str, nodes: Nodes) -> None:
    here, there = nodes(redis_url), nodes(redis_url)
    await see(here, "jazz", "ana")
    await here.left("jazz", "ana", now=NOW)
    await see(there, "jazz", "ana", now=NOW + GRACE - SECOND)
    assert await rooms_of(here, NOW + GRACE) == []


async def test_racing_takers_of_two_nodes_get_each_vacancy_once(redis_url: str, nodes: Nodes) -> None:
    takers = [nodes(redis_url) for _ in range(2)]
    rooms = [f"room-{number}" for number in range(2 * STEP + 50)]
    await asyncio.gather(*(see(takers[0], room, "ana") for room in rooms))
    await asyncio.gather(*(takers[1].left(room, "ana", now=NOW) for room in rooms))
    counted: Counter[str] = Counter()
    for _ in range(10):
        for some in await asyncio.gather(*(rooms_of(taker, NOW + GRACE, limit=40) for taker in takers * 2)):
            counted.update(some)
    assert counted == dict.fromkeys(rooms, 1)


async def test_a_race_of_coming_back_and_taking_has_one_winner(redis_url: str, nodes: Nodes) -> None:
    here, there = nodes(redis_url), nodes(redis_url)
    due = NOW + GRACE
    taken_first = 0
    for number in range(60):
        room = f"room-{number}"
        await see(here, room, "ana")
        await here.left(room, "ana", now=NOW)
        coming = asyncio.create_task(see(there, room, "ana", now=due))
        # the other begins a little later each time
        for _ in range(number % 20):
            await asyncio.sleep(0)
        taken = room in await rooms_of(here, due)
        await coming
        taken_first += taken
        assert await there.members(room, due) == 1
        assert room not in await rooms_of(here, due + SECOND), "taken before, or cancelled"
        await there.left(room, "ana", now=due)
        assert (await rooms_of(here, due + GRACE)).count(room) == 1, "the next one is another vacancy"
    assert 0 < taken_first < 60, "both of them won sometimes"


async def test_the_rooms_of_a_node_that_dies_are_vacated_within_a_life_and_a_grace(
    redis_url: str, nodes: Nodes
) -> None:
    dead, alive = nodes(redis_url), nodes(redis_url)
    await see(dead, "alone", "ana")
    await see(dead, "shared", "ana")
    await see(dead, "moved", "ana")
    given: dict[str, timedelta] = {}
    for second in range(60):
        now = NOW + second * SECOND
        if second % 5 == 0:
            await see(alive, "shared", "ben", now=now)
        if second == 40:
            await see(alive, "moved", "ana", now=now)
        if second > 40 and second % 5 == 0:
            await see(alive, "moved", "ana", now=now)
        given |= dict.fromkeys(await rooms_of(alive, now), now - NOW)
    assert given == {"alone": LIFE + GRACE}


async def test_a_vacancy_whose_answer_got_lost_comes_with_the_next_call(own_valkey: ValkeyServer, nodes: Nodes) -> None:
    node, other = nodes(own_valkey.url), nodes(own_valkey.url)
    for room in ("jazz", "folk"):
        await see(node, room, "ana")
        await node.left(room, "ana", now=NOW)
    own_valkey.pause()
    with pytest.raises(BackendError):
        await node.vacated(NOW + GRACE, MANY)
    own_valkey.resume()
    # what was asked before is done now, and nobody hears the answer
    async with asyncio.timeout(10):
        while await _due(own_valkey):
            await asyncio.sleep(0.01)
    assert await rooms_of(other, NOW + GRACE) == [], "given already"
    await see(other, "folk", "ana", now=NOW + GRACE)
    assert await rooms_of(node, NOW + GRACE) == ["jazz"], "and not that to which somebody came back"
    assert await rooms_of(node, NOW + GRACE) == []


async def test_a_server_that_forgot_its_scripts_gets_them_again(own_valkey: ValkeyServer, nodes: Nodes) -> None:
    node = nodes(own_valkey.url)
    await see(node, "jazz", "ana")
    own_valkey.command("SCRIPT", "FLUSH")
    await see(node, "jazz", "ben")
    own_valkey.command("SCRIPT", "FLUSH")
    assert await rooms_of(node, NOW + LIFE) == []
    assert await rooms_of(node, NOW + LIFE + GRACE) == ["jazz"]


async def test_nothing_is_left_of_rooms_that_are_over_but_their_epochs(
    redis_url: str, nodes: Nodes, client: Redis
) -> None:
    node = nodes(redis_url)
    for number in range(30):
        await see(node, f"room-{number}", "ana", "ben")
        await node.left(f"room-{number}", "ana", now=NOW)
    await node.vacated(NOW + LIFE, MANY)
    assert len(await rooms_of(node, NOW + LIFE + GRACE)) == 30
    keys = {str(key).split(":")[1] for key in await client.keys("*")}
    assert keys == {"generation", "epochs", "answer"}
    await node.vacated(NOW + timedelta(days=3), MANY)
    assert {str(key).split(":")[1] for key in await client.keys("*")} == {"generation", "answer"}
    assert all([0 < await client.ttl(key) <= 3600 for key in await client.keys("*answer*")])


async def test_all_keys_are_in_one_slot(redis_url: str, nodes: Nodes, client: Redis) -> None:
    node = nodes(redis_url)
    await see(node, "a {tag} in a room", "ana")
    await see(node, "jazz", "ana")
    await node.left("jazz", "ana", now=NOW)
    keys = await client.keys("*")
    assert len(keys) == 8
    assert {str(key).partition("}")[0] for key in keys} == {"{test-presence"}


async def test_many_who_are_seen_at_once_need_few_round_trips(redis_url: str, nodes: Nodes, client: Redis) -> None:
    node = nodes(redis_url)
    await see(node, "jazz", "ana")
    before = (await client.info("stats"))["total_reads_processed"]
    await asyncio.gather(*(see(node, "jazz", f"member-{number}") for number in range(2000)))
    reads = (await client.info("stats"))["total_reads_processed"] - before
    assert await node.members("jazz", NOW) == 2001
    assert reads < 200


async def _due(server: ValkeyServer) -> bool:
    return await asyncio.to_thread(server.command, "EXISTS", "{test-presence}:due") == b":1"
