"""Fuzzing from `/openapi.json` with valid and slightly invalid requests: no response is a server error."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from tests.support.server import ADMIN_KEY, TidingsServer

#: seconds for all routes; routes left after that are skipped, so that a busy machine takes no longer
BUDGET = 40.0
#: checks that count as failures; rejections and rate limits do not
CHECKS = range(500, 600)


@schemathesis.serializer("application/x-ndjson")
def ndjson(_context: schemathesis.SerializationContext, value: object) -> bytes:
    """Encode a generated value as an NDJSON body of one line."""
    return msgspec.json.encode(value) + b"\n"


@pytest.mark.parametrize(
    ("mode", "examples"),
    [
        (GenerationMode.POSITIVE, 3),
        pytest.param(GenerationMode.POSITIVE, 12, marks=pytest.mark.extended),
        pytest.param(GenerationMode.NEGATIVE, 12, marks=pytest.mark.extended),
    ],
    ids=str,
)
def test_no_generated_request_causes_a_server_error(server: TidingsServer, mode: GenerationMode, examples: int) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    ends = time.monotonic() + BUDGET / 2
    tested, failures = 0, []
    with requests.Session() as session:
        for found in schema.get_all_operations():
            operation: Any = found.ok()  # type: ignore[union-attr]  # an invalid description raises here, as intended
            statuses: list[int] = []
            run(operation, mode, examples, _caller(server, operation, session, statuses), ends)
            tested += bool(statuses)
            failures += [(operation.label, status) for status in statuses if status in CHECKS]
    assert failures == []
    assert tested > 20


def run(operation: Any, mode: GenerationMode, examples: int, call: Callable[[Any], None], ends: float) -> None:
    """Call an operation with generated requests, the same ones in every run."""

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def one(case: Any) -> None:
        if time.monotonic() < ends:
            call(case)

    # a route without parameters has no invalid requests
    with suppress(Unsatisfiable):
        one()


def _caller(
    server: TidingsServer, operation: Any, session: requests.Session, statuses: list[int]
) -> Callable[[Any], None]:
    own = any("userToken" in scheme for scheme in operation.definition.raw.get("security", []))
    token = server.user_token("fuzz") if own else ADMIN_KEY

    def call(case: Any) -> None:
        # replaces generated credentials: this tests requests, not authentication
        prepared = case.as_transport_kwargs()
        prepared["headers"] = {**prepared.get("headers", {}), "Authorization": f"Bearer {token}"}
        response = session.request(**prepared, timeout=20)
        statuses.append(response.status_code)
        if response.status_code >= 400:
            assert response.headers["content-type"] == "application/problem+json", (operation.label, response.content)

    return call
