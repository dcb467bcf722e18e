"""Degraded operation without database or queue: what is reported, what still works, and the recovery."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.support.installation import Installation
from tests.support.server import TidingsServer, eventually

from tidings.mockpush import ResponseRule

# detection and recovery times, and that no work is lost, are covered by `test_processes.py`
pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.parametrize("site", ["fleet"], indirect=True),
]

Json = dict[str, Any]
HOUR = 3_600_000
ID = "01a20000-0000-7000-8000-000000000000"
MESSAGE = {"userId": "away-ana", "templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "You"}}


@pytest_asyncio.fixture(loop_scope="session")
async def healthy_site(site: Installation) -> AsyncIterator[Installation]:
    """The site with users. Servers that a test stops are restarted afterwards."""
    await site.register_users("away-ana", "away-ben")
    yield site
    if not site.postgres.is_running:
        site.postgres.start()
    if not _answers(site):
        site.valkey.start()
    await eventually(lambda: _is_ok(site), within=30)


def _answers(site: Installation) -> bool:
    try:
        return site.valkey.send_command("PING") == b"+PONG"
    except OSError:
        return False


async def _is_ok(site: Installation) -> bool:
    paths = ("/health/ready", "/health/queue")
    return all([(await site.api.call("GET", path, token=None)).status == 200 for path in paths])


async def test_without_the_queue_notifications_are_accepted_sent_and_cancelled(healthy_site: Installation) -> None:
    # one notification waits in the database, the other is in the queue by now
    far = await healthy_site.send_message("away-ana", delay=HOUR, priority="low")
    near = await healthy_site.send_message("away-ben", delay=4_000)
    await healthy_site.push_service.control.set_rules(ResponseRule(status=403, device="away-ana"))
    dead = await healthy_site.send_message("away-ana")
    await healthy_site.api.wait_until_finished(dead)
    await healthy_site.push_service.control.reset()
    healthy_site.valkey.kill()

    ready = (await healthy_site.api.expect(200, "GET", "/health/ready", token=None)).read(Json)
    assert (ready["status"], ready["database"]) == ("degraded", "ok")
    await healthy_site.api.expect(200, "DELETE", f"/api/notifications/{near}")
    await healthy_site.api.expect(200, "DELETE", f"/api/notifications/{far}")
    assert (await healthy_site.api.wait_until_finished(await healthy_site.send_message("away-ana"))).by_state == {
        "delivered": 1
    }
    # dead letters can be replayed
    await healthy_site.api.expect(202, "POST", "/api/dead-letters/replay", {"notificationId": dead})
    assert (await healthy_site.api.wait_until_finished(dead)).by_state == {"delivered": 1}

    healthy_site.valkey.start()
    await eventually(lambda: _is_ok(healthy_site), within=30)
    assert (await healthy_site.api.wait_until_finished(await healthy_site.send_message("away-ben"))).by_state == {
        "delivered": 1
    }
    received = sorted(
        device for device, _, count in await healthy_site.push_service.control.receipts() for _ in range(count)
    )
    # ana received two, ben the later one; the cancelled ones are not sent although the queue still held them
    assert received == ["away-ana", "away-ana", "away-ben"]
    for one in (near, far):
        assert (await healthy_site.api.get_progress(one)).status == "cancelled"


async def test_without_the_queue_lane_status_comes_from_the_database(healthy_site: Installation) -> None:
    before = (await healthy_site.api.expect(200, "GET", "/api/queues")).read(Json)["lanes"]
    one = await healthy_site.send_message("away-ana", delay=HOUR, priority="low")
    healthy_site.valkey.kill()
    shown = (await healthy_site.api.expect(200, "GET", "/api/queues")).read(Json)
    assert (shown["status"], shown["shared"]) == ("away", True)
    assert shown["away"]
    low = shown["lanes"][-1]
    assert (low["lane"], low["waiting"], low["active"], low["ratePerSecond"]) == ("low", None, None, None)
    assert low["delayed"] == before[-1]["delayed"] + 1
    ran = await healthy_site.run_command("queues", "--json")
    assert (ran.parse_json()["status"], ran.parse_json()["lanes"][-1]["delayed"]) == ("away", low["delayed"])
    healthy_site.valkey.start()
    await eventually(lambda: _is_ok(healthy_site), within=30)
    assert (await healthy_site.api.expect(200, "GET", "/api/queues")).read(Json)["status"] == "ok"
    await healthy_site.api.expect(200, "DELETE", f"/api/notifications/{one}")


async def test_without_the_queue_due_work_is_left_to_the_workers(healthy_site: Installation) -> None:
    await healthy_site.push_service.control.set_rules(ResponseRule(status=403, device="away-ana"))
    dead = await healthy_site.send_message("away-ana")
    await healthy_site.api.wait_until_finished(dead)
    await healthy_site.push_service.control.set_rules()
    healthy_site.valkey.kill()
    await healthy_site.api.expect(202, "POST", "/api/dead-letters/replay", {"notificationId": dead})
    shown = (await healthy_site.api.expect(202, "POST", "/api/notifications/process")).read(Json)
    assert shown["status"] == "left_to_workers"
    refused = await healthy_site.api.expect(503, "PUT", "/api/notifications/process")
    assert int(refused.headers["retry-after"]) >= 1
    # the workers find it at once, not only after the minute of stuck task detection
    assert (await healthy_site.api.wait_until_finished(dead, within=20)).by_state == {"delivered": 1}


async def test_without_the_database_every_route_returns_retry_after(healthy_site: Installation) -> None:
    routes: list[tuple[str, str, object]] = [
        ("POST", "/api/notifications", MESSAGE),
        ("GET", "/api/notifications", None),
        ("GET", f"/api/notifications/{ID}", None),
        ("DELETE", f"/api/notifications/{ID}", None),
        ("PUT", "/api/users/away-ana", {}),
        ("GET", "/api/queues", None),
        ("GET", "/api/dead-letters", None),
        ("GET", "/api/dead-letters/errors", None),
        ("POST", "/api/dead-letters/replay", {"all": True}),
        ("POST", "/api/dead-letters/discard", {"all": True, "dryRun": True}),
        ("POST", "/api/notifications/process", None),
        ("PUT", "/api/notifications/process", None),
    ]
    healthy_site.postgres.stop("immediate")
    started = time.monotonic()
    answers = await asyncio.gather(*(healthy_site.api.call(method, path, body) for method, path, body in routes))
    assert time.monotonic() - started < 15
    wrong = []
    for (method, path, _), answer in zip(routes, answers, strict=True):
        problem = answer.read(Json)
        summary = (answer.status, answer.headers.get("content-type"), problem.get("status"), problem.get("code"))
        if summary != (503, "application/problem+json", 503, "backend") or "retry-after" not in answer.headers:
            wrong.append((method, path, answer.status, answer.body[:200]))
    assert wrong == []
    await healthy_site.api.expect(200, "GET", "/health/live", token=None)
    ready = (await healthy_site.api.expect(503, "GET", "/health/ready", token=None)).read(Json)
    assert (ready["status"], ready["migrations"]) == ("unavailable", "unknown")
    for worker in healthy_site.workers:
        await worker.expect(200, "GET", "/health/live", token=None)

    healthy_site.postgres.start()
    started = time.monotonic()
    await eventually(lambda: _accepts(healthy_site), within=10, pause=0.1)
    assert (await healthy_site.api.wait_until_finished(await healthy_site.send_message("away-ana"))).by_state == {
        "delivered": 1
    }


async def _accepts(site: Installation) -> bool:
    return (await site.api.call("POST", "/api/notifications", MESSAGE)).status == 202


@pytest.mark.parametrize(
    ("refuse", "accept"),
    [
        (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"]),
        (["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"]),
    ],
    ids=["out of memory", "read-only"],
)
async def test_a_queue_that_refuses_writes_is_reported_steadily_and_logged_once(
    healthy_site: Installation, refuse: list[str], accept: list[str]
) -> None:
    site, processes = healthy_site, [healthy_site.api, *healthy_site.workers]

    async def statuses() -> list[int]:
        calls = (process.call("GET", "/health/queue", token=None) for process in processes)
        return [response.status for response in await asyncio.gather(*calls)]

    async def are_away() -> bool:
        return await statuses() == [503] * len(processes)

    async def are_ok() -> bool:
        return await statuses() == [200] * len(processes)

    # an outage of an earlier test, or of a slow start, must have ended at the workers too
    await eventually(are_ok, within=30)
    before = [_count_outages(process) for process in processes]
    assert site.valkey.send_command(*refuse) == b"+OK"
    try:
        await eventually(are_away, within=5)
        one = await site.send_message("away-ana", priority="urgent")
        assert (await site.api.wait_until_finished(one, within=20)).by_state == {"delivered": 1}
        for _ in range(10):
            assert await are_away(), "the status must not alternate"
            await asyncio.sleep(0.2)
    finally:
        site.valkey.send_command(*accept)
    await eventually(are_ok, within=30)
    after = [_count_outages(process) for process in processes]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1] * len(processes)


def _count_outages(process: TidingsServer) -> int:
    lines = [json.loads(line) for line in process.log.read_text().splitlines() if line.startswith("{")]
    return sum(line["event"] == "backend_unavailable" and line["backend"] == "queue" for line in lines)
