"""Several processes on one PostgreSQL and one Redis: shared work, summed metrics, outages and shutdown."""

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
from tests.support.cluster import ServerProcess
from tests.support.server import TidingsServer, eventually

from tidings.errors import BackendError
from tidings.mockpush import MockPushOptions, ResponseRule, SpawnedMockPush, spawn
from tidings.testing.ports import free_port
from tidings.testing.postgres import PostgresServer
from tidings.testing.valkey import ValkeyServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]
USER_COUNT = 20


@dataclass(frozen=True)
class FleetSetup:
    """The servers of a fleet. They are separate, because tests stop them."""

    postgres: PostgresServer
    valkey: ValkeyServer
    push: SpawnedMockPush
    data_dir: Path
    settings: Mapping[str, str]

    def member(self, command: Any, *options: str, **more: str) -> ServerProcess:
        return ServerProcess(command, self.data_dir, settings={**self.settings, **more}, options=options)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def setup(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FleetSetup]:
    with PostgresServer(settings=("fsync=off",)) as postgres, ValkeyServer(append_only=True) as valkey:
        async with spawn(MockPushOptions(verify_share=0.02)) as push:
            settings = {
                "TIDINGS_DATABASE": postgres.create_database(),
                "TIDINGS_REDIS": valkey.url,
                "TIDINGS_PUSH_EXTRA_HOSTS": push.origin.removeprefix("http://"),
                "TIDINGS_DATABASE_POOL": "8",
            }
            yield FleetSetup(postgres, valkey, push, tmp_path_factory.mktemp("fleet") / "data", settings)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(setup: FleetSetup) -> AsyncIterator[tuple[ServerProcess, ServerProcess, ServerProcess]]:
    """An API process and two workers, started together on an empty database, and users with one device each."""
    members = (setup.member("api"), setup.member("worker"), setup.member("worker"))
    async with AsyncExitStack() as stack:
        await asyncio.gather(*(stack.enter_async_context(member) for member in members))
        await _sign_up(members[0], setup.push)
        yield members


async def _sign_up(api: TidingsServer, push: SpawnedMockPush) -> None:
    for name in (f"u{number:04}" for number in range(USER_COUNT)):
        await api.expect(201, "PUT", f"/api/users/{name}", {})
        wanted = {**(await push.control.subscription(name)), "device": "Phone"}
        await api.expect(201, "POST", "/api/push/subscribe", wanted, token=api.user_token(name))


