"""Several processes on one PostgreSQL and one Redis: they share the work, their figures, and the bad days."""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tidings.errors import BackendError
from tidings.testing.fleet import Member, free_port
from tidings.testing.mock_push import MockPushOptions, Rule, SpawnedMockPush, spawn
from tidings.testing.postgres import PostgresServer
from tidings.testing.server import TidingsServer, eventually
from tidings.testing.valkey import ValkeyServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]
PEOPLE = 20


@dataclass(frozen=True)
class Place:
    """Where a fleet runs: servers of its own, because it stops them."""

    postgres: PostgresServer
    valkey: ValkeyServer
    push: SpawnedMockPush
    data_dir: Path
    settings: Mapping[str, str]

    def member(self, command: Any, *options: str, **more: str) -> Member:
        return Member(command, self.data_dir, settings={**self.settings, **more}, options=options)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    with PostgresServer(settings=("fsync=off",)) as postgres, ValkeyServer(append_only=True) as valkey:
        async with spawn(MockPushOptions(verify_share=0.02)) as push:
            settings = {
                "TIDINGS_DATABASE": postgres.fresh(),
                "TIDINGS_REDIS": valkey.url,
                "TIDINGS_PUSH_EXTRA_HOSTS": push.origin.removeprefix("http://"),
                "TIDINGS_DATABASE_POOL": "8",
            }
            yield Place(postgres, valkey, push, tmp_path_factory.mktemp("fleet") / "data", settings)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(place: Place) -> AsyncIterator[tuple[Member, Member, Member]]:
    """An API process and two workers, started together on an empty database; with users who have a device each."""
    members = (place.member("api"), place.member("worker"), place.member("worker"))
    async with AsyncExitStack() as stack:
        await asyncio.gather(*(stack.enter_async_context(member) for member in members))
        await _sign_up(members[0], place.push)
        yield members


async def _sign_up(api: TidingsServer, push: SpawnedMockPush) -> None:
    for name in (f"u{number:04}" for number in range(PEOPLE)):
        await api.expect(201, "PUT", f"/api/users/{name}", {})
        wanted = {**(await push.control.subscription(name)), "device": "Phone"}
        await api.expect(201, "POST", "/api/push/subscribe", wanted, token=api.user_token(name))


