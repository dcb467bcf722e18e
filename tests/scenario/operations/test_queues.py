"""How each lane stands, over HTTP and on the command line, as the queue itself says (M20)."""

from typing import Any

import pytest
from bullmq import Queue  # type: ignore[import-untyped]  # ships no types

from tidings.queues.bullmq_commands import PREFIX
from tidings.testing.installation import Installation
from tidings.testing.mock_push import Rule
from tidings.testing.server import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

Json = dict[str, Any]
LANES = ["urgent", "high", "normal", "low"]
HOUR = 3_600_000
#: figures in the queue's own words → in ours
OWN = {"wait": "waiting", "active": "active", "delayed": "delayed", "failed": "failed", "completed": "completed"}


async def stand(site: Installation) -> dict[str, Json]:
    """Return the figures of each lane."""
    shown = (await site.api.expect(200, "GET", "/api/queues")).read(Json)
    assert (shown["status"], shown["away"], shown["shared"]) == ("ok", None, site.scaled)
    assert [lane["lane"] for lane in shown["lanes"]] == LANES
    assert (shown["intake"] is not None) == site.scaled
    return {lane["lane"]: lane for lane in shown["lanes"]}


async def is_idle(site: Installation) -> bool:
    return all(lane["waiting"] == lane["active"] == 0 for lane in (await stand(site)).values())


async def test_what_is_worked_on_is_told_lane_by_lane(site: Installation) -> None:
    await site.sign_up("lane-ana")
    await eventually(lambda: is_idle(site))
    before = await stand(site)
    await site.push.control.behave(Rule(delay_ms=1500))
    one = await site.tell("lane-ana", priority="urgent")

    async def urgent_alone_is_active() -> bool:
        return [lane["active"] for lane in (await stand(site)).values()] == [1, 0, 0, 0]

    await eventually(urgent_alone_is_active)
    assert (await site.api.finished(one)).by_state == {"delivered": 1}
    await eventually(lambda: is_idle(site))
    after = await stand(site)
    # planned as it was accepted, it took one task to send it
    assert after["urgent"]["completed"] == before["urgent"]["completed"] + 1
    assert after["urgent"]["ratePerSecond"] >= 0.016
    assert after["low"]["completed"] == before["low"]["completed"]
    assert all(lane["oldestAgeSeconds"] is None for lane in after.values())


async def test_what_waits_for_its_time_is_delayed(site: Installation) -> None:
    await site.sign_up("later-ana")
    before = await stand(site)
    ids = [await site.tell("later-ana", delay=HOUR, priority=lane) for lane in ("normal", "normal", "low")]
    after = await stand(site)
    assert [after[lane]["delayed"] - before[lane]["delayed"] for lane in LANES] == [0, 0, 2, 1]
    for one in ids:
        await site.api.expect(200, "DELETE", f"/api/notifications/{one}")
    # what was cancelled waits for nothing
    assert {lane: figures["delayed"] for lane, figures in (await stand(site)).items()} == {
        lane: figures["delayed"] for lane, figures in before.items()
    }


async def test_the_command_line_shows_what_can_be_seen_from_there(site: Installation) -> None:
    await site.sign_up("seen-ana")
    one = await site.tell("seen-ana", delay=HOUR, priority="low")
    shown = (await site.command("queues", "--json")).json()
    lanes = {lane["lane"]: lane for lane in shown["lanes"]}
    there = await stand(site)
    assert list(lanes) == LANES
    assert lanes["low"]["delayed"] == there["low"]["delayed"] >= 1
    if site.scaled:
        assert shown["status"] == "ok"
        assert [lanes[lane]["completed"] for lane in LANES] == [there[lane]["completed"] for lane in LANES]
    else:
        # the lanes are in the server's memory
        assert (shown["status"], lanes["low"]["waiting"], lanes["low"]["ratePerSecond"]) == ("elsewhere", None, None)
    await site.api.expect(200, "DELETE", f"/api/notifications/{one}")