async def send_message(api: TidingsServer, user: str, **more: object) -> str:
    body = {"userId": user, "templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "You"}, **more}
    return str((await api.expect(202, "POST", "/api/notifications", body)).read(Json)["id"])


async def metric(member: TidingsServer, name: str) -> float:
    """Return the sum of a metric over its labels."""
    lines = (await member.expect(200, "GET", "/metrics", token=None)).body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


async def test_workers_send_what_the_api_process_accepts(
    fleet: tuple[ServerProcess, ServerProcess, ServerProcess],
) -> None:
    api, *_ = fleet
    ids = [await send_message(api, f"u{number:04}") for number in range(20)]
    for notification in ids:
        progress = await api.wait_until_finished(notification)
        assert progress.by_state == {"delivered": 1}


async def test_a_worker_serves_health_routes_only(
    fleet: tuple[ServerProcess, ServerProcess, ServerProcess],
) -> None:
    api, worker, _ = fleet
    shown = (await worker.expect(200, "GET", "/health/worker", token=None)).read(Json)
    assert shown["status"] == "ok"
    assert [worker["kind"] for worker in shown["workers"]] == ["worker", "worker"]
    await worker.expect(200, "GET", "/health/live", token=None)
    await worker.expect(404, "GET", "/api/notifications")
    libraries = [Path(f"/proc/{member.pid}/maps").read_text() for member in (api, worker)]
    assert ["websockets/speedups" in loaded for loaded in libraries] == [True, False], "a worker need not load them"


async def test_a_worker_lowers_its_cpu_priority(
    fleet: tuple[ServerProcess, ServerProcess, ServerProcess],
) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    given = [os.getpriority(os.PRIO_PROCESS, process.pid) for process in fleet]
    assert given == [own, min(19, own + 10), min(19, own + 10)]


async def test_one_scrape_covers_all_processes_including_killed_ones(
    setup: FleetSetup, fleet: tuple[ServerProcess, ServerProcess, ServerProcess]
) -> None:
    api, first, second = fleet

    async def attempts() -> set[float]:
        return {await metric(member, "tidings_attempts_total") for member in (api, first, second)}

    before = max(await attempts())
    for number in range(10):
        await api.wait_until_finished(await send_message(api, f"u{number:04}"))
    assert await eventually(lambda: _all_equal(attempts, before + 10))
    # a third worker starts, sends and is killed: its sends stay counted, once
    third = setup.member("worker")
    async with third:
        for number in range(10):
            await api.wait_until_finished(await send_message(api, f"u{number:04}"))
        assert await metric(third, "tidings_processes") == 4
        await third.kill()
    assert await eventually(lambda: _all_equal(attempts, before + 20))
    await third.start()
    assert await metric(third, "tidings_attempts_total") == before + 20
    assert await third.stop() == 0
    assert await metric(api, "tidings_attempts_total") == before + 20
    # three processes, and the one that was restarted in its own slot
    assert len(list((setup.data_dir / "metrics").glob("*/lock"))) == 4


async def _all_equal(figures: Any, wanted: float) -> bool:
    return bool(await figures() == {wanted})


async def test_queue_metrics_are_exposed(fleet: tuple[ServerProcess, ServerProcess, ServerProcess]) -> None:
    text = (await fleet[0].expect(200, "GET", "/metrics", token=None)).body.decode()
    for name in ('tidings_queue_tasks{lane="urgent"', "tidings_queue_oldest_seconds{", "tidings_outbox_age_seconds"):
        assert name in text
    assert re.search(r'tidings_up\{backend="queue"\} 1.0', text)


async def test_a_stopped_worker_deregisters_at_once(
    setup: FleetSetup, fleet: tuple[ServerProcess, ServerProcess, ServerProcess]
) -> None:
    api = fleet[0]
    before = await _workers(api)
    async with setup.member("worker") as worker:
        (mine,) = await eventually(lambda: _newcomers(api, before))
        started = time.monotonic()
        assert await worker.stop() == 0
        assert time.monotonic() - started < 8
        # it deregistered, so operators need not wait 30 seconds for it to disappear
        assert mine not in await _workers(api)
        assert "Traceback" not in worker.log_tail()


async def _workers(api: TidingsServer) -> set[str]:
    return {worker["id"] for worker in (await api.call("GET", "/health/worker", token=None)).read(Json)["workers"]}


async def _newcomers(api: TidingsServer, before: set[str]) -> set[str] | None:
    return await _workers(api) - before or None


async def test_several_api_processes_listen_on_one_port(setup: FleetSetup) -> None:
    port = str(free_port())
    async with setup.member("api", "--port", port, "--reuse-port") as process:
        async with setup.member("api", "--port", port, "--reuse-port") as other:
            assert process.url == other.url
            await process.expect(200, "GET", "/health/ready", token=None)
        await process.expect(200, "GET", "/health/ready", token=None)


async def test_a_queue_outage_degrades_the_service_and_no_work_is_lost(
    setup: FleetSetup, fleet: tuple[ServerProcess, ServerProcess, ServerProcess]
) -> None:
    api = fleet[0]
    setup.valkey.kill()
    try:
        ready = (await api.expect(200, "GET", "/health/ready", token=None)).read(Json)
        assert (ready["status"], ready["database"]) == ("degraded", "ok")
        away = (await api.expect(503, "GET", "/health/queue", token=None)).read(Json)
        assert away["status"] == "away"
        assert away["problem"]
        # the workers continue from the database
        assert (await api.wait_until_finished(await send_message(api, "u0001"))).by_state == {"delivered": 1}
    finally:
        setup.valkey.start()
    await eventually(lambda: _is_ok(api, "/health/queue"), within=15)
    assert (await api.wait_until_finished(await send_message(api, "u0002"))).by_state == {"delivered": 1}


async def _is_ok(member: TidingsServer, path: str) -> bool:
    return (await member.call("GET", path, token=None)).status == 200


async def test_a_database_outage_is_reported_quickly_and_recovered_from(
    setup: FleetSetup, fleet: tuple[ServerProcess, ServerProcess, ServerProcess]
) -> None:
    api, *workers = fleet
    logged = [member.log.stat().st_size for member in fleet]
    setup.postgres.stop("immediate")
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
        await asyncio.sleep(3)  # so that every background task has met the outage
    finally:
        setup.postgres.start()
    started = time.monotonic()

    async def accepted() -> str | None:
        try:
            return await send_message(api, "u0001")
        except AssertionError:
            return None

    notification = await eventually(accepted, within=10, pause=0.2)
    assert time.monotonic() - started < 10
    assert (await api.wait_until_finished(notification)).by_state == {"delivered": 1}
    for member, size in zip(fleet, logged, strict=True):
        log = member.log.read_bytes()[size:].decode()
        assert "Traceback" not in log, log
        assert log.count("\n") < 60, log
    for worker in workers:
        assert worker.is_running


@pytest.mark.parametrize("command", ["api", "worker"])
async def test_sqlite_is_refused_for_several_processes(command: Any, tmp_path: Path) -> None:
    member = ServerProcess(command, tmp_path / "data")
    message = f"is SQLite, which supports one server process.*tidings {command}.*tidings serve"
    with pytest.raises(BackendError, match=message):
        await member.start()


async def test_an_outdated_schema_is_refused_when_migration_is_disabled(setup: FleetSetup) -> None:
    more = {"TIDINGS_DATABASE": setup.postgres.create_database(), "TIDINGS_MIGRATE": "false"}
    with pytest.raises(BackendError, match=r"TIDINGS_MIGRATE: is off.*tidings db upgrade"):
        await setup.member("api", **more).start()


async def test_all_in_one_servers_on_postgresql_without_redis(setup: FleetSetup) -> None:
    more = {"TIDINGS_REDIS": ""}
    async with setup.member("serve", **more) as server, setup.member("serve", **more) as other:
        first, second = await send_message(server, "u0003"), await send_message(other, "u0004")
        assert (await other.wait_until_finished(first)).by_state == {"delivered": 1}
        assert (await server.wait_until_finished(second)).by_state == {"delivered": 1}
        assert await server.stop() == 0


@pytest.mark.parametrize("signals", [1, 2])
async def test_hanging_sends_are_abandoned_on_stop_and_sent_by_the_next_worker(setup: FleetSetup, signals: int) -> None:
    """After one signal, sends in flight are waited for up to the drain timeout; after a second signal, not at all."""
    more = {"TIDINGS_DATABASE": setup.postgres.create_database(), "TIDINGS_QUEUE_PREFIX": f"drain-{signals}"}
    drain = {1: "1.5", 2: "60"}[signals]
    async with setup.member("api", **more) as api:
        async with setup.member("worker", **more, TIDINGS_DRAIN_SECONDS=drain) as worker:
            await _sign_up(api, setup.push)
            await setup.push.control.set_rules(ResponseRule(hang=True))
            before = (await setup.push.control.stats()).received
            notification = await send_message(api, "u0000")
            await setup.push.control.wait_for(received=before + 1)
            started = time.monotonic()
            if signals == 2:
                worker.request_stop()
                # the first signal was handled; two signals at once may be merged into one
                await eventually(lambda: _refuses_connections(worker))
            assert await worker.stop() == 0
            assert time.monotonic() - started < 8
            assert "Traceback" not in worker.log_tail()
        await setup.push.control.set_rules()
        async with setup.member("worker", **more):
            # released, and not left to its lease of a minute
            assert (await api.wait_until_finished(notification, within=20)).by_state == {"delivered": 1}


async def _refuses_connections(member: TidingsServer) -> bool:
    try:
        await member.call("GET", "/health/live", token=None)
    except BackendError:
        return True
    return False
