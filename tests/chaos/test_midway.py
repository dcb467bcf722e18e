"""Events in the middle of a broadcast: a stop, a cancellation, a stalled database, a killed sender process."""

import os
import signal
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.support.server import TidingsServer, eventually

from tidings.mockpush import ResponseRule, SpawnedMockPush

pytestmark = pytest.mark.asyncio(loop_scope="module")

ServerFactory = Callable[..., Awaitable[TidingsServer]]
RecordMeasurement = Callable[[str, object], None]
BROADCAST = {
    "templateCode": "MESSAGE",
    "audience": {"kind": "everyone"},
    "variables": {"title": "Hello", "body": "Everybody"},
}
IN_FLIGHT, UNFLUSHED = 100, 100
SETTINGS = {"TIDINGS_WORKER_CONCURRENCY": str(IN_FLIGHT), "TIDINGS_FLUSH_ROWS": str(UNFLUSHED)}


async def notify(server: TidingsServer) -> str:
    notification: str = (await server.expect(202, "POST", "/api/notifications", BROADCAST)).read(dict[str, Any])["id"]
    return notification


@pytest.mark.extended
async def test_a_stop_sends_nothing_twice(
    create_server: ServerFactory, audit: Any, push: SpawnedMockPush, record_measurement: RecordMeasurement
) -> None:
    user_count = 3000
    server = await create_server(user_count, **SETTINGS)
    await push.control.set_rules(ResponseRule(delay_ms=20))
    async with server:
        notification = await notify(server)
        await push.control.wait_for(accepted=user_count // 3)
        stop_requested_at = time.monotonic()
        assert await server.stop(within=35) == 0
        record_measurement("seconds to stop", round(time.monotonic() - stop_requested_at, 2))
        assert (await push.control.stats()).accepted < user_count
        await server.restart()
        assert (await server.wait_until_finished(notification)).by_state == {"delivered": user_count}
    result = await audit(server)
    result.check(user_count)
    assert result.duplicates == 0


@pytest.mark.parametrize(
    "options", [(), pytest.param(("--workers", "2"), marks=pytest.mark.extended)], ids=["one-process", "two-senders"]
)
async def test_after_a_confirmed_cancellation_only_what_is_in_flight_arrives(
    create_server: ServerFactory, push: SpawnedMockPush, record_measurement: RecordMeasurement, options: tuple[str, ...]
) -> None:
    user_count = 5000
    server = await create_server(user_count, *options, **SETTINGS)
    # slow enough that many more deliveries are claimed than are in flight
    await push.control.set_rules(ResponseRule(delay_ms=50))
    async with server:
        notification = await notify(server)
        await push.control.wait_for(accepted=user_count // 5)
        await server.expect(200, "DELETE", f"/api/notifications/{notification}")
        received_at_confirmation = (await push.control.stats()).received
        progress = await server.wait_until_finished(notification)
        received_finally = await push.control.stats()
        record_measurement("arrived after the confirmation", received_finally.received - received_at_confirmation)
        assert progress.status == "cancelled"
        assert set(progress.by_state) == {"delivered", "cancelled"}
        assert progress.by_state["delivered"] == received_finally.accepted == received_finally.distinct
        assert received_finally.received - received_at_confirmation <= IN_FLIGHT
        # a repeated cancellation gets the same response
        await server.expect(200, "DELETE", f"/api/notifications/{notification}")


@pytest.mark.extended
async def test_a_stalled_database_stops_the_sending(
    create_server: ServerFactory, audit: Any, push: SpawnedMockPush, record_measurement: RecordMeasurement
) -> None:
    """Sends without a recorded outcome must stay bounded, because a kill would repeat them."""
    user_count = 3000
    server = await create_server(user_count, **SETTINGS)
    async with server:
        notification = await notify(server)
        await push.control.wait_for(accepted=user_count // 10)
        with closing(sqlite3.connect(server.data_dir / "tidings.db", isolation_level=None)) as database:
            database.execute("PRAGMA busy_timeout = 5000")
            database.execute("BEGIN IMMEDIATE")
            unwritten = await _wait_for_standstill(push) - _count_delivered(database)
            await server.kill()
            database.execute("ROLLBACK")
        await server.restart()
        assert (await server.wait_until_finished(notification)).by_state == {"delivered": user_count}
    result = await audit(server)
    record_measurement("sent and not written during the stall", unwritten)
    record_measurement("duplicates", result.duplicates)
    result.check(user_count)
    assert result.duplicates <= IN_FLIGHT + UNFLUSHED


async def _wait_for_standstill(push: SpawnedMockPush) -> int:
    """Return how many messages were received, once no more arrive."""
    seen: list[int] = []

    async def no_more() -> bool:
        seen.append((await push.control.stats()).accepted)
        return len(seen) > 5 and len(set(seen[-5:])) == 1

    await eventually(no_more, within=30, pause=0.2)
    return seen[-1]


def _count_delivered(database: sqlite3.Connection) -> int:
    ((number,),) = database.execute("SELECT count(*) FROM deliveries WHERE state = 'delivered'").fetchall()
    return int(number)


@pytest.mark.extended
async def test_a_killed_sender_process_is_replaced_and_no_user_is_missed(
    create_server: ServerFactory, audit: Any, push: SpawnedMockPush, record_measurement: RecordMeasurement
) -> None:
    user_count = 1500
    server = await create_server(user_count, "--workers", "2", **SETTINGS)
    async with server:
        notification = await notify(server)
        await push.control.wait_for(accepted=300)
        first = list_sender_processes(server.pid)
        assert len(first) == 2
        os.kill(first[0], signal.SIGKILL)
        progress = await server.wait_until_finished(notification)
        assert progress.by_state == {"delivered": user_count}

        async def replaced() -> bool:
            return len(list_sender_processes(server.pid)) == 2

        await eventually(replaced)
        left = list_sender_processes(server.pid)
        await server.kill()

        async def vanished() -> bool:
            return not any(is_alive(pid) for pid in left)

        await eventually(vanished)
    result = await audit(server)
    record_measurement("duplicates", result.duplicates)
    result.check(user_count)
    assert result.duplicates <= IN_FLIGHT


def list_sender_processes(parent: int) -> list[int]:
    """Return the sender processes of a server."""
    found = []
    for tasks in Path(f"/proc/{parent}/task").iterdir():
        found += [int(pid) for pid in (tasks / "children").read_text().split()]
    return [pid for pid in found if b"sender_pool.child" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def is_alive(pid: int) -> bool:
    """Return whether a process is running; a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
