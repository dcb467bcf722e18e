"""Requests made up from `/openapi.json`: no answer is a fault of ours."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error

from tidings.testing.server import ADMIN_KEY, TidingsServer

EXAMPLES = 15


@pytest.fixture(scope="module")
def described(server: TidingsServer) -> Any:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


schema = schemathesis.pytest.from_fixture("described")


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
def test_no_made_up_request_is_a_fault_of_ours(case: Case, server: TidingsServer) -> None:
    own = any("userToken" in scheme for scheme in case.operation.definition.raw.get("security", []))
    token = server.user_token("fuzz") if own else ADMIN_KEY
    response = case.call(headers={"Authorization": f"Bearer {token}"}, timeout=20)
    case.validate_response(response, checks=[not_a_server_error])
