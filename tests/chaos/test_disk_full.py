"""`tidings serve` on a full disk: writes are refused, reads work, and the server recovers by itself."""

import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.support.limited_filesystem import LimitedFilesystem
from tests.support.server import TidingsServer, eventually

from tidings.mockpush import SpawnedMockPush

pytestmark = pytest.mark.asyncio(loop_scope="module")

RecordMeasurement = Callable[[str, object], None]
FilesystemFactory = Callable[[int], LimitedFilesystem]
USER_IDS = [f"u{number}" for number in range(10)]
SIZE_MB = 64


async def test_a_full_disk_refuses_writes_and_the_server_recovers(
    small_disk: FilesystemFactory, tmp_path: Path, push: SpawnedMockPush, record_measurement: RecordMeasurement
) -> None:
    await push.control.reset()
    settings = {"TIDINGS_PUSH_EXTRA_HOSTS": push.origin.removeprefix("http://"), "TIDINGS_USER_LIMIT": "0"}
    disk = small_disk(SIZE_MB)
    server = TidingsServer(disk.folder / "data", settings=settings, log=tmp_path / "log")
    async with server:
        await _register_users(server, push)
        accepted = [await _notify(server, "before", USER_IDS[0])]
        record_measurement("MB filled", round(disk.fill() / 1e6, 1))
        statuses: Counter[int] = Counter()
        # free space inside the database file and its log is used up first
        while statuses[503] < 5:
            assert statuses.total() < 2000, statuses
            response = await _post_notification(
                server, f"meanwhile-{statuses.total()}", USER_IDS[statuses.total() % 10]
            )
            statuses[response.status] += 1
            if response.status == 202:
                accepted.append(response.read(dict[str, Any])["id"])
            else:
                assert int(response.headers["retry-after"]) >= 1
        record_measurement("answers with a full disk", dict(statuses))
        assert set(statuses) <= {202, 503}
        await server.expect(200, "GET", f"/api/notifications/{accepted[0]}")
        await server.expect(200, "GET", f"/api/users/{USER_IDS[0]}")
        await server.expect(200, "GET", "/health/live", token=None)
        pid = server.pid
        disk.free()
        accepted.append(await eventually(lambda: _try_notify(server, "after", USER_IDS[1]), within=20, pause=0.2))
        for notification in accepted:
            assert (await server.wait_until_finished(notification)).by_state == {"delivered": 1}
        assert (await _notify(server, "before", USER_IDS[0])) == accepted[0]
        assert server.pid == pid
        assert await server.stop() == 0
    receipts = Counter({(device, topic): count for device, topic, count in await push.control.receipts()})
    with closing(sqlite3.connect(server.data_dir / "tidings.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        stored = {row[0] for row in database.execute("SELECT id FROM notifications")}
        states = Counter(row[0] for row in database.execute("SELECT state FROM deliveries"))
    assert stored == set(accepted), "exactly the accepted notifications must be stored"
    assert states == {"delivered": len(accepted)}
    assert len(receipts) == len(accepted)
    record_measurement("duplicates", receipts.total() - len(receipts))
    assert receipts.total() == len(receipts)


async def _register_users(server: TidingsServer, push: SpawnedMockPush) -> None:
    for name in USER_IDS:
        await server.expect(201, "PUT", f"/api/users/{name}", {})
        device = {**(await push.control.subscription(name)), "device": "Phone"}
        await server.expect(201, "POST", "/api/push/subscribe", device, token=server.user_token(name))


async def _post_notification(server: TidingsServer, key: str, user: str) -> Any:
    body = {"userId": user, "templateCode": "MESSAGE", "variables": {"title": "Hello", "body": "x" * 500}}
    return await server.call("POST", "/api/notifications", body, headers={"Idempotency-Key": key})


async def _notify(server: TidingsServer, key: str, user: str) -> str:
    response = await _post_notification(server, key, user)
    assert response.status == 202, response.body
    return str(response.read(dict[str, Any])["id"])


async def _try_notify(server: TidingsServer, key: str, user: str) -> str | None:
    response = await _post_notification(server, key, user)
    return response.read(dict[str, Any])["id"] if response.status == 202 else None
