"""With the database or the queue gone: what is told, what still works, and that it comes back by itself."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tidings.testing.installation import Installation
from tidings.testing.mock_push import Rule
from tidings.testing.server import eventually

# how fast it is told and forgiven, and that nothing is lost, is in `test_processes.py`
pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.parametrize("site", ["fleet"], indirect=True),
]

Json = dict[str, Any]
HOUR = 3_600_000
ID = "01a20000-0000-7000-8000-000000000000"
MESSAGE = {"userId": "away-ana", "templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "You"}}


@pytest_asyncio.fixture(loop_scope="session")
async def well(site: Installation) -> AsyncIterator[Installation]:
    """The site with users; whatever a test does to its servers is undone."""
    await site.sign_up("away-ana", "away-ben")
    yield site
    if not site.postgres.running:
        site.postgres.start()
    if not _answers(site):
        site.valkey.start()
    await eventually(lambda: _is_ok(site), within=30)


def _answers(site: Installation) -> bool:
    try:
        return site.valkey.command("PING") == b"+PONG"
    except OSError:
        return False


async def _is_ok(site: Installation) -> bool:
    paths = ("/health/ready", "/health/queue")
    return all([(await site.api.call("GET", path, token=None)).status == 200 for path in paths])


async def test_without_the_queue_work_is_accepted_sent_and_cancelled(well: Installation) -> None:
    # one waits in the database, one is with the queue by now
    far = await well.tell("away-ana", delay=HOUR, priority="low")
    near = await well.tell("away-ben", delay=4_000)
    await well.push.control.behave(Rule(status=403, device="away-ana"))
    dead = await well.tell("away-ana")
    await well.api.finished(dead)
    await well.push.control.reset()
    well.valkey.kill()

    ready = (await well.api.expect(200, "GET", "/health/ready", token=None)).read(Json)
    assert (ready["status"], ready["database"]) == ("degraded", "ok")
    await well.api.expect(200, "DELETE", f"/api/notifications/{near}")
    await well.api.expect(200, "DELETE", f"/api/notifications/{far}")
    assert (await well.api.finished(await well.tell("away-ana"))).by_state == {"delivered": 1}
    # what was given up can be sent again
    await well.api.expect(202, "POST", "/api/dead-letters/replay", {"notificationId": dead})
    assert (await well.api.finished(dead)).by_state == {"delivered": 1}

    well.valkey.start()
    await eventually(lambda: _is_ok(well), within=30)
    assert (await well.api.finished(await well.tell("away-ben"))).by_state == {"delivered": 1}
    received = sorted(device for device, _, count in await well.push.control.receipts() for _ in range(count))
    # twice to ana, to ben what came after; nothing of what was cancelled, although the queue came back with it
    assert received == ["away-ana", "away-ana", "away-ben"]
    for one in (near, far):
        assert (await well.api.progress(one)).status == "cancelled"


async def test_without_the_queue_the_lanes_are_told_from_the_database(well: Installation) -> None:
    before = (await well.api.expect(200, "GET", "/api/queues")).read(Json)["lanes"]
    one = await well.tell("away-ana", delay=HOUR, priority="low")
    well.valkey.kill()
    shown = (await well.api.expect(200, "GET", "/api/queues")).read(Json)
    assert (shown["status"], shown["shared"]) == ("away", True)
    assert shown["away"]
    low = shown["lanes"][-1]
    assert (low["lane"], low["waiting"], low["active"], low["ratePerSecond"]) == ("low", None, None, None)
    assert low["delayed"] == before[-1]["delayed"] + 1
    ran = await well.command("queues", "--json")
    assert (ran.json()["status"], ran.json()["lanes"][-1]["delayed"]) == ("away", low["delayed"])
    well.valkey.start()
    await eventually(lambda: _is_ok(well), within=30)
    assert (await well.api.expect(200, "GET", "/api/queues")).read(Json)["status"] == "ok"
    await well.api.expect(200, "DELETE", f"/api/notifications/{one}")


async def test_without_the_queue_due_work_is_left_to_the_workers(well: Installation) -> None:
    await well.push.control.behave(Rule(status=403, device="away-ana"))
    dead = await well.tell("away-ana")
    await well.api.finished(dead)
    await well.push.control.behave()
    well.valkey.kill()
    await well.api.expect(202, "POST", "/api/dead-letters/replay", {"notificationId": dead})
    shown = (await well.api.expect(202, "POST", "/api/notifications/process")).read(Json)
    assert shown["status"] == "left_to_workers"
    refused = await well.api.expect(503, "PUT", "/api/notifications/process")
    assert int(refused.headers["retry-after"]) >= 1
    # and they find it at once, not after the minute that lost work takes to be found
    assert (await well.api.finished(dead, within=20)).by_state == {"delivered": 1}


async def test_without_the_database_every_route_says_when_to_come_back(well: Installation) -> None:
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
    well.postgres.stop("immediate")
    started = time.monotonic()
    answers = await asyncio.gather(*(well.api.call(method, path, body) for method, path, body in routes))
    assert time.monotonic() - started < 15
    wrong = []
    for (method, path, _), answer in zip(routes, answers, strict=True):
        problem = answer.read(Json)
        told = (answer.status, answer.headers.get("content-type"), problem.get("status"), problem.get("code"))
        if told != (503, "application/problem+json", 503, "backend") or "retry-after" not in answer.headers:
            wrong.append((method, path, answer.status, answer.body[:200]))
    assert wrong == []
    await well.api.expect(200, "GET", "/health/live", token=None)
    ready = (await well.api.expect(503, "GET", "/health/ready", token=None)).read(Json)
    assert (ready["status"], ready["migrations"]) == ("unavailable", "unknown")
    for worker in well.workers:
        await worker.expect(200, "GET", "/health/live", token=None)

    well.postgres.start()
    started = time.monotonic()
    await eventually(lambda: _accepts(well), within=10, pause=0.1)
    assert (await well.api.finished(await well.tell("away-ana"))).by_state == {"delivered": 1}


async def _accepts(site: Installation) -> bool:
    return (await site.api.call("POST", "/api/notifications", MESSAGE)).status == 202
