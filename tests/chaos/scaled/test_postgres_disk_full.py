"""The disk of PostgreSQL is full: nothing is promised that is not kept, and all goes on once there is room again.

Where its log (WAL) lies on another disk it refuses what needs room. Where that is on the full one too it stops, does
not come back, and is started again by whoever made room.
"""

import asyncio
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tidings.testing.disk import Disk
from tidings.testing.load import Load
from tidings.testing.mock_push import Rule
from tidings.testing.postgres import PostgresServer
from tidings.testing.scene import Scene, all_final, notify
from tidings.testing.server import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

Stage = Callable[..., Awaitable[Scene]]
Figures = Callable[[str, object], None]
PEOPLE = 300
SIZE_MB = 300
#: of both workers: the sends in flight and the outcomes not yet written, where a crash took some with it
TWICE_AT_MOST = 2 * (50 + 50)


@pytest.mark.parametrize("log_elsewhere", [True, False], ids=["refuses", "stops"])
async def test_a_full_disk_promises_nothing_and_is_forgiven(
    stage: Stage, small_disk: Callable[[int], Disk], tmp_path: Path, figures: Figures, log_elsewhere: bool
) -> None:
    disk = small_disk(SIZE_MB)
    with PostgresServer(within=disk.folder) as server:
        if log_elsewhere:
            _move_log(server, tmp_path / "wal")
        scene = await stage(PEOPLE, on=server)
        await scene.push.control.behave(Rule(delay_ms=20))
        async with scene.fleet("api", "worker", "worker") as fleet:
            api, pids = fleet[0], [member.pid for member in fleet]
            broadcast = await notify(api)
            load = Load(api, list(scene.people))
            load.begin()
            await scene.taken(PEOPLE // 4)
            figures("MB filled", round(disk.fill() / 1e6, 1))
            # what its files have as room of their own is used up first
            await eventually(partial(load.was_refused, 20), within=90)
            promised = len(load.promised)
            await api.expect(200, "GET", "/health/live", token=None)
            if log_elsewhere:
                await api.expect(200, "GET", f"/api/notifications/{broadcast}")
            else:
                await eventually(partial(_stopped, server), within=60)
            disk.free()
            if not log_elsewhere:
                await asyncio.to_thread(server.start)
            room = time.monotonic()
            await eventually(partial(load.has_promised, promised + 4), within=60)
            figures("seconds until requests were accepted again", round(time.monotonic() - room, 1))
            assert await all_final(api, broadcast, within=150) == {"delivered": PEOPLE}
            await load.kept()
            assert [member.pid for member in fleet] == pids
            said = [member.log.read_text() for member in fleet]
        figures("answers", dict(load.statuses))
        assert not any("Traceback" in text for text in said), "a full disk is no bug"
        books = await scene.books()
    figures("duplicates", f"{books.duplicates}, promised ≤ {TWICE_AT_MOST}")
    load.check(books, broadcast, at_most_twice=TWICE_AT_MOST)


def _move_log(server: PostgresServer, where: Path) -> None:
    """Put the write-ahead log on a disk that has room."""
    server.stop()
    log = server.socket_folder / "pg_wal"
    shutil.copytree(log, where)
    for path in (where, *where.rglob("*")):
        shutil.chown(path, log.owner(), log.group())
    shutil.rmtree(log)
    log.symlink_to(where)
    server.start()


async def _stopped(server: PostgresServer) -> bool:
    """Whether it has stopped; until then, use up what its log has as room of its own."""
    with suppress(subprocess.CalledProcessError):
        await asyncio.to_thread(server.sql, "SELECT txid_current(), pg_switch_wal()")
    return not await asyncio.to_thread(lambda: server.running)
