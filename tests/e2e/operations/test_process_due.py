"""Due work on demand and by schedule: POST enqueues it, PUT waits for it, one process runs the schedule."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from tests.support.cluster import ServerProcess
from tests.support.installation import Installation
from tests.support.server import eventually

from tidings.mockpush import ResponseRule

pytestmark = pytest.mark.asyncio(loop_scope="session")

Json = dict[str, Any]
PATH = "/api/notifications/process"
ON_FLEET = pytest.mark.parametrize("site", ["fleet"], indirect=True)


async def post(site: Installation) -> Json:
    return (await site.api.expect(202, "POST", PATH)).read(Json)


async def count_received(site: Installation, users: list[str]) -> int:
    """Return how many messages these users have received."""
    return sum(count for device, _, count in await site.push_service.control.receipts() if device in users)


async def test_put_responds_once_everything_is_sent(site: Installation) -> None:
    users = [f"put-{number}" for number in range(3)]
    await site.register_users(*users)
    await site.push_service.control.set_rules(*(ResponseRule(delay_ms=700, device=user) for user in users))
    notification = await site.send_message(*users)
    shown = (await site.api.expect(200, "PUT", PATH)).read(Json)
    assert await count_received(site, users) == 3
    assert (shown["status"], shown["left"]) == ("done", 0)
    if site.is_scaled:
        # other processes send, and do not report the results to this one
        assert (shown["sent"], shown["failed"], shown["retrying"]) == (None, None, None)
    else:
        # the counts are of all sends of the process, and earlier tests may have left some
        assert shown["sent"] >= 3
        assert (await site.api.get_progress(notification)).by_state == {"delivered": 3}
    assert (await site.api.wait_until_finished(notification)).by_state == {"delivered": 3}


async def test_put_reports_failures(site: Installation) -> None:
    await site.register_users("ill-ana", "ill-ben", "ill-cleo")
    await site.push_service.control.set_rules(
        ResponseRule(status=403, device="ill-ana"), ResponseRule(status=429, retry_after=600, device="ill-ben")
    )
    notification = await site.send_message("ill-ana", "ill-ben", "ill-cleo")
    shown = (await site.api.expect(200, "PUT", PATH)).read(Json)
    assert shown["status"] == "done"
    if not site.is_scaled:
        assert min(shown["sent"], shown["failed"], shown["retrying"]) >= 1
    await eventually(lambda: _is(site, notification, {"delivered": 1, "refused": 1, "pending": 1}))
    await site.api.expect(200, "DELETE", f"/api/notifications/{notification}")


async def _is(site: Installation, notification: str, by_state: dict[str, int]) -> bool:
    return (await site.api.get_progress(notification)).by_state == by_state


async def test_a_repeated_post_sends_nothing_twice(site: Installation) -> None:
    await site.register_users("post-ana")
    notification = await site.send_message("post-ana")
    answers = await asyncio.gather(*(post(site) for _ in range(10)))
    assert {answer["status"] for answer in answers} == {"enqueued"}
    assert (await site.api.wait_until_finished(notification)).by_state == {"delivered": 1}
    assert await count_received(site, ["post-ana"]) == 1


@ON_FLEET
async def test_post_enqueues_work_that_has_become_due(site: Installation) -> None:
    await site.register_users("due-ana", "due-ben")
    await site.push_service.control.set_rules(ResponseRule(status=403, device="due-ana"))
    dead = await site.send_message("due-ana")
    await site.api.wait_until_finished(dead)
    await site.push_service.control.set_rules()
    for worker in site.workers:
        worker.pause()
    try:
        delayed = await site.send_message("due-ben", delay=1500)
        await site.api.expect(202, "POST", "/api/dead-letters/replay", {"notificationId": dead})
        counts = {"tasks": 0, "batches": 0}

        async def both() -> bool:
            found = await post(site)
            for name in counts:
                counts[name] += found[name]
            return counts == {"tasks": 1, "batches": 1}

        # the paused worker may hold the work, and no other process looks for it
        await eventually(both, pause=0.3)
    finally:
        for worker in site.workers:
            worker.resume()
    for notification in (dead, delayed):
        assert (await site.api.wait_until_finished(notification)).by_state == {"delivered": 1}


@ON_FLEET
async def test_an_api_without_redis_leaves_due_work_to_the_workers(site: Installation) -> None:
    await site.register_users("alone-ana")
    settings = {**_own(site), "TIDINGS_REDIS": ""}
    async with ServerProcess("api", site.api.data_dir, settings=settings) as api:
        api_process = Installation(api, site.workers, site.push_service, site.backends)
        assert (await post(api_process))["status"] == "left_to_workers"
        problem = (await api.expect(409, "PUT", PATH)).read(Json)
        assert problem["code"] == "sends_elsewhere"
        shown = (await api.expect(200, "GET", "/api/queues")).read(Json)
        assert (shown["status"], shown["lanes"][0]["waiting"]) == ("elsewhere", None)
        # the workers find it in the database
        assert (await api.wait_until_finished(await api_process.send_message("alone-ana"))).by_state == {"delivered": 1}
        assert await api.stop() == 0


def _own(site: Installation, **more: str) -> dict[str, str]:
    own = {name: value for name, value in site.api.environment.items() if name.startswith("TIDINGS_")}
    return own | more


#: records each claimed run of the schedule
AUDIT = """
CREATE TABLE runs (number serial, beat timestamptz, following timestamptz, at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.name = 'process' AND NEW.last_at IS DISTINCT FROM OLD.last_at THEN
    INSERT INTO runs (beat, following) VALUES (OLD.next_at, NEW.next_at);
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER note AFTER UPDATE ON schedules FOR EACH ROW EXECUTE FUNCTION note();
"""


@ON_FLEET
async def test_one_of_three_processes_runs_each_occurrence_and_missed_ones_once(site: Installation) -> None:
    url = site.postgres.create_database()
    database = url.rpartition("/")[2]
    more = {"TIDINGS_DATABASE": url, "TIDINGS_REDIS": "", "TIDINGS_PROCESS_EVERY": "2"}
    processes = [ServerProcess("worker", site.api.data_dir, settings=_own(site, **more)) for _ in range(3)]

    async def runs() -> list[tuple[str, ...]]:
        query = "SELECT beat, following, at < following, following - beat FROM runs ORDER BY number"
        found = await asyncio.to_thread(site.postgres.run_sql, query, database)
        return [tuple(line.split("|")) for line in found.splitlines()]

    async def has_runs(count: int) -> list[tuple[str, ...]] | None:
        found = await runs()
        return found if len(found) >= count else None

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(processes[0])
        await asyncio.to_thread(site.postgres.run_sql, AUDIT, database)
        await asyncio.gather(*(stack.enter_async_context(member) for member in processes[1:]))
        found = await eventually(lambda: has_runs(2), within=30, pause=0.3)
        # each occurrence was claimed once, in order
        assert len({occurrence for occurrence, *_ in found}) == len(found)
        assert [occurrence for occurrence, *_ in found[1:]] == [following for _, following, *_ in found[:-1]]
        # simulate ten minutes without a run
        statement = (
            "UPDATE schedules SET next_at = next_at - interval '10 minutes' WHERE name = 'process' RETURNING next_at"
        )
        missed = (await asyncio.to_thread(site.postgres.run_sql, statement, database)).splitlines()[0]
        count = len(await runs())
        found = await eventually(lambda: has_runs(count + 1), within=20, pause=0.1)
        caught_up = [run for run in found if run[0] == missed]
        # one run for all missed occurrences, and the next one is in the future
        assert [(on_time, span > "00:09:59") for _, _, on_time, span in caught_up] == [("t", True)]
        assert [occurrence for occurrence, *_ in found].count(missed) == 1
