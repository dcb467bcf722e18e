"""What a process answers that only sends: the same health and metrics as the API, and problems for everything else."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from tidings.api import health_checks
from tidings.api.health_app import create_health_app
from tidings.errors import BackendError

PATHS = ("/health/live", "/health/ready", "/health/queue", "/health/worker")
#: loads what a worker loads, apart from its connections, and prints what it need not have
WORKER = """
import socket, sys
from importlib.metadata import entry_points
import tidings.server.processes, tidings.api.health_app
from tidings.server.http import HttpServer
for group in ("tidings.packs", "tidings.channels"):
    [entry.load() for entry in entry_points(group=group)]
HttpServer(None, socket.socket(), print, deadline=1, websockets={websockets}).config.load()
print(sorted({{"fastapi", "websockets"}} & {{*sys.modules}}))
"""


@pytest.fixture
def ask(call: Any) -> Any:
    return replace(call, app=create_health_app(call.runtime))


async def away(*_: object) -> None:
    raise BackendError("it does not answer")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("broken", [None, "database", "queue", "disk"])
@pytest.mark.parametrize("url", PATHS)
async def test_it_answers_what_the_api_answers(
    call: Any, ask: Any, url: str, broken: str | None, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    match broken:
        case "database":
            monkeypatch.setattr(call.runtime.store, "ping", away)
            monkeypatch.setattr(call.runtime.store.outbox, "next_due", away)
            monkeypatch.setattr(call.runtime.store.processes, "seen", away)
        case "queue":
            monkeypatch.setattr(call.runtime.queue, "ping", away)
            monkeypatch.setattr(call.runtime.queue, "stats", away)
        case "disk":
            monkeypatch.setattr(health_checks, "_free", lambda _: 1000)
    own, api = await ask(method, url, key=None), await call(method, url, key=None)
    assert (own.status, own.body, own.headers) == (api.status, api.body, api.headers)


async def test_it_has_the_health_routes_of_the_api_and_no_other(call: Any, ask: Any) -> None:
    documented = (await call("GET", "/openapi.json", key=None)).json["paths"]
    assert {route.path for route in ask.app.routes} == {
        path for path, methods in documented.items() if methods.get("get", {}).get("tags") == ["health"]
    }


async def test_its_metrics_come_with_the_headers_of_the_api(call: Any, ask: Any) -> None:
    own, api = await ask("GET", "/metrics", key=None), await call("GET", "/metrics", key=None)
    length = "content-length"
    assert {**own.headers, length: ""} == {**api.headers, length: ""}


async def test_what_nobody_foresaw_is_a_problem(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def bug(_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(health_checks, "_schema", bug)
    reply = await ask("GET", "/health/ready", key=None)
    assert (reply.status, reply.json["code"]) == (500, "internal")
    assert reply.headers["x-content-type-options"] == "nosniff"


async def test_requests_are_counted_by_route(ask: Any) -> None:
    await ask("GET", "/health/live", key=None)
    text = (await ask("GET", "/metrics", key=None)).body.decode()
    assert 'tidings_http_requests_total{method="GET",route="/health/live",status="200"} 1.0' in text
    assert "tidings_queue_tasks" in text


@pytest.mark.parametrize(
    ("method", "url", "status", "code"),
    [
        ("GET", "/api/users", 404, "no_route"),
        ("GET", "/health/live/", 404, "no_route"),
        ("GET", "/docs", 404, "no_route"),
        ("POST", "/health/live", 405, "method_not_allowed"),
    ],
)
async def test_everything_else_is_a_problem(ask: Any, method: str, url: str, status: int, code: str) -> None:
    reply = await ask(method, url, key=None)
    assert (reply.status, reply.json["code"]) == (status, code)
    assert reply.headers["content-type"] == "application/problem+json"
    assert "openapi" not in reply.json["detail"], "which is not here"


async def test_the_api_says_where_its_routes_are_listed(call: Any) -> None:
    reply = await call("GET", "/api/nothing")
    assert reply.json["detail"] == "There is nothing at /api/nothing. GET /openapi.json lists what there is."


@pytest.mark.parametrize(("websockets", "loaded"), [(False, "[]\n"), (True, "['websockets']\n")])
def test_a_worker_does_not_load_what_only_the_api_needs(websockets: bool, loaded: str) -> None:
    program = WORKER.format(websockets=websockets)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == loaded
