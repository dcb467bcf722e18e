"""PostgreSQL on a full disk: no confirmed request is lost, and the service recovers once there is space.

If the write-ahead log (WAL) is on another disk, PostgreSQL rejects statements that need space. If the WAL is on the
full disk too, PostgreSQL stops, and the operator who frees space starts it again.
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
from tests.support.chaos_cluster import ChaosCluster, notify, wait_until_final
from tests.support.limited_filesystem import LimitedFilesystem
from tests.support.load import LoadGenerator
from tests.support.server import eventually

from tidings.mockpush import ResponseRule
from tidings.testing.postgres import PostgresServer

pytestmark = pytest.mark.asyncio(loop_scope="session")

ClusterFactory = Callable[..., Awaitable[ChaosCluster]]
RecordMeasurement = Callable[[str, object], None]
PEOPLE = 300
SIZE_MB = 300
#: of both workers: sends in flight and outcomes not yet recorded, where a crash lost some
MAX_DUPLICATES = 2 * (50 + 50)


@pytest.mark.extended
@pytest.mark.parametrize("log_elsewhere", [True, False], ids=["refuses", "stops"])
async def test_a_full_disk_loses_no_confirmed_request_and_the_service_recovers(
    create_cluster: ClusterFactory,
    small_disk: Callable[[int], LimitedFilesystem],
    record_measurement: RecordMeasurement,
    log_elsewhere: bool,
) -> None:
    disk = small_disk(SIZE_MB)
    with PostgresServer(parent_folder=disk.folder) as server:
        if log_elsewhere:
            _move_wal(server, disk.folder.parent / "wal")
        cluster = await create_cluster(PEOPLE, on=server)
        await cluster.push_service.control.set_rules(ResponseRule(delay_ms=20))
        async with cluster.start_processes("api", "worker", "worker") as processes:
            api, pids = processes[0], [process.pid for process in processes]
            broadcast = await notify(api)
            load = LoadGenerator(api, list(cluster.user_ids))
            load.start()
            await cluster.wait_for_accepted(PEOPLE // 4)
            record_measurement("MB filled", round(disk.fill() / 1e6, 1))
            # free space inside PostgreSQL's files is used up first
            await eventually(partial(load.has_rejected, 20), within=90)
            accepted_count = len(load.accepted)
            await api.expect(200, "GET", "/health/live", token=None)
            if log_elsewhere:
                await api.expect(200, "GET", f"/api/notifications/{broadcast}")
            else:
                await eventually(partial(_has_stopped, server), within=60)
            disk.free()
            if not log_elsewhere:
                await asyncio.to_thread(server.start)
            freed = time.monotonic()
            await eventually(partial(load.has_accepted, accepted_count + 4), within=60)
            record_measurement("seconds until requests were accepted again", round(time.monotonic() - freed, 1))
            assert await wait_until_final(api, broadcast, within=150) == {"delivered": PEOPLE}
            await load.stop_and_verify()
            assert [process.pid for process in processes] == pids
            logs = [process.log.read_text() for process in processes]
        record_measurement("answers", dict(load.status_counts))
        assert not any("Traceback" in text for text in logs), "a full disk must not cause an unhandled error"
        audit = await cluster.audit()
    record_measurement("duplicates", f"{audit.duplicates}, promised ≤ {MAX_DUPLICATES}")
    load.check_audit(audit, broadcast, max_duplicates=MAX_DUPLICATES)


def _move_wal(server: PostgresServer, target: Path) -> None:
    """Move the write-ahead log to a disk with free space."""
    server.stop()
    log = server.socket_folder / "pg_wal"
    shutil.copytree(log, target)
    for path in (target, *target.rglob("*")):
        shutil.chown(path, log.owner(), log.group())
    shutil.rmtree(log)
    log.symlink_to(target)
    server.start()


async def _has_stopped(server: PostgresServer) -> bool:
    """Return whether the server has stopped; until then, fill the free space inside its log."""
    with suppress(subprocess.CalledProcessError):
        await asyncio.to_thread(server.run_sql, "SELECT txid_current(), pg_switch_wal()")
    return not await asyncio.to_thread(lambda: server.is_running)
