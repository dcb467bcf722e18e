"""Real servers that are killed while they start later steps and release held messages: none is lost."""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.support.server import TidingsServer, eventually

from tidings.mockpush import SpawnedMockPush

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]
ServerFactory = Callable[..., Awaitable[TidingsServer]]
USER_COUNT = 120
USERS = [f"u{number:04}" for number in range(USER_COUNT)]
MESSAGE = {"templateCode": "MESSAGE", "audience": {"kind": "everyone"}, "variables": {"title": "Hi", "body": "All"}}
IN_FLIGHT = 10
#: small pages, so that starting the steps of all users takes many transactions
SETTINGS = {
    "TIDINGS_INAPP__ENABLED": "true",
    "TIDINGS_PAGE_SIZE": "3",
    "TIDINGS_WORKER_CONCURRENCY": str(IN_FLIGHT),
    "TIDINGS_FLUSH_ROWS": str(IN_FLIGHT),
}
#: tables and conditions
STARTED = ("waiting_steps", "started_at IS NOT NULL")
HELD = ("deliveries", "held_by = 'quiet_hours'")
SENDING = ("deliveries", "state <> 'pending'")
#: repeated messages per kill: sends in flight, and outcomes that are not recorded
MAX_REPEATS = 2 * IN_FLIGHT
KILLS = pytest.mark.parametrize("kills", [1, pytest.param(3, marks=pytest.mark.extended)])


async def notify(server: TidingsServer, **options: object) -> str:
    response = await server.expect(202, "POST", "/api/notifications", {**MESSAGE, "options": options})
    return str(response.read(Json)["id"])


def count(server: TidingsServer, table: str, condition: str) -> int:
    """Return the number of rows. table, condition: written in this file."""
    with closing(sqlite3.connect(server.data_dir / "tidings.db")) as database:
        ((number,),) = database.execute(f"SELECT count(*) FROM {table} WHERE {condition}").fetchall()
    return int(number)


async def wait_for_rows(server: TidingsServer, table: str, condition: str, *, at_least: int) -> None:
    """Wait for progress, so that a kill hits work on any machine."""

    async def has_rows() -> bool:
        return count(server, table, condition) >= at_least

    await eventually(has_rows, within=60, pause=0)


async def count_received(push: SpawnedMockPush) -> Counter[str]:
    """Return device → messages."""
    received: Counter[str] = Counter()
    for device, _, count in await push.control.receipts():
        received[device] += count
    return received


@KILLS
async def test_c38_kills_while_later_steps_start_start_each_of_them_once(
    create_server: ServerFactory, push: SpawnedMockPush, kills: int
) -> None:
    server = await create_server(USER_COUNT, **SETTINGS)
    async with server:
        steps = [{"channels": ["inapp"]}, {"channels": ["webpush"], "afterSeconds": 1, "unless": "seen"}]
        notification = await notify(server, steps=steps)
        for number in range(kills):
            await wait_for_rows(server, *STARTED, at_least=1 + number * USER_COUNT // kills)
            await server.kill()
            await server.start()
        progress = await server.wait_until_finished(notification)
        assert progress.by_state == {"delivered": 2 * USER_COUNT}
        assert (progress.deliveries, progress.skipped) == (2 * USER_COUNT, 0)
        assert count(server, *STARTED) == USER_COUNT
    received = await count_received(push)
    assert set(received) == set(USERS)
    assert received.total() <= USER_COUNT + kills * MAX_REPEATS


@KILLS
async def test_c26_kills_while_held_messages_are_released_lose_none(
    create_server: ServerFactory, push: SpawnedMockPush, kills: int
) -> None:
    start, end = (f"{datetime.now(UTC) + timedelta(hours=hours):%H:%M}" for hours in (-2, 2))
    server = await create_server(USER_COUNT, TIDINGS_QUIET_HOURS=f"{start}-{end}", **SETTINGS)
    async with server:
        notification = await notify(server, channels=["webpush"])
        await wait_for_rows(server, *HELD, at_least=USER_COUNT)
        assert await count_received(push) == {}
        for _ in range(kills):
            await release_until_killed(server)
        await release(server, USERS)
        assert (await server.wait_until_finished(notification)).by_state == {"delivered": USER_COUNT}
    received = await count_received(push)
    assert set(received) == set(USERS)
    assert received.total() <= USER_COUNT + kills * MAX_REPEATS


async def release_until_killed(server: TidingsServer) -> None:
    """End the quiet hours of all users, and kill the server while it releases their messages; then start it again."""
    releasing = asyncio.create_task(release(server, USERS))
    await wait_for_rows(server, *SENDING, at_least=min(USER_COUNT, count(server, *SENDING) + 1))
    await server.kill()
    await asyncio.gather(releasing, return_exceptions=True)
    await server.start()


async def release(server: TidingsServer, users: Sequence[str]) -> None:
    """End the quiet hours of users, one after another. Raises BackendError if the server does not respond."""
    for user in users:
        await server.expect(200, "PUT", f"/api/users/{user}/schedule", {"quietHours": []})
