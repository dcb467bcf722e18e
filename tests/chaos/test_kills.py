"""SIGKILL at random moments: nobody is lost, and what is sent twice stays within the promised bound."""

import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from tidings.testing.mock_push import SpawnedMockPush
from tidings.testing.server import TidingsServer, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

Crowd = Callable[..., Awaitable[TidingsServer]]
Figures = Callable[[str, object], None]
TO_ALL = {
    "templateCode": "MESSAGE",
    "audience": {"kind": "everyone"},
    "variables": {"title": "Hello", "body": "Everybody"},
}
IN_FLIGHT, UNFLUSHED = 100, 100
#: what one kill may send twice: sends in flight, and outcomes not yet written
TWICE_AT_MOST = IN_FLIGHT + UNFLUSHED
#: small pages and batches make both halves long enough to be hit: planning, and sending
SMALL = {
    "TIDINGS_PAGE_SIZE": "50",
    "TIDINGS_BATCH_SIZE": "50",
    "TIDINGS_WORKER_CONCURRENCY": str(IN_FLIGHT),
    "TIDINGS_FLUSH_ROWS": str(UNFLUSHED),
}


@dataclass(frozen=True)
class Case:
    """One run."""

    people: int
    kills: int
    seed: int
    options: tuple[str, ...] = ()


async def notify(server: TidingsServer, wanted: Mapping[str, object] = TO_ALL) -> str:
    answer = await server.expect(202, "POST", "/api/notifications", wanted)
    notification: str = answer.read(dict[str, Any])["id"]
    return notification


async def run(case: Case, crowd: Crowd, audit: Any, push: SpawnedMockPush, figures: Figures) -> None:
    moments = random.Random(case.seed)
    server = await crowd(case.people, *case.options, **SMALL)
    started = time.monotonic()
    async with server:
        notification = await notify(server)
        recoveries = []
        for kill in range(case.kills):
            # by progress and not by the clock, so that every kill hits work, however fast the machine is
            await _taken(push, round(case.people * (kill + moments.random()) / (case.kills + 1)))
            await server.kill()
            before = (await push.control.stats()).distinct
            dead = time.monotonic()
            await server.restart()
            up = time.monotonic()
            await _taken(push, before + 1, "distinct")
            recoveries.append((round(up - dead, 2), round(time.monotonic() - up, 2)))
        progress = await server.finished(notification, within=60)
        took = time.monotonic() - started
        assert progress.by_state == {"delivered": case.people}
        assert await server.stop() == 0
    books = await audit(server)
    figures("duplicates", books.duplicates)
    figures("restart and first new send, s", recoveries)
    figures("seconds", round(took, 1))
    books.check(case.people)
    assert books.duplicates <= case.kills * TWICE_AT_MOST


async def _taken(push: SpawnedMockPush, number: int, counter: str = "accepted") -> None:
    await push.control.wait_for(timeout=60, **{counter: number})


@pytest.mark.parametrize(
    "case",
    [
        Case(3000, 2, 1),
        Case(1500, 1, 2, ("--workers", "2")),
        pytest.param(Case(10_000, 20, 3), marks=pytest.mark.long),
        pytest.param(Case(10_000, 20, 4, ("--workers", "2")), marks=pytest.mark.long),
    ],
    ids=lambda case: f"{case.people}-people-{case.kills}-kills{'-'.join(case.options)}",
)
async def test_nobody_is_lost_when_the_server_is_killed_while_it_sends(
    case: Case, crowd: Crowd, audit: Any, push: SpawnedMockPush, figures: Figures
) -> None:
    await run(case, crowd, audit, push, figures)


async def test_nobody_is_lost_when_the_server_is_killed_while_it_plans(
    crowd: Crowd, audit: Any, push: SpawnedMockPush, figures: Figures
) -> None:
    people, shares = 1000, (0.2, 0.6)
    server = await crowd(people, **{**SMALL, "TIDINGS_PAGE_SIZE": "10"})
    async with server:
        notification = await notify(server)
        planned = 0
        for share in shares:
            planned = await _planned(server, notification, round(people * share))
            await server.kill()
            assert planned < people
            await server.restart()
        figures("planned at the last kill", planned)
        progress = await server.finished(notification, within=60)
        assert progress.by_state == {"delivered": people}
        assert await server.stop() == 0
    books = await audit(server)
    figures("duplicates", books.duplicates)
    books.check(people)
    assert books.duplicates <= len(shares) * TWICE_AT_MOST


async def _planned(server: TidingsServer, notification: str, least: int) -> int:
    async def enough() -> int | None:
        recipients = (await server.progress(notification)).recipients
        return recipients if recipients >= least else None

    return await eventually(enough, pause=0)


async def test_what_was_promised_is_done_after_a_kill_at_once(crowd: Crowd, audit: Any) -> None:
    server = await crowd(200, **SMALL)
    async with server:
        notification = await notify(server)
        await server.kill()
        await server.restart()
        assert (await server.finished(notification)).by_state == {"delivered": 200}
    (await audit(server)).check(200)


async def test_what_waits_for_its_time_survives_a_kill(crowd: Crowd, audit: Any, push: SpawnedMockPush) -> None:
    server = await crowd(200, **SMALL)
    async with server:
        notification = await notify(server, {**TO_ALL, "options": {"delay": 3000}})
        await server.kill()
        assert (await push.control.stats()).received == 0
        await server.restart()
        assert (await server.finished(notification)).by_state == {"delivered": 200}
    (await audit(server)).check(200)
