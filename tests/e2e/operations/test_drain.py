"""Drain on SIGTERM: sends in flight finish, another process sends the rest once, new requests are refused.

A second signal and hanging sends are covered by `test_processes.py`.
"""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from tests.support.cluster import ServerProcess
from tests.support.installation import Installation
from tests.support.server import ADMIN_KEY, eventually

from tidings.mockpush import ResponseRule, SpawnedMockPush
from tidings.testing.postgres import PostgresServer
from tidings.testing.valkey import ValkeyServer

pytestmark = pytest.mark.asyncio(loop_scope="session")

USERS = [f"drain-{number:02}" for number in range(20)]
#: seconds: the drain timeout, and the extra time for ending a process on a slow machine
DRAIN, SLACK = 5.0, 8.0


@pytest_asyncio.fixture(loop_scope="session", params=["serve", "worker"])
async def single_sender(
    request: pytest.FixtureRequest,
    push: SpawnedMockPush,
    postgres: PostgresServer,
    valkey: ValkeyServer,
    tmp_path: Path,
) -> AsyncIterator[tuple[Installation, ServerProcess]]:
    """An installation with one sending process, and that process. A worker is not started yet."""
    settings = {
        "TIDINGS_PUSH_EXTRA_HOSTS": push.origin.removeprefix("http://"),
        "TIDINGS_DRAIN_SECONDS": str(DRAIN),
        # a new push host gets a tenth of the slots: four concurrent sends
        "TIDINGS_WORKER_CONCURRENCY": "40",
    }
    async with AsyncExitStack() as stack:
        if request.param == "serve":
            server = await stack.enter_async_context(ServerProcess("serve", tmp_path / "data", settings=settings))
            yield Installation(server, [server], push), server
            return
        url = postgres.create_database()
        stack.callback(postgres.drop_database, url)
        settings |= {
            "TIDINGS_DATABASE": url,
            "TIDINGS_REDIS": valkey.url,
            "TIDINGS_QUEUE_PREFIX": "drained",
            "TIDINGS_DATABASE_POOL": "5",
        }
        api = ServerProcess("api", tmp_path / "data", settings=settings)
        worker = ServerProcess("worker", tmp_path / "data", settings=settings)
        await asyncio.gather(*(stack.enter_async_context(process) for process in (api, worker)))
        yield Installation(api, [worker], push, (postgres, valkey)), worker


async def test_a_drain_finishes_sends_in_flight_and_another_process_sends_the_rest(
    single_sender: tuple[Installation, ServerProcess],
) -> None:
    site, sender = single_sender
    await site.register_users(*USERS)
    await site.push_service.control.reset()
    await site.push_service.control.set_rules(ResponseRule(delay_ms=500))
    notification = await site.send_message(*USERS)
    await site.push_service.control.wait_for(received=4, timeout=30)
    started = time.monotonic()
    assert await sender.stop() == 0
    assert time.monotonic() - started < DRAIN + SLACK
    assert "Traceback" not in sender.log_tail()
    taken = (await site.push_service.control.stats()).accepted
    states = Counter({str(state): count for state, count in await site.query(COUNT.format(notification))})
    # started sends are finished and recorded; claimed deliveries that were not started are released
    assert states == {"delivered": taken, "pending": len(USERS) - taken}
    assert 4 <= taken < len(USERS), "the stop came after the last send"
    log = sender.log.read_text()
    assert "draining" in log
    # the log shows an operator that the drain completed, and that the rest was released
    assert "drained" in log
    assert re.search(rf"given_back\W+{len(USERS) - taken}\b", log)
    await site.push_service.control.set_rules()
    if site.is_scaled:
        async with ServerProcess("worker", site.api.data_dir, settings=_own(sender)):
            assert (await site.api.wait_until_finished(notification)).by_state == {"delivered": len(USERS)}
    else:
        await sender.start()
        assert (await site.api.wait_until_finished(notification)).by_state == {"delivered": len(USERS)}
    receipts = [count for device, _, count in await site.push_service.control.receipts() if device in USERS]
    assert receipts == [1] * len(USERS)


COUNT = "SELECT state, count(*) FROM deliveries WHERE notification_id = '{}' GROUP BY state"


def _own(process: ServerProcess) -> dict[str, str]:
    return {name: value for name, value in process.environment.items() if name.startswith("TIDINGS_")}


async def test_a_drain_finishes_requests_and_refuses_new_ones(
    single_sender: tuple[Installation, ServerProcess],
) -> None:
    site, _ = single_sender
    await site.register_users(USERS[0])
    body = json.dumps({"userId": USERS[0], "templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "You"}})
    at = urlsplit(site.api.url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    head = (
        f"POST /api/notifications HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write((head + body[:20]).encode())
    await writer.drain()
    # a response to a later request shows that this one is in progress
    await site.api.expect(200, "GET", "/health/live", token=None)
    site.api.request_stop()
    await eventually(lambda: _refuses(at.hostname, at.port), within=20)
    writer.write(body[20:].encode())
    answer = await reader.read()
    writer.close()
    status, _, rest = answer.partition(b"\r\n")
    assert status == b"HTTP/1.1 202 Accepted", answer
    notification = json.loads(rest.rpartition(b"\r\n\r\n")[2])["id"]
    assert await site.api.stop() == 0
    # the next worker sends what was accepted at the last moment
    assert await site.query(f"SELECT count(*) FROM notifications WHERE id = '{notification}'") == [(1,)]
    await site.api.start()
    assert (await site.api.wait_until_finished(notification)).by_state == {"delivered": 1}


async def _refuses(host: str | None, port: int | None) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False