async def tell(api: TidingsServer, user: str, **more: object) -> str:
    body = {"userId": user, "templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "You"}, **more}
    return str((await api.expect(202, "POST", "/api/notifications", body)).read(Json)["id"])


async def metric(member: TidingsServer, name: str) -> float:
    """Return the sum of a metric over its labels."""
    lines = (await member.expect(200, "GET", "/metrics", token=None)).body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


async def test_what_one_accepts_others_send(fleet: tuple[Member, Member, Member]) -> None:
    api, *_ = fleet
    ids = [await tell(api, f"u{number:04}") for number in range(20)]
    for one in ids:
        progress = await api.finished(one)
        assert progress.by_state == {"delivered": 1}


async def test_a_worker_answers_about_itself_and_nothing_else(fleet: tuple[Member, Member, Member]) -> None:
    api, worker, _ = fleet
    shown = (await worker.expect(200, "GET", "/health/worker", token=None)).read(Json)
    assert shown["status"] == "ok"
    assert [one["kind"] for one in shown["workers"]] == ["worker", "worker"]
    await worker.expect(200, "GET", "/health/live", token=None)
    await worker.expect(404, "GET", "/api/notifications")
    libraries = [Path(f"/proc/{member.pid}/maps").read_text() for member in (api, worker)]
    assert ["websockets/speedups" in loaded for loaded in libraries] == [True, False], "a worker need not carry them"


async def test_a_worker_steps_back_for_the_others_of_its_machine(fleet: tuple[Member, Member, Member]) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    given = [os.getpriority(os.PRIO_PROCESS, one.pid) for one in fleet]
    assert given == [own, min(19, own + 10), min(19, own + 10)]


async def test_one_scrape_shows_what_all_did_also_the_dead(place: Place, fleet: tuple[Member, Member, Member]) -> None:
    api, first, second = fleet

    async def attempts() -> set[float]:
        return {await metric(member, "tidings_attempts_total") for member in (api, first, second)}

    before = max(await attempts())
    for number in range(10):
        await api.finished(await tell(api, f"u{number:04}"))
    assert await eventually(lambda: _same(attempts, before + 10))
    # a third comes, works, and is killed: what it did stays counted, once
    third = place.member("worker")
    async with third:
        for number in range(10):
            await api.finished(await tell(api, f"u{number:04}"))
        assert await metric(third, "tidings_processes") == 4
        await third.kill()
    assert await eventually(lambda: _same(attempts, before + 20))
    await third.start()
    assert await metric(third, "tidings_attempts_total") == before + 20
    assert await third.stop() == 0
    assert await metric(api, "tidings_attempts_total") == before + 20
    locks = list((place.data_dir / "metrics").glob("*.lock"))
    await metric(api, "tidings_up")
    assert len(list((place.data_dir / "metrics").glob("*.lock"))) == 3, locks


async def _same(figures: Any, wanted: float) -> bool:
    return bool(await figures() == {wanted})


async def test_the_figures_of_the_queue_are_there(fleet: tuple[Member, Member, Member]) -> None:
    text = (await fleet[0].expect(200, "GET", "/metrics", token=None)).body.decode()
    for name in ('tidings_queue_tasks{lane="urgent"', "tidings_queue_oldest_seconds{", "tidings_outbox_age_seconds"):
        assert name in text
    assert re.search(r'tidings_up\{backend="queue"\} 1.0', text)


async def test_a_stop_is_orderly_and_says_so(place: Place, fleet: tuple[Member, Member, Member]) -> None:
    api = fleet[0]
    before = await _workers(api)
    async with place.member("worker") as worker:
        (mine,) = await eventually(lambda: _newcomers(api, before))
        started = time.monotonic()
        assert await worker.stop() == 0
        assert time.monotonic() - started < 8
        # it left: nobody waits 30 seconds to see it gone
        assert mine not in await _workers(api)
        assert "Traceback" not in worker.log_tail()


async def _workers(api: TidingsServer) -> set[str]:
    return {one["id"] for one in (await api.call("GET", "/health/worker", token=None)).read(Json)["workers"]}


async def _newcomers(api: TidingsServer, before: set[str]) -> set[str] | None:
    return await _workers(api) - before or None


async def test_several_api_processes_listen_on_one_port(place: Place) -> None:
    port = str(free_port())
    async with place.member("api", "--port", port, "--reuse-port") as one:
        async with place.member("api", "--port", port, "--reuse-port") as other:
            assert one.url == other.url
            await one.expect(200, "GET", "/health/ready", token=None)
        await one.expect(200, "GET", "/health/ready", token=None)


async def test_a_queue_that_is_away_degrades_and_nothing_is_lost(
    place: Place, fleet: tuple[Member, Member, Member]
) -> None:
    api = fleet[0]
    place.valkey.kill()
    try:
        ready = (await api.expect(200, "GET", "/health/ready", token=None)).read(Json)
        assert (ready["status"], ready["database"]) == ("degraded", "ok")
        away = (await api.expect(503, "GET", "/health/queue", token=None)).read(Json)
        assert away["status"] == "away"
        assert away["problem"]
        # the workers go on from the database
        assert (await api.finished(await tell(api, "u0001"))).by_state == {"delivered": 1}
    finally:
        place.valkey.start()
    await eventually(lambda: _is_ok(api, "/health/queue"), within=15)
    assert (await api.finished(await tell(api, "u0002"))).by_state == {"delivered": 1}


async def _is_ok(member: TidingsServer, path: str) -> bool:
    return (await member.call("GET", path, token=None)).status == 200


async def test_a_database_that_is_away_is_told_fast_and_forgiven(
    place: Place, fleet: tuple[Member, Member, Member]
) -> None:
    api, *workers = fleet
    logged = [member.log.stat().st_size for member in fleet]
    place.postgres.stop("immediate")
    try:
        for _ in range(3):
            started = time.monotonic()
            answer = await api.call("POST", "/api/notifications", {"userId": "u0001", "templateCode": "MESSAGE"})
            assert time.monotonic() - started < 5
            assert answer.status == 503
            assert int(answer.headers["retry-after"]) >= 1
        await api.expect(200, "GET", "/health/live", token=None)
        ready = (await api.expect(503, "GET", "/health/ready", token=None)).read(Json)
        assert ready["status"] == "unavailable"
        assert ready["database"] != "ok"
        assert re.search(r'tidings_up\{backend="queue"\}', (await api.expect(200, "GET", "/metrics")).body.decode())
        await asyncio.sleep(3)  # so that every timer has met it
    finally:
        place.postgres.start()
    started = time.monotonic()

    async def accepted() -> str | None:
        try:
            return await tell(api, "u0001")
        except AssertionError:
            return None

    one = await eventually(accepted, within=10, pause=0.2)
    assert time.monotonic() - started < 10
    assert (await api.finished(one)).by_state == {"delivered": 1}
    for member, size in zip(fleet, logged, strict=True):
        said = member.log.read_bytes()[size:].decode()
        assert "Traceback" not in said, said
        assert said.count("\n") < 60, said
    for worker in workers:
        assert worker.running


@pytest.mark.parametrize("command", ["api", "worker"])
async def test_sqlite_is_one_servers(command: Any, tmp_path: Path) -> None:
    member = Member(command, tmp_path / "data")
    with pytest.raises(BackendError, match=f"is SQLite, which belongs to one server.*tidings {command}.*tidings serve"):
        await member.start()


async def test_a_schema_that_is_behind_is_refused_where_migrating_is_off(place: Place) -> None:
    more = {"TIDINGS_DATABASE": place.postgres.fresh(), "TIDINGS_MIGRATE": "false"}
    with pytest.raises(BackendError, match=r"TIDINGS_MIGRATE: is off.*tidings db upgrade"):
        await place.member("api", **more).start()


async def test_all_in_one_on_postgresql_alone(place: Place) -> None:
    more = {"TIDINGS_REDIS": ""}
    async with place.member("serve", **more) as one, place.member("serve", **more) as other:
        first, second = await tell(one, "u0003"), await tell(other, "u0004")
        assert (await other.finished(first)).by_state == {"delivered": 1}
        assert (await one.finished(second)).by_state == {"delivered": 1}
        assert await one.stop() == 0


@pytest.mark.parametrize("signals", [1, 2])
async def test_what_hangs_at_a_stop_is_given_up_and_sent_by_the_next(place: Place, signals: int) -> None:
    """One signal: in flight is waited for as long as the settings say; two: not at all."""
    more = {"TIDINGS_DATABASE": place.postgres.fresh(), "TIDINGS_QUEUE_PREFIX": f"drain-{signals}"}
    drain = {1: "1.5", 2: "60"}[signals]
    async with place.member("api", **more) as api:
        async with place.member("worker", **more, TIDINGS_DRAIN_SECONDS=drain) as worker:
            await _sign_up(api, place.push)
            await place.push.control.behave(Rule(hang=True))
            before = (await place.push.control.stats()).received
            one = await tell(api, "u0000")
            await place.push.control.wait_for(received=before + 1)
            started = time.monotonic()
            if signals == 2:
                worker.signal()
                # the first was heard; two at once may be one
                await eventually(lambda: _is_deaf(worker))
            assert await worker.stop() == 0
            assert time.monotonic() - started < 8
            assert "Traceback" not in worker.log_tail()
        await place.push.control.behave()
        async with place.member("worker", **more):
            # given back, and not left to its lease of a minute
            assert (await api.finished(one, within=20)).by_state == {"delivered": 1}


async def _is_deaf(member: TidingsServer) -> bool:
    try:
        await member.call("GET", "/health/live", token=None)
    except BackendError:
        return True
    return False
