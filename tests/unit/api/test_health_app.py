"""What a process answers that only sends: the same health and metrics as the API, and problems for everything else."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from tidings.api.health_app import create_health_app


@pytest.fixture
def ask(call: Any) -> Any:
    return replace(call, app=create_health_app(call.runtime))


@pytest.mark.parametrize("url", ["/health/live", "/health/ready", "/health/queue", "/health/worker"])
async def test_it_answers_what_the_api_answers(call: Any, ask: Any, url: str) -> None:
    own, api = await ask("GET", url, key=None), await call("GET", url, key=None)
    assert (own.status, own.json, own.headers) == (api.status, api.json, api.headers)


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


def test_it_does_not_load_the_framework_of_the_api() -> None:
    program = "import sys, tidings.server, tidings.api.health_app; print({'fastapi', 'websockets'} & {*sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert loaded.stdout == "set()\n"
