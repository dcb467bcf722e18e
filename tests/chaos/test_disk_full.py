"""The disk of `tidings serve` is full: nothing is promised, reading works, and it goes on by itself later."""

import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tidings.testing.disk import Disk
from tidings.testing.mock_push import SpawnedMockPush
from tidings.testing.server import TidingsServer, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

Figures = Callable[[str, object], None]
SmallDisk = Callable[[int], Disk]
PEOPLE = [f"u{number}" for number in range(10)]
SIZE_MB = 64


async def test_a_full_disk_promises_nothing_and_is_forgiven(
    small_disk: SmallDisk, tmp_path: Path, push: SpawnedMockPush, figures: Figures
) -> None:
    await push.control.reset()
    settings = {"TIDINGS_PUSH_EXTRA_HOSTS": push.origin.removeprefix("http://"), "TIDINGS_USER_LIMIT": "0"}
    disk = small_disk(SIZE_MB)
    server = TidingsServer(disk.folder / "data", settings=settings, log=tmp_path / "log")
    async with server:
        await _sign_up(server, push)
        promised = [await _told(server, "before", PEOPLE[0])]
        figures("MB filled", round(disk.fill() / 1e6, 1))
        statuses: Counter[int] = Counter()
        # what the database file and its log had as room of their own is used up first
        while statuses[503] < 5:
            assert statuses.total() < 2000, statuses
            answer = await _ask(server, f"meanwhile-{statuses.total()}", PEOPLE[statuses.total() % 10])
            statuses[answer.status] += 1
            if answer.status == 202:
                promised.append(answer.read(dict[str, Any])["id"])
            else:
                assert int(answer.headers["retry-after"]) >= 1
        figures("answers with a full disk", dict(statuses))
        assert set(statuses) <= {202, 503}
        await server.expect(200, "GET", f"/api/notifications/{promised[0]}")
        await server.expect(200, "GET", f"/api/users/{PEOPLE[0]}")
        await server.expect(200, "GET", "/health/live", token=None)
        pid = server.pid
        disk.free()
        promised.append(await eventually(lambda: _accepted(server, "after", PEOPLE[1]), within=20, pause=0.2))
        for notification in promised:
            assert (await server.finished(notification, within=60)).by_state == {"delivered": 1}
        assert (await _told(server, "before", PEOPLE[0])) == promised[0]
        assert server.pid == pid
        assert await server.stop() == 0
    receipts = Counter({(device, topic): count for device, topic, count in await push.control.receipts()})
    with closing(sqlite3.connect(server.data_dir / "tidings.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        stored = {row[0] for row in database.execute("SELECT id FROM notifications")}
        states = Counter(row[0] for row in database.execute("SELECT state FROM deliveries"))
    assert stored == set(promised), "what was not promised is not there, and the reverse"
    assert states == {"delivered": len(promised)}
    assert len(receipts) == len(promised)
    figures("duplicates", receipts.total() - len(receipts))
    assert receipts.total() == len(receipts)


async def _sign_up(server: TidingsServer, push: SpawnedMockPush) -> None:
    for name in PEOPLE:
        await server.expect(201, "PUT", f"/api/users/{name}", {})
        device = {**(await push.control.subscription(name)), "device": "Phone"}
        await server.expect(201, "POST", "/api/push/subscribe", device, token=server.user_token(name))


async def _ask(server: TidingsServer, key: str, user: str) -> Any:
    body = {"userId": user, "templateCode": "MESSAGE", "variables": {"title": "Hello", "body": "x" * 500}}
    return await server.call("POST", "/api/notifications", body, headers={"Idempotency-Key": key})


async def _told(server: TidingsServer, key: str, user: str) -> str:
    answer = await _ask(server, key, user)
    assert answer.status == 202, answer.body
    return str(answer.read(dict[str, Any])["id"])


async def _accepted(server: TidingsServer, key: str, user: str) -> str | None:
    answer = await _ask(server, key, user)
    return answer.read(dict[str, Any])["id"] if answer.status == 202 else None
