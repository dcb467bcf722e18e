"""The HTTP interface of a worker: the API's health and metrics routes, and problems for all other paths."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from tidings.api.health import checks
from tidings.api.health.worker_app import create_health_app
from tidings.errors import BackendError

PATHS = ("/health/live", "/health/ready", "/health/queue", "/health/worker")
#: imports what a worker imports without its connections, and prints the modules that a worker does not need
WORKER = """
import socket, sys
from importlib.metadata import entry_points
import tidings.server.roles, tidings.api.health.worker_app
from tidings.server.uvicorn_server import HttpServer
for group in ("tidings.packs", "tidings.channels"):
    [entry.load() for entry in entry_points(group=group)]
HttpServer(None, socket.socket(), print, deadline=1, websockets={websockets}).config.load()
print(sorted({{"fastapi", "websockets", "icalendar", "dkim", "dns"}} & {{*sys.modules}}))
"""


@pytest.fixture
def worker_call(call: Any) -> Any:
    return replace(call, app=create_health_app(call.runtime))


async def fail(*_: object) -> None:
    raise BackendError("it does not answer")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("broken", [None, "database", "queue", "disk"])
@pytest.mark.parametrize("url", PATHS)
async def test_a_worker_returns_the_same_health_as_the_api(
    call: Any, worker_call: Any, url: str, broken: str | None, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    match broken:
        case "database":
            monkeypatch.setattr(call.runtime.store, "ping", fail)
            monkeypatch.setattr(call.runtime.store.outbox, "next_due_at", fail)
            monkeypatch.setattr(call.runtime.store.processes, "list_alive", fail)
        case "queue":
            monkeypatch.setattr(call.runtime.queue, "ping", fail)
            monkeypatch.setattr(call.runtime.queue, "stats", fail)
        case "disk":
            monkeypatch.setattr(checks, "_free_bytes", lambda _: 1000)
    own, api = await worker_call(method, url, key=None), await call(method, url, key=None)
    assert (own.status, own.body, own.headers) == (api.status, api.body, api.headers)


async def test_a_worker_has_the_health_routes_of_the_api_only(call: Any, worker_call: Any) -> None:
    documented = (await call("GET", "/openapi.json", key=None)).json["paths"]
    assert {route.path for route in worker_call.app.routes} == {
        path for path, methods in documented.items() if methods.get("get", {}).get("tags") == ["health"]
    }


async def test_a_workers_metrics_have_the_headers_of_the_api(call: Any, worker_call: Any) -> None:
    own, api = await worker_call("GET", "/metrics", key=None), await call("GET", "/metrics", key=None)
    length = "content-length"
    assert {**own.headers, length: ""} == {**api.headers, length: ""}


async def test_an_unexpected_error_is_a_problem(worker_call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def bug(_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(checks, "_check_schema", bug)
    reply = await worker_call("GET", "/health/ready", key=None)
    assert (reply.status, reply.json["code"]) == (500, "internal")
    assert reply.headers["x-content-type-options"] == "nosniff"


async def test_requests_are_counted_by_route(worker_call: Any) -> None:
    await worker_call("GET", "/health/live", key=None)
    text = (await worker_call("GET", "/metrics", key=None)).body.decode()
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
async def test_everything_else_is_a_problem(worker_call: Any, method: str, url: str, status: int, code: str) -> None:
    reply = await worker_call(method, url, key=None)
    assert (reply.status, reply.json["code"]) == (status, code)
    assert reply.headers["content-type"] == "application/problem+json"
    assert "openapi" not in reply.json["detail"], "which is not here"


async def test_an_unknown_path_of_the_api_points_to_the_openapi_document(call: Any) -> None:
    reply = await call("GET", "/api/nothing")
    assert reply.json["detail"] == "No route matches /api/nothing. GET /openapi.json lists all routes."


@pytest.mark.parametrize(("websockets", "loaded"), [(False, "[]\n"), (True, "['websockets']\n")])
def test_a_worker_does_not_load_what_only_the_api_needs(websockets: bool, loaded: str) -> None:
    program = WORKER.format(websockets=websockets)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == loaded
