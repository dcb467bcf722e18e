"""In the middle of a large send: a stop, a cancellation, a database that stalls, a sender process that dies."""

import os
import signal
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tidings.testing.mock_push import Rule, SpawnedMockPush
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
SIZES = {"TIDINGS_WORKER_CONCURRENCY": str(IN_FLIGHT), "TIDINGS_FLUSH_ROWS": str(UNFLUSHED)}


async def notify(server: TidingsServer) -> str:
    notification: str = (await server.expect(202, "POST", "/api/notifications", TO_ALL)).read(dict[str, Any])["id"]
    return notification


async def test_a_stop_sends_nothing_twice(crowd: Crowd, audit: Any, push: SpawnedMockPush, figures: Figures) -> None:
    people = 3000
    server = await crowd(people, **SIZES)
    await push.control.behave(Rule(delay_ms=20))
    async with server:
        notification = await notify(server)
        await push.control.wait_for(accepted=people // 3)
        asked = time.monotonic()
        assert await server.stop(within=35) == 0
        figures("seconds to stop", round(time.monotonic() - asked, 2))
        assert (await push.control.stats()).accepted < people
        await server.restart()
        assert (await server.finished(notification)).by_state == {"delivered": people}
    books = await audit(server)
    books.check(people)
    assert books.duplicates == 0


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one-process", "two-senders"])
async def test_after_a_confirmed_cancellation_only_what_is_in_flight_arrives(
    crowd: Crowd, push: SpawnedMockPush, figures: Figures, options: tuple[str, ...]
) -> None:
    people = 5000
    server = await crowd(people, *options, **SIZES)
    # slow enough that many more are claimed than are in flight
    await push.control.behave(Rule(delay_ms=50))
    async with server:
        notification = await notify(server)
        await push.control.wait_for(accepted=people // 5)
        await server.expect(200, "DELETE", f"/api/notifications/{notification}")
        at_once = (await push.control.stats()).received
        progress = await server.finished(notification)
        in_the_end = await push.control.stats()
        figures("arrived after the confirmation", in_the_end.received - at_once)
        assert progress.status == "cancelled"
        assert set(progress.by_state) == {"delivered", "cancelled"}
        assert progress.by_state["delivered"] == in_the_end.accepted == in_the_end.distinct
        assert in_the_end.received - at_once <= IN_FLIGHT
        # asked again, the answer is the same
        await server.expect(200, "DELETE", f"/api/notifications/{notification}")


async def test_a_database_that_stalls_stops_the_sending(
    crowd: Crowd, audit: Any, push: SpawnedMockPush, figures: Figures
) -> None:
    """What is sent and not yet written must stay bounded, because a kill would send it again."""
    people = 3000
    server = await crowd(people, **SIZES)
    async with server:
        notification = await notify(server)
        await push.control.wait_for(accepted=people // 10)
        with closing(sqlite3.connect(server.data_dir / "tidings.db", isolation_level=None)) as database:
            database.execute("PRAGMA busy_timeout = 5000")
            database.execute("BEGIN IMMEDIATE")
            unwritten = await _standstill(push) - _written(database)
            await server.kill()
            database.execute("ROLLBACK")
        await server.restart()
        assert (await server.finished(notification)).by_state == {"delivered": people}
    books = await audit(server)
    figures("sent and not written during the stall", unwritten)
    figures("duplicates", books.duplicates)
    books.check(people)
    assert books.duplicates <= IN_FLIGHT + UNFLUSHED


async def _standstill(push: SpawnedMockPush) -> int:
    """Return how many messages were taken, once no more come."""
    seen: list[int] = []

    async def no_more() -> bool:
        seen.append((await push.control.stats()).accepted)
        return len(seen) > 5 and len(set(seen[-5:])) == 1

    await eventually(no_more, within=30, pause=0.2)
    return seen[-1]


def _written(database: sqlite3.Connection) -> int:
    ((number,),) = database.execute("SELECT count(*) FROM deliveries WHERE state = 'delivered'").fetchall()
    return int(number)


async def test_a_killed_sender_process_is_replaced_and_loses_nobody(
    crowd: Crowd, audit: Any, push: SpawnedMockPush, figures: Figures
) -> None:
    people = 1500
    server = await crowd(people, "--workers", "2", **SIZES)
    async with server:
        notification = await notify(server)
        await push.control.wait_for(accepted=300)
        first = children(server.pid)
        assert len(first) == 2
        os.kill(first[0], signal.SIGKILL)
        progress = await server.finished(notification, within=40)
        assert progress.by_state == {"delivered": people}

        async def replaced() -> bool:
            return len(children(server.pid)) == 2

        await eventually(replaced)
        left = children(server.pid)
        await server.kill()

        async def vanished() -> bool:
            return not any(alive(pid) for pid in left)

        await eventually(vanished)
    books = await audit(server)
    figures("duplicates", books.duplicates)
    books.check(people)
    assert books.duplicates <= IN_FLIGHT


def children(parent: int) -> list[int]:
    """Return the sender processes of a server."""
    found = []
    for tasks in Path(f"/proc/{parent}/task").iterdir():
        found += [int(pid) for pid in (tasks / "children").read_text().split()]
    return [pid for pid in found if b"sender_process" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def alive(pid: int) -> bool:
    """Say whether a process still runs; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