@pytest.mark.parametrize("site", ["fleet"], indirect=True)
async def test_the_figures_are_the_queues_own(site: Installation) -> None:
    await site.sign_up("own-ana")
    await eventually(lambda: is_idle(site))
    for worker in site.workers:
        worker.pause()
    try:
        ids = [await site.tell("own-ana", priority=lane) for lane in ("urgent", "high", "high")]
        shown = await stand(site)
        assert [shown[lane]["waiting"] for lane in ("normal", "low")] == [0, 0]
        assert shown["urgent"]["waiting"] == 1
        # those that arrive together may share a job
        assert 1 <= shown["high"]["waiting"] <= 2
        assert 0 <= shown["high"]["oldestAgeSeconds"] < 30
        for lane in LANES:
            own = await counts(site, lane)
            assert {ours: shown[lane][ours] for ours in OWN.values()} == own, lane
    finally:
        for worker in site.workers:
            worker.resume()
    for one in ids:
        assert (await site.api.finished(one)).by_state == {"delivered": 1}


@pytest.mark.parametrize("site", ["fleet"], indirect=True)
async def test_the_jobs_of_other_services_are_seen_too(site: Installation) -> None:
    before = await intake(site)
    for worker in site.workers:
        worker.pause()
    queue = Queue("{tidings-intake}", {"connection": site.valkey.url, "prefix": PREFIX})
    try:
        await queue.add("publish-notification", {"userId": "nobody", "templateCode": "MESSAGE"}, {})
        shown = await intake(site)
        assert (shown["waiting"], shown["failed"]) == (1, before["failed"])
        assert 0 <= shown["oldestAgeSeconds"] < 30
        listed = [line.split() for line in (await site.command("queues")).out.splitlines()]
        assert [words[:2] for words in listed if words[:1] == ["intake"]] == [["intake", "1"]]
    finally:
        await queue.close()
        for worker in site.workers:
            worker.resume()

    async def refused() -> bool:
        now = await intake(site)
        return (now["waiting"], now["failed"]) == (0, before["failed"] + 1)

    await eventually(refused)
    metrics = (await site.api.expect(200, "GET", "/metrics")).body.decode()
    assert f'tidings_queue_tasks{{lane="intake",state="failed"}} {before["failed"] + 1:.1f}' in metrics


async def intake(site: Installation) -> Json:
    """Return how the queue for jobs from outside stands."""
    found: Json = (await site.api.expect(200, "GET", "/api/queues")).read(Json)["intake"]
    return found


async def counts(site: Installation, lane: str) -> dict[str, int]:
    """Ask the stock class of the library for a lane's figures, which must be without delayed work in the database."""
    queue = Queue(f"{{tidings-{lane}}}", {"connection": site.valkey.url, "prefix": PREFIX})
    try:
        found = await queue.getJobCounts(*OWN, "prioritized")
    finally:
        await queue.close()
    counted = {ours: int(found[own]) for own, ours in OWN.items()}
    counted["waiting"] += int(found["prioritized"])
    return counted


@pytest.mark.parametrize("site", ["fleet"], indirect=True)
async def test_what_others_broke_on_the_intake_says_nothing_of_the_lanes(site: Installation) -> None:
    key = f"{PREFIX}:{{tidings-intake}}:prioritized"
    site.valkey.command("SET", key, "no sorted set")
    try:
        shown = (await site.api.expect(200, "GET", "/api/queues")).read(Json)
        assert (shown["status"], shown["away"], shown["intake"]) == ("ok", None, None)
        assert all(lane["waiting"] is not None for lane in shown["lanes"])
        await site.api.expect(200, "GET", "/health/queue", token=None)
    finally:
        site.valkey.command("DEL", key)
    await eventually(lambda: _intake_is_known(site))


async def _intake_is_known(site: Installation) -> bool:
    return bool(await intake(site))
