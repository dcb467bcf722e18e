"""The shared presence goes away and comes back: processes go on alone at once, and nobody is given up wrongly."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from tidings.presence.fallback import FallbackPresence
from tidings.presence.redis import RedisPresence
from tidings.testing.clock import FrozenClock
from tidings.testing.contracts.presence_contract import GRACE, LIFE, SECOND, rooms_of, see
from tidings.testing.contracts.samples import NOW
from tidings.testing.valkey import ValkeyServer

#: seconds that nothing takes unless it hangs
PATIENCE = 20.0

Nodes = Callable[[str], RedisPresence]
FallbackNodes = Callable[[str], FallbackPresence]


@dataclass(frozen=True)
class Loss:
    """A way to go away and to come back."""

    lose: Callable[[ValkeyServer], None]
    end: Callable[[ValkeyServer], None]


#: one comes back empty, the other as it was
KILLED, HUNG = Loss(ValkeyServer.kill, ValkeyServer.start), Loss(ValkeyServer.pause, ValkeyServer.resume)


async def until_back(*nodes: FallbackPresence) -> None:
    async with asyncio.timeout(PATIENCE):
        while any(node.away for node in nodes):
            await asyncio.sleep(0.01)


async def quick(call: Awaitable[object]) -> None:
    began = time.monotonic()
    await call
    assert time.monotonic() - began < 1


losses = pytest.mark.parametrize("loss", [KILLED, HUNG], ids=["killed", "hung"])


@pytest.fixture
async def node(own_valkey: ValkeyServer, fallback_nodes: FallbackNodes) -> FallbackPresence:
    return fallback_nodes(own_valkey.url)


@losses
async def test_every_call_goes_on_within_a_second(
    own_valkey: ValkeyServer, fallback_nodes: FallbackNodes, loss: Loss
) -> None:
    nodes = [fallback_nodes(own_valkey.url) for _ in range(5)]
    for node in nodes:
        await see(node, "jazz", "ana")
    loss.lose(own_valkey)
    first, second, third, fourth, fifth = nodes
    await quick(asyncio.gather(*(see(first, "jazz", f"member-{number}") for number in range(1000))))
    assert await first.members("jazz", NOW) == 1001
    await quick(second.left("jazz", "ana", now=NOW))
    await quick(third.members("jazz", NOW))
    await quick(fourth.total(NOW))
    await quick(fifth.vacated(NOW, 10))
    assert all(node.away for node in nodes)
    began = time.monotonic()
    for _ in range(100):
        await see(fifth, "jazz", "ben")
        await fifth.vacated(NOW, 10)
    assert time.monotonic() - began < 1, "nobody asks a server that is away"
    loss.end(own_valkey)
    await until_back(*nodes)


@losses
async def test_graces_that_run_go_on_in_the_process_and_each_vacancy_comes_once(
    own_valkey: ValkeyServer, node: FallbackPresence, loss: Loss
) -> None:
    await see(node, "before", "ana")
    await see(node, "during", "ana")
    await node.left("before", "ana", now=NOW)
    loss.lose(own_valkey)
    await node.left("during", "ana", now=NOW + SECOND)
    assert await rooms_of(node, NOW + GRACE) == ["before"]
    assert await rooms_of(node, NOW + GRACE + SECOND) == ["during"]
    loss.end(own_valkey)
    await until_back(node)
    for second in range(100):
        assert await rooms_of(node, NOW + GRACE + second * SECOND) == []


@losses
async def test_graces_that_run_go_on_when_the_server_is_back(
    own_valkey: ValkeyServer, node: FallbackPresence, nodes: Nodes, loss: Loss
) -> None:
    await see(node, "before", "ana")
    await see(node, "during", "ana")
    await node.left("before", "ana", now=NOW)
    loss.lose(own_valkey)
    await node.left("during", "ana", now=NOW + SECOND)
    await see(node, "only then", "ana", now=NOW + SECOND)
    await node.left("only then", "ana", now=NOW + 2 * SECOND)
    loss.end(own_valkey)
    await until_back(node)
    other = nodes(own_valkey.url)
    assert await rooms_of(other, NOW + GRACE - SECOND) == []
    given = [await rooms_of(other, NOW + GRACE + second * SECOND) for second in range(3)]
    assert given == [["before"], ["during"], ["only then"]]
    assert await rooms_of(node, NOW + 2 * GRACE) == []


@losses
async def test_members_are_told_again_and_nobody_is_given_up(
    own_valkey: ValkeyServer, clock: FrozenClock, fallback_nodes: FallbackNodes, loss: Loss
) -> None:
    here, there = fallback_nodes(own_valkey.url), fallback_nodes(own_valkey.url)
    await see(here, "jazz", "ana")
    await see(there, "jazz", "ben")
    await see(there, "folk", "ben")
    loss.lose(own_valkey)
    later = NOW + 2 * (LIFE + GRACE)
    clock.advance(later - NOW)
    await see(here, "jazz", "ana", "cleo", now=later)
    await see(there, "jazz", "ben", now=later)
    await see(there, "folk", "ben", now=later)
    loss.end(own_valkey)
    # one of them is back first, and must not give up the members of the other
    await until_back(here)
    assert await rooms_of(here, later) == []
    await until_back(there)
    for node in (here, there):
        assert (await node.members("jazz", later), await node.total(later)) == (3, 4)
    for second in range(10):
        assert await rooms_of(here, later + second * SECOND) == []


@losses
async def test_who_left_meanwhile_is_not_there_afterwards(
    own_valkey: ValkeyServer, clock: FrozenClock, fallback_nodes: FallbackNodes, loss: Loss
) -> None:
    here, there = fallback_nodes(own_valkey.url), fallback_nodes(own_valkey.url)
    for room in ("jazz", "folk"):
        await see(here, room, "ana", "ben")
    await see(there, "folk", "cleo")
    loss.lose(own_valkey)
    for node in (here, there):
        await node.vacated(NOW, 10)
    await here.left("jazz", "ana", now=NOW + SECOND)
    for member in ("ana", "ben"):
        await here.left("folk", member, now=NOW + SECOND)
    loss.end(own_valkey)
    await until_back(here, there)
    counted = [await there.members(room, NOW + SECOND) for room in ("jazz", "folk")]
    assert counted == [1, 1]


async def test_a_vacancy_given_here_is_not_given_by_another_process_when_the_server_is_back(
    own_valkey: ValkeyServer, node: FallbackPresence, nodes: Nodes, clock: FrozenClock
) -> None:
    await see(node, "jazz", "ana", life=10 * GRACE)
    own_valkey.pause()
    await node.left("jazz", "ana", now=NOW)
    assert await rooms_of(node, NOW + GRACE) == ["jazz"]
    clock.advance(GRACE)
    own_valkey.resume()
    await until_back(node)
    other = nodes(own_valkey.url)
    for after in (1, 2, 11, 12, 13):
        assert await rooms_of(other, NOW + after * GRACE) == []


async def test_a_vacancy_whose_answer_got_lost_is_given_once(
    own_valkey: ValkeyServer, node: FallbackPresence, nodes: Nodes
) -> None:
    other = nodes(own_valkey.url)
    await see(node, "ours", "ana")
    await node.left("ours", "ana", now=NOW)
    await see(other, "theirs", "ana")
    await other.left("theirs", "ana", now=NOW)
    own_valkey.pause()
    # the server takes both from the list when it goes on
    assert await rooms_of(node, NOW + GRACE) == ["ours"]
    own_valkey.resume()
    await until_back(node)
    assert await rooms_of(node, NOW + GRACE) == ["theirs"]
    assert await rooms_of(other, NOW + GRACE) == []


async def test_a_room_that_others_are_in_is_none_of_ours_when_the_server_goes_away(
    own_valkey: ValkeyServer, node: FallbackPresence, nodes: Nodes
) -> None:
    other = nodes(own_valkey.url)
    await see(other, "jazz", "ben")
    await see(node, "jazz", "ana")
    await node.left("jazz", "ana", now=NOW)
    own_valkey.kill()
    assert await rooms_of(node, NOW + GRACE) == []
    assert node.away


async def test_a_vacancy_that_another_process_took_is_not_given_again_when_the_server_goes_away(
    own_valkey: ValkeyServer, node: FallbackPresence, nodes: Nodes
) -> None:
    await see(node, "jazz", "ana")
    await node.left("jazz", "ana", now=NOW)
    assert await rooms_of(nodes(own_valkey.url), NOW + GRACE) == ["jazz"]
    assert await rooms_of(node, NOW + GRACE) == []
    own_valkey.kill()
    assert await rooms_of(node, NOW + 2 * GRACE) == []


async def test_a_vacancy_that_was_noticed_earlier_elsewhere_is_not_given_again_when_the_server_goes_away(
    own_valkey: ValkeyServer, node: FallbackPresence, nodes: Nodes
) -> None:
    await see(node, "jazz", "ana")
    assert await rooms_of(nodes(own_valkey.url), NOW + LIFE) == []
    assert await rooms_of(node, NOW + LIFE + 2 * SECOND) == []
    assert await rooms_of(node, NOW + LIFE + GRACE) == ["jazz"]
    own_valkey.kill()
    assert await rooms_of(node, NOW + LIFE + 2 * GRACE) == []


async def test_a_server_that_forgets_without_a_word_loses_no_vacancy(
    own_valkey: ValkeyServer, node: FallbackPresence
) -> None:
    await see(node, "left before", "ana")
    await see(node, "left after", "ana")
    await node.left("left before", "ana", now=NOW)
    own_valkey.flush()
    await node.left("left after", "ana", now=NOW + SECOND)
    assert await rooms_of(node, NOW + GRACE) == ["left before"]
    await until_back(node)
    given = [await rooms_of(node, NOW + GRACE + second * SECOND) for second in range(60)]
    assert [room for rooms in given for room in rooms] == ["left after"]


async def test_a_look_finds_that_the_server_forgot(
    own_valkey: ValkeyServer, node: FallbackPresence, nodes: Nodes
) -> None:
    await see(node, "empty", "ana")
    await see(node, "held", "ana", life=10 * GRACE)
    await node.left("empty", "ana", now=NOW)
    own_valkey.flush()
    assert await rooms_of(node, NOW + GRACE) == ["empty"]
    await until_back(node)
    other = nodes(own_valkey.url)
    assert await other.members("held", NOW + GRACE) == 1, "it was told again"
    assert await rooms_of(other, NOW + 3 * GRACE) == []


async def test_a_member_whom_another_process_missed_first_is_no_sign_that_the_server_forgot(
    own_valkey: ValkeyServer, node: FallbackPresence, nodes: Nodes
) -> None:
    await see(node, "jazz", "ana")
    assert await rooms_of(nodes(own_valkey.url), NOW + LIFE) == []
    await node.left("jazz", "ana", now=NOW + LIFE + SECOND)
    assert not node.away
    assert await rooms_of(node, NOW + LIFE + GRACE) == ["jazz"], "its grace did not begin again"


async def test_what_happens_while_it_is_told_is_told_too(own_valkey: ValkeyServer, node: FallbackPresence) -> None:
    await see(node, "jazz", *(f"member-{number}" for number in range(500)))
    own_valkey.kill()
    await node.vacated(NOW, 10)
    own_valkey.start()
    joined = 0
    async with asyncio.timeout(PATIENCE):
        while node.away:
            await see(node, "jazz", f"late-{joined}")
            joined += 1
            await node.left("jazz", f"late-{joined - 3}", now=NOW)
            await asyncio.sleep(0)
    assert joined > 3
    assert await node.members("jazz", NOW) == 500 + 2
    there = [f"member-{number}" for number in range(500)] + [f"late-{joined - back}" for back in (1, 2)]
    for member in there:
        await node.left("jazz", member, now=NOW)
    assert await node.members("jazz", NOW) == 0, "it was those, and nobody who had left"


async def test_the_way_out_survives_one_loss_after_another(
    own_valkey: ValkeyServer, node: FallbackPresence, nodes: Nodes
) -> None:
    await see(node, "jazz", "ana")
    for loss in (KILLED, HUNG, KILLED):
        loss.lose(own_valkey)
        await node.vacated(NOW, 10)
        assert node.away
        loss.end(own_valkey)
        await until_back(node)
        assert await nodes(own_valkey.url).members("jazz", NOW) == 1


async def test_closing_while_the_server_is_away_does_not_wait_for_it(
    own_valkey: ValkeyServer, fallback_nodes: FallbackNodes
) -> None:
    node = fallback_nodes(own_valkey.url)
    await see(node, "jazz", "ana")
    own_valkey.pause()
    await node.vacated(NOW, 10)
    await quick(node.close())
