"""Queue status per lane, over HTTP and on the command line, compared with the queue's own counts."""

from typing import Any

import pytest
from bullmq import Queue  # type: ignore[import-untyped]  # ships no types
from tests.support.installation import Installation
from tests.support.server import eventually

from tidings.mockpush import ResponseRule
from tidings.queues.bullmq_commands import KEY_PREFIX

pytestmark = pytest.mark.asyncio(loop_scope="session")

Json = dict[str, Any]
LANES = ["urgent", "high", "normal", "low"]
HOUR = 3_600_000
#: BullMQ's name of a count → ours
COUNT_NAMES = {
    "wait": "waiting",
    "active": "active",
    "delayed": "delayed",
    "failed": "failed",
    "completed": "completed",
}


async def read_lanes(site: Installation) -> dict[str, Json]:
    """Return the counts of each lane."""
    shown = (await site.api.expect(200, "GET", "/api/queues")).read(Json)
    assert (shown["status"], shown["away"], shown["shared"]) == ("ok", None, site.is_scaled)
    assert [lane["lane"] for lane in shown["lanes"]] == LANES
    assert (shown["intake"] is not None) == site.is_scaled
    return {lane["lane"]: lane for lane in shown["lanes"]}


async def is_idle(site: Installation) -> bool:
    return all(lane["waiting"] == lane["active"] == 0 for lane in (await read_lanes(site)).values())


async def test_active_tasks_are_counted_per_lane(site: Installation) -> None:
    await site.register_users("lane-ana")
    await eventually(lambda: is_idle(site))
    before = await read_lanes(site)
    await site.push_service.control.set_rules(ResponseRule(delay_ms=1500))
    one = await site.send_message("lane-ana", priority="urgent")

    async def only_urgent_is_active() -> bool:
        return [lane["active"] for lane in (await read_lanes(site)).values()] == [1, 0, 0, 0]

    await eventually(only_urgent_is_active)
    assert (await site.api.wait_until_finished(one)).by_state == {"delivered": 1}
    await eventually(lambda: is_idle(site))
    after = await read_lanes(site)
    # it was planned when accepted, so one task was enough to send it
    assert after["urgent"]["completed"] == before["urgent"]["completed"] + 1
    assert after["urgent"]["ratePerSecond"] >= 0.016
    assert after["low"]["completed"] == before["low"]["completed"]
    assert all(lane["oldestAgeSeconds"] is None for lane in after.values())


async def test_scheduled_notifications_are_counted_as_delayed(site: Installation) -> None:
    await site.register_users("later-ana")
    before = await read_lanes(site)
    ids = [await site.send_message("later-ana", delay=HOUR, priority=lane) for lane in ("normal", "normal", "low")]
    after = await read_lanes(site)
    assert [after[lane]["delayed"] - before[lane]["delayed"] for lane in LANES] == [0, 0, 2, 1]
    for one in ids:
        await site.api.expect(200, "DELETE", f"/api/notifications/{one}")
    # cancelled notifications are not counted
    assert {lane: figures["delayed"] for lane, figures in (await read_lanes(site)).items()} == {
        lane: figures["delayed"] for lane, figures in before.items()
    }


async def test_the_command_line_shows_the_counts_it_can_read(site: Installation) -> None:
    await site.register_users("seen-ana")
    one = await site.send_message("seen-ana", delay=HOUR, priority="low")
    shown = (await site.run_command("queues", "--json")).parse_json()
    lanes = {lane["lane"]: lane for lane in shown["lanes"]}
    there = await read_lanes(site)
    assert list(lanes) == LANES
    assert lanes["low"]["delayed"] == there["low"]["delayed"] >= 1
    if site.is_scaled:
        assert shown["status"] == "ok"
        assert [lanes[lane]["completed"] for lane in LANES] == [there[lane]["completed"] for lane in LANES]
    else:
        # the lanes are in the memory of the server process
        assert (shown["status"], lanes["low"]["waiting"], lanes["low"]["ratePerSecond"]) == ("elsewhere", None, None)
    await site.api.expect(200, "DELETE", f"/api/notifications/{one}")


@pytest.mark.parametrize("site", ["fleet"], indirect=True)
async def test_the_counts_equal_those_of_the_queue(site: Installation) -> None:
    await site.register_users("own-ana")
    await eventually(lambda: is_idle(site))
    for worker in site.workers:
        worker.pause()
    try:
        ids = [await site.send_message("own-ana", priority=lane) for lane in ("urgent", "high", "high")]
        shown = await read_lanes(site)
        assert [shown[lane]["waiting"] for lane in ("normal", "low")] == [0, 0]
        assert shown["urgent"]["waiting"] == 1
        # tasks that arrive together may share a BullMQ job
        assert 1 <= shown["high"]["waiting"] <= 2
        assert 0 <= shown["high"]["oldestAgeSeconds"] < 30
        for lane in LANES:
            own = await counts(site, lane)
            assert {ours: shown[lane][ours] for ours in COUNT_NAMES.values()} == own, lane
    finally:
        for worker in site.workers:
            worker.resume()
    for one in ids:
        assert (await site.api.wait_until_finished(one)).by_state == {"delivered": 1}


@pytest.mark.parametrize("site", ["fleet"], indirect=True)
async def test_jobs_of_other_services_are_counted(site: Installation) -> None:
    before = await intake(site)
    for worker in site.workers:
        worker.pause()
    queue = Queue("{tidings-intake}", {"connection": site.valkey.url, "prefix": KEY_PREFIX})
    try:
        await queue.add("publish-notification", {"userId": "nobody", "templateCode": "MESSAGE"}, {})
        shown = await intake(site)
        assert (shown["waiting"], shown["failed"]) == (1, before["failed"])
        assert 0 <= shown["oldestAgeSeconds"] < 30
        listed = [line.split() for line in (await site.run_command("queues")).stdout.splitlines()]
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
    """Return the counts of the intake queue."""
    found: Json = (await site.api.expect(200, "GET", "/api/queues")).read(Json)["intake"]
    return found


async def counts(site: Installation, lane: str) -> dict[str, int]:
    """Return a lane's counts as read by the stock BullMQ class; no delayed work may be in the database."""
    queue = Queue(f"{{tidings-{lane}}}", {"connection": site.valkey.url, "prefix": KEY_PREFIX})
    try:
        found = await queue.getJobCounts(*COUNT_NAMES, "prioritized")
    finally:
        await queue.close()
    counted = {ours: int(found[own]) for own, ours in COUNT_NAMES.items()}
    counted["waiting"] += int(found["prioritized"])
    return counted


@pytest.mark.parametrize("site", ["fleet"], indirect=True)
async def test_a_corrupted_intake_queue_does_not_affect_the_lane_counts(site: Installation) -> None:
    key = f"{KEY_PREFIX}:{{tidings-intake}}:prioritized"
    site.valkey.send_command("SET", key, "no sorted set")
    try:
        shown = (await site.api.expect(200, "GET", "/api/queues")).read(Json)
        assert (shown["status"], shown["away"], shown["intake"]) == ("ok", None, None)
        assert all(lane["waiting"] is not None for lane in shown["lanes"])
        await site.api.expect(200, "GET", "/health/queue", token=None)
    finally:
        site.valkey.send_command("DEL", key)
    await eventually(lambda: _intake_is_known(site))


async def _intake_is_known(site: Installation) -> bool:
    return bool(await intake(site))
