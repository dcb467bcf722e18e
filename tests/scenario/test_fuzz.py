"""Requests made up from `/openapi.json`, fitting it or narrowly missing it: no answer is a fault of ours."""

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

from tidings.testing.server import ADMIN_KEY, TidingsServer

EXAMPLES = 12
#: seconds for all routes; what is left then is left out, so that a busy machine takes no longer
BUDGET = 40.0
#: a refusal and a rate limit are answers too
FAULTS = range(500, 600)


@schemathesis.serializer("application/x-ndjson")
def ndjson(_context: schemathesis.SerializationContext, value: object) -> bytes:
    """A made-up body where lines are expected: one line."""
    return msgspec.json.encode(value) + b"\n"


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.name.lower())
def test_no_made_up_request_is_a_fault_of_ours(server: TidingsServer, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    ends = time.monotonic() + BUDGET / 2
    tried, faults = 0, []
    with requests.Session() as session:
        for found in schema.get_all_operations():
            operation: Any = found.ok()  # type: ignore[union-attr]  # an invalid description raises here, as it should
            statuses: list[int] = []
            run(operation, mode, _caller(server, operation, session, statuses), ends)
            tried += bool(statuses)
            faults += [(operation.label, status) for status in statuses if status in FAULTS]
    assert faults == []
    assert tried > 20


def run(operation: Any, mode: GenerationMode, call: Callable[[Any], None], ends: float) -> None:
    """Call an operation with some made-up requests, the same ones in every run."""

    @settings(
        max_examples=EXAMPLES,
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

    # a route that takes nothing cannot be asked wrongly
    with suppress(Unsatisfiable):
        one()


def _caller(
    server: TidingsServer, operation: Any, session: requests.Session, statuses: list[int]
) -> Callable[[Any], None]:
    own = any("userToken" in scheme for scheme in operation.definition.raw.get("security", []))
    token = server.user_token("fuzz") if own else ADMIN_KEY

    def call(case: Any) -> None:
        # a case may bring a made-up credential or none; here the request is tried, not the lock
        prepared = case.as_transport_kwargs()
        prepared["headers"] = {**prepared.get("headers", {}), "Authorization": f"Bearer {token}"}
        response = session.request(**prepared, timeout=20)
        statuses.append(response.status_code)
        if response.status_code >= 400:
            assert response.headers["content-type"] == "application/problem+json", (operation.label, response.content)

    return call
