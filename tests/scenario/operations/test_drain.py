"""SIGTERM in the middle: what is in flight ends, the next sends the rest, once; requests end, new ones are refused.

A second signal, and sends that hang, are in `test_processes.py`.
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

from tidings.testing.fleet import Member
from tidings.testing.installation import Installation
from tidings.testing.mock_push import Rule, SpawnedMockPush
from tidings.testing.postgres import PostgresServer
from tidings.testing.server import ADMIN_KEY, eventually
from tidings.testing.valkey import ValkeyServer

pytestmark = pytest.mark.asyncio(loop_scope="session")

PEOPLE = [f"drain-{number:02}" for number in range(20)]
#: seconds that a stop may take; and what a slow machine needs besides, to end a process
DRAIN, SLACK = 5.0, 8.0


@pytest_asyncio.fixture(loop_scope="session", params=["serve", "worker"])
async def small(
    request: pytest.FixtureRequest,
    push: SpawnedMockPush,
    postgres: PostgresServer,
    valkey: ValkeyServer,
    tmp_path: Path,
) -> AsyncIterator[tuple[Installation, Member]]:
    """An installation with one process that sends, and that process; not started yet unless it answers HTTP too."""
    settings = {
        "TIDINGS_PUSH_EXTRA_HOSTS": push.origin.removeprefix("http://"),
        "TIDINGS_DRAIN_SECONDS": str(DRAIN),
        # of which a push host that is new gets a tenth: four sends at a time
        "TIDINGS_WORKER_CONCURRENCY": "40",
    }
    async with AsyncExitStack() as stack:
        if request.param == "serve":
            server = await stack.enter_async_context(Member("serve", tmp_path / "data", settings=settings))
            yield Installation(server, [server], push), server
            return
        url = postgres.fresh()
        stack.callback(postgres.drop, url)
        settings |= {
            "TIDINGS_DATABASE": url,
            "TIDINGS_REDIS": valkey.url,
            "TIDINGS_QUEUE_PREFIX": "drained",
            "TIDINGS_DATABASE_POOL": "5",
        }
        api = Member("api", tmp_path / "data", settings=settings)
        worker = Member("worker", tmp_path / "data", settings=settings)
        await asyncio.gather(*(stack.enter_async_context(member) for member in (api, worker)))
        yield Installation(api, [worker], push, (postgres, valkey)), worker


async def test_a_stop_ends_what_is_in_flight_and_the_next_sends_the_rest(small: tuple[Installation, Member]) -> None:
    site, sender = small
    await site.sign_up(*PEOPLE)
    await site.push.control.reset()
    await site.push.control.behave(Rule(delay_ms=500))
    one = await site.tell(*PEOPLE)
    await site.push.control.wait_for(received=4, timeout=30)
    started = time.monotonic()
    assert await sender.stop() == 0
    assert time.monotonic() - started < DRAIN + SLACK
    assert "Traceback" not in sender.log_tail()
    taken = (await site.push.control.stats()).accepted
    states = Counter({str(state): count for state, count in await site.rows(COUNT.format(one))})
    # what was begun was ended and written down; what was claimed and not begun is free for others
    assert states == {"delivered": taken, "pending": len(PEOPLE) - taken}
    assert 4 <= taken < len(PEOPLE), "the stop came too late to be one in the middle"
    log = sender.log.read_text()
    assert "draining" in log
    # whoever watches the stop sees that it came to its end, and that the rest is with others
    assert "drained" in log
    assert re.search(rf"given_back\W+{len(PEOPLE) - taken}\b", log)
    await site.push.control.behave()
    if site.scaled:
        async with Member("worker", site.api.data_dir, settings=_own(sender)):
            assert (await site.api.finished(one)).by_state == {"delivered": len(PEOPLE)}
    else:
        await sender.start()
        assert (await site.api.finished(one)).by_state == {"delivered": len(PEOPLE)}
    receipts = [count for device, _, count in await site.push.control.receipts() if device in PEOPLE]
    assert receipts == [1] * len(PEOPLE)


COUNT = "SELECT state, count(*) FROM deliveries WHERE notification_id = '{}' GROUP BY state"


def _own(member: Member) -> dict[str, str]:
    return {name: value for name, value in member.environment.items() if name.startswith("TIDINGS_")}


async def test_a_stop_lets_requests_end_and_refuses_new_ones(small: tuple[Installation, Member]) -> None:
    site, _ = small
    await site.sign_up(PEOPLE[0])
    body = json.dumps({"userId": PEOPLE[0], "templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "You"}})
    at = urlsplit(site.api.url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    head = (
        f"POST /api/notifications HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write((head + body[:20]).encode())
    await writer.drain()
    # the request is known to be in progress once a later one was answered
    await site.api.expect(200, "GET", "/health/live", token=None)
    site.api.signal()
    await eventually(lambda: _refuses(at.hostname, at.port), within=20)
    writer.write(body[20:].encode())
    answer = await reader.read()
    writer.close()
    status, _, rest = answer.partition(b"\r\n")
    assert status == b"HTTP/1.1 202 Accepted", answer
    one = json.loads(rest.rpartition(b"\r\n\r\n")[2])["id"]
    assert await site.api.stop() == 0
    # what was accepted at the last moment is done by whoever works next
    assert await site.rows(f"SELECT count(*) FROM notifications WHERE id = '{one}'") == [(1,)]
    await site.api.start()
    assert (await site.api.finished(one)).by_state == {"delivered": 1}


async def _refuses(host: str | None, port: int | None) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False
