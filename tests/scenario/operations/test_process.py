"""Due work on demand, and the schedule that looks for it: POST hands over, PUT waits, one process runs it (M22)."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tidings.testing.fleet import Member
from tidings.testing.installation import Installation
from tidings.testing.mock_push import Rule
from tidings.testing.server import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

Json = dict[str, Any]
PATH = "/api/notifications/process"
ON_FLEET = pytest.mark.parametrize("site", ["fleet"], indirect=True)


async def post(site: Installation) -> Json:
    return (await site.api.expect(202, "POST", PATH)).read(Json)


async def received(site: Installation, people: list[str]) -> int:
    """Return how many messages these people have got."""
    return sum(count for device, _, count in await site.push.control.receipts() if device in people)


async def test_put_answers_when_everything_is_sent(site: Installation) -> None:
    people = [f"put-{number}" for number in range(3)]
    await site.sign_up(*people)
    await site.push.control.behave(*(Rule(delay_ms=700, device=user) for user in people))
    one = await site.tell(*people)
    shown = (await site.api.expect(200, "PUT", PATH)).read(Json)
    assert await received(site, people) == 3
    assert (shown["status"], shown["left"]) == ("done", 0)
    if site.scaled:
        # others send, and do not tell this process how it went
        assert (shown["sent"], shown["failed"], shown["retrying"]) == (None, None, None)
    else:
        assert (shown["sent"], shown["failed"], shown["retrying"]) == (3, 0, 0)
        assert (await site.api.progress(one)).by_state == {"delivered": 3}
    assert (await site.api.finished(one)).by_state == {"delivered": 3}


async def test_put_tells_what_did_not_go_well(site: Installation) -> None:
    await site.sign_up("ill-ana", "ill-ben", "ill-cleo")
    await site.push.control.behave(
        Rule(status=403, device="ill-ana"), Rule(status=429, retry_after=600, device="ill-ben")
    )
    one = await site.tell("ill-ana", "ill-ben", "ill-cleo")
    shown = (await site.api.expect(200, "PUT", PATH)).read(Json)
    assert shown["status"] == "done"
    if not site.scaled:
        assert (shown["sent"], shown["failed"], shown["retrying"]) == (1, 1, 1)
    await eventually(lambda: _is(site, one, {"delivered": 1, "refused": 1, "pending": 1}))
    await site.api.expect(200, "DELETE", f"/api/notifications/{one}")


async def _is(site: Installation, notification: str, by_state: dict[str, int]) -> bool:
    return (await site.api.progress(notification)).by_state == by_state


async def test_post_may_be_repeated_and_nothing_is_sent_twice(site: Installation) -> None:
    await site.sign_up("post-ana")
    one = await site.tell("post-ana")
    answers = await asyncio.gather(*(post(site) for _ in range(10)))
    assert {answer["status"] for answer in answers} == {"enqueued"}
    assert (await site.api.finished(one)).by_state == {"delivered": 1}
    assert await received(site, ["post-ana"]) == 1


@ON_FLEET
async def test_post_hands_over_what_has_come_due(site: Installation) -> None:
    await site.sign_up("due-ana", "due-ben")
    await site.push.control.behave(Rule(status=403, device="due-ana"))
    dead = await site.tell("due-ana")
    await site.api.finished(dead)
    await site.push.control.behave()
    for worker in site.workers:
        worker.pause()
    try:
        delayed = await site.tell("due-ben", delay=1500)
        await site.api.expect(202, "POST", "/api/dead-letters/replay", {"notificationId": dead})
        counts = {"tasks": 0, "batches": 0}

        async def both() -> bool:
            found = await post(site)
            for name in counts:
                counts[name] += found[name]
            return counts == {"tasks": 1, "batches": 1}

        # a paused worker may have been the one that held the database's attention: nothing else is there to find it
        await eventually(both, pause=0.3)
    finally:
        for worker in site.workers:
            worker.resume()
    for one in (dead, delayed):
        assert (await site.api.finished(one)).by_state == {"delivered": 1}


@ON_FLEET
async def test_an_api_without_redis_leaves_it_to_the_workers(site: Installation) -> None:
    await site.sign_up("alone-ana")
    settings = {**_own(site), "TIDINGS_REDIS": ""}
    async with Member("api", site.api.data_dir, settings=settings) as alone:
        apart = Installation(alone, site.workers, site.push, site.backends)
        assert (await post(apart))["status"] == "left_to_workers"
        problem = (await alone.expect(409, "PUT", PATH)).read(Json)
        assert problem["code"] == "sends_elsewhere"
        shown = (await alone.expect(200, "GET", "/api/queues")).read(Json)
        assert (shown["status"], shown["lanes"][0]["waiting"]) == ("elsewhere", None)
        # they find it in the database by themselves
        assert (await alone.finished(await apart.tell("alone-ana"))).by_state == {"delivered": 1}
        assert await alone.stop() == 0


def _own(site: Installation, **more: str) -> dict[str, str]:
    own = {name: value for name, value in site.api.environment.items() if name.startswith("TIDINGS_")}
    return own | more


#: notes each run of the schedule that somebody takes
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
async def test_of_three_processes_one_runs_each_beat_and_missed_ones_once(site: Installation) -> None:
    url = site.postgres.fresh()
    database = url.rpartition("/")[2]
    more = {"TIDINGS_DATABASE": url, "TIDINGS_REDIS": "", "TIDINGS_PROCESS_EVERY": "2"}
    members = [Member("worker", site.api.data_dir, settings=_own(site, **more)) for _ in range(3)]

    async def runs() -> list[tuple[str, ...]]:
        query = "SELECT beat, following, at < following, following - beat FROM runs ORDER BY number"
        found = await asyncio.to_thread(site.postgres.sql, query, database)
        return [tuple(line.split("|")) for line in found.splitlines()]

    async def so_many(count: int) -> list[tuple[str, ...]] | None:
        found = await runs()
        return found if len(found) >= count else None

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(members[0])
        await asyncio.to_thread(site.postgres.sql, AUDIT, database)
        await asyncio.gather(*(stack.enter_async_context(member) for member in members[1:]))
        found = await eventually(lambda: so_many(2), within=30, pause=0.3)
        # each beat was taken once, in order
        assert len({beat for beat, *_ in found}) == len(found)
        assert [beat for beat, *_ in found[1:]] == [following for _, following, *_ in found[:-1]]
        # nobody ran for ten minutes
        statement = (
            "UPDATE schedules SET next_at = next_at - interval '10 minutes' WHERE name = 'process' RETURNING next_at"
        )
        missed = (await asyncio.to_thread(site.postgres.sql, statement, database)).splitlines()[0]
        count = len(await runs())
        found = await eventually(lambda: so_many(count + 1), within=20, pause=0.1)
        caught_up = [run for run in found if run[0] == missed]
        # one run for all that were missed, and the next beat is to come
        assert [(on_time, span > "00:09:59") for _, _, on_time, span in caught_up] == [("t", True)]
        assert [beat for beat, *_ in found].count(missed) == 1
