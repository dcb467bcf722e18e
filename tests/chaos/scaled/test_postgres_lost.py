"""PostgreSQL is restarted hard, and connections to it are cut, under load: 503 meanwhile, and no promise is broken."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial

import pytest

from tidings.errors import BackendError
from tidings.testing.fleet import Member
from tidings.testing.load import Load
from tidings.testing.mock_push import Rule
from tidings.testing.postgres import PostgresServer
from tidings.testing.scene import Scene, all_final, notify, to_one
from tidings.testing.server import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

Stage = Callable[..., Awaitable[Scene]]
Figures = Callable[[str, object], None]
#: of both workers: what one blow may send twice, if outcomes are lost with it
TWICE_AT_MOST = 2 * (50 + 50)
#: seconds that a stop may take, and what it may take longer where the database hangs, on a slow machine
DRAIN, SLACK = 1.0, 11.0


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL of this file's own, with everything on that keeps a confirmed commit."""
    with PostgresServer() as server:
        yield server


async def _restart(scene: Scene) -> None:
    await asyncio.to_thread(scene.postgres.restart, "immediate")


async def _cut(scene: Scene) -> None:
    await asyncio.to_thread(scene.postgres.terminate_backends, scene.database.rpartition("/")[2])


async def test_a_hard_restart_under_load(stage: Stage, own_postgres: PostgresServer, figures: Figures) -> None:
    await run(await stage(300, on=own_postgres), figures, _restart, 1)


async def test_cut_connections_under_load(stage: Stage, own_postgres: PostgresServer, figures: Figures) -> None:
    await run(await stage(300, on=own_postgres), figures, _cut, 1)


@pytest.mark.long
async def test_five_hard_restarts_under_load(stage: Stage, own_postgres: PostgresServer, figures: Figures) -> None:
    await run(await stage(5000, on=own_postgres), figures, _restart, 5)


@pytest.mark.long
async def test_twenty_times_cut_connections(stage: Stage, own_postgres: PostgresServer, figures: Figures) -> None:
    await run(await stage(5000, on=own_postgres), figures, _cut, 20)


async def run(scene: Scene, figures: Figures, blow: Callable[[Scene], Awaitable[None]], blows: int) -> None:
    """Strike `blows` times in the middle of a broadcast while clients ask."""
    people = len(scene.people)
    await scene.push.control.behave(Rule(delay_ms=20))
    async with scene.fleet("api", "worker", "worker") as fleet:
        api, pids = fleet[0], [member.pid for member in fleet]
        broadcast = await notify(api)
        load = Load(api, list(scene.people))
        load.begin()
        back = []
        for number in range(1, blows + 1):
            await scene.taken(people * number // (blows + 1))
            promised = len(load.promised)
            await blow(scene)
            struck = time.monotonic()
            await eventually(partial(load.has_promised, promised + 4), within=60)
            back.append(round(time.monotonic() - struck, 1))
        # the database is there: whatever still waits is sent
        assert await all_final(api, broadcast, within=150) == {"delivered": people}
        await load.kept()
        assert [member.pid for member in fleet] == pids
        assert all(member.running for member in fleet)
        said = [member.log.read_text() for member in fleet]
    figures("answers", dict(load.statuses))
    figures("seconds until requests were accepted again", back)
    assert max(back) < 10
    assert not any("Traceback" in text for text in said), "an outage is no bug"
    books = await scene.books()
    figures("duplicates", f"{books.duplicates}, promised ≤ {blows * TWICE_AT_MOST}")
    load.check(books, broadcast, at_most_twice=blows * TWICE_AT_MOST)


async def test_while_the_database_is_away_nothing_is_promised(
    stage: Stage, own_postgres: PostgresServer, figures: Figures
) -> None:
    scene = await stage(20, on=own_postgres)
    async with scene.fleet("api", "worker") as (api, _):
        first = await notify(api, to_one(scene.people[0]), key="before")
        await all_final(api, first)
        scene.postgres.stop("immediate")
        answered = []
        for number in range(5):
            asked = time.monotonic()
            headers = {"Idempotency-Key": f"meanwhile-{number}"}
            answer = await api.call("POST", "/api/notifications", to_one(scene.people[1]), headers=headers)
            answered.append(round(time.monotonic() - asked, 2))
            assert answer.status == 503
            assert int(answer.headers["retry-after"]) >= 1
        scene.postgres.start()
        started = time.monotonic()
        again = await eventually(lambda: _accepted(api, scene.people[1]), within=30)
        figures("seconds to say no", answered)
        figures("seconds until back", back := round(time.monotonic() - started, 1))
        assert back < 10
        assert await all_final(api, again) == {"delivered": 1}
        assert await notify(api, to_one(scene.people[0]), key="before") == first
    books = await scene.books()
    books.check_counts()
    assert set(books.counts) == {first, again}
    assert books.duplicates == 0


async def test_a_stop_while_the_database_hangs_comes_to_its_end(
    stage: Stage, own_postgres: PostgresServer, figures: Figures
) -> None:
    scene = await stage(300, on=own_postgres)
    await scene.push.control.behave(Rule(delay_ms=50))
    async with scene.fleet("api", "worker", "worker", TIDINGS_DRAIN_SECONDS=str(DRAIN)) as fleet:
        broadcast = await notify(fleet[0])
        await scene.taken(50)
        scene.postgres.pause()
        hanging = [asyncio.create_task(fleet[0].call("POST", "/api/notifications", to_one("u00001"))) for _ in range(3)]
        hanging.append(asyncio.create_task(fleet[0].call("GET", f"/api/notifications/{broadcast}")))
        began = time.monotonic()
        try:
            codes = await asyncio.gather(*(member.stop() for member in fleet))
        finally:
            scene.postgres.resume()
        figures("seconds to the end", took := round(time.monotonic() - began, 1))
        said = [member.log.read_text() for member in fleet]
    assert codes == [0, 0, 0]
    answers = await asyncio.gather(*hanging)
    assert [(answer.status, "retry-after" in answer.headers) for answer in answers] == [(503, True)] * 4
    # to be told to end, to write the last outcomes, and to say good-bye: each has its own few seconds
    assert took < DRAIN + SLACK
    assert not any("Traceback" in text for text in said), said
    async with scene.fleet("api", "worker") as (api, _):
        assert await all_final(api, broadcast, within=150) == {"delivered": 300}
    books = await scene.books()
    figures("duplicates", f"{books.duplicates}, promised ≤ {TWICE_AT_MOST}")
    books.check(scene.people, at_most_twice=TWICE_AT_MOST)


async def test_an_idle_process_ends_while_the_database_hangs(stage: Stage, own_postgres: PostgresServer) -> None:
    scene = await stage(20, on=own_postgres)
    async with scene.fleet("api", "worker", TIDINGS_DRAIN_SECONDS=str(DRAIN)) as fleet:
        await all_final(fleet[0], await notify(fleet[0], to_one(scene.people[0])))
        scene.postgres.pause()
        try:
            assert await asyncio.gather(*(member.stop(DRAIN + SLACK) for member in fleet)) == [0, 0]
        finally:
            scene.postgres.resume()


async def _accepted(api: Member, user: str) -> str | None:
    with suppress(AssertionError, BackendError):
        return await notify(api, to_one(user), key="meanwhile-0")
    return None
