"""The OpenAPI document: order, names that generators can use, every problem code, and examples that are valid."""

import ast
import asyncio
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tidings.api.app import create_app
from tidings.api.http.examples import EXAMPLES
from tidings.api.http.problem_codes import PROBLEM_CODES
from tidings.api.http.problem_details import STATUS_BY_CODE, STATUS_BY_ERROR
from tidings.config.settings import Settings
from tidings.container import AppContainer

Json = dict[str, Any]
SOURCES = Path(__file__).parents[4] / "src" / "tidings"
#: codes of jobs and settings, which no HTTP response has
NOT_OVER_HTTP = {"ambiguous_user", "broken_job", "channel_not_configured", "unknown_job", "config", "error"}
ERRORS = {kind.__name__: status for kind, status in STATUS_BY_ERROR.items()}


@pytest.fixture(scope="module")
def document() -> Json:
    async def build() -> Json:
        with TemporaryDirectory() as folder:
            settings = Settings(data_dir=Path(folder)).ensure_secrets()
            async with AppContainer.open(settings) as runtime:
                return create_app(runtime).openapi()

    return asyncio.run(build())


def list_operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield method, path, operation


def find_raised_codes() -> dict[str, set[int]]:
    """Return the codes that the sources raise, with the statuses of their error classes."""
    found: dict[str, set[int]] = {}
    for file in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                function = node.func.value if isinstance(node.func, ast.Attribute) else node.func
                status = ERRORS.get(function.id) if isinstance(function, ast.Name) else None
                for keyword in node.keywords:
                    if keyword.arg == "code" and isinstance(keyword.value, ast.Constant) and status is not None:
                        code = str(keyword.value.value)
                        found.setdefault(code, set()).add(STATUS_BY_CODE.get(code, status))
    return {code: statuses for code, statuses in found.items() if code not in NOT_OVER_HTTP}


def test_every_problem_code_is_in_the_document(document: Json) -> None:
    raised = find_raised_codes() | {kind.code: {status} for kind, status in STATUS_BY_ERROR.items()}
    codes = document["components"]["schemas"]["Problem"]["properties"]["code"]
    for code, statuses in raised.items():
        if code not in NOT_OVER_HTTP:
            assert PROBLEM_CODES.get(code, (0, ""))[0] in statuses, f"add {code!r} to api/http/problem_codes.py"
            assert f"`{code}`" in codes["description"]


def test_names_of_operations_and_schemas_are_short_and_unique(document: Json) -> None:
    names = [operation["operationId"] for _, _, operation in list_operations(document)]
    assert len(set(names)) == len(names)
    assert [name for name in names if "_api_" in name or name.endswith(("_get", "_post"))] == []
    # two models of one name get the names of their modules, which generators cannot use
    assert [name for name in document["components"]["schemas"] if "__" in name] == []


@pytest.mark.parametrize(("method", "path"), EXAMPLES)
def test_an_example_is_a_valid_body(document: Json, method: str, path: str) -> None:
    content = document["paths"][path][method]["requestBody"]["content"]["application/json"]
    schema = {**content["schema"], "components": document["components"]}
    Draft202012Validator(schema).validate(content["example"])
    assert content["example"] == EXAMPLES[method, path]


def test_sections_and_routes_are_in_the_order_of_their_use(document: Json) -> None:
    paths = document["paths"]
    tags = list(dict.fromkeys(next(iter(operations.values()))["tags"][0] for operations in paths.values()))
    assert tags == [
        "notifications",
        "users",
        "preferences",
        "topics",
        "push",
        "inbox",
        "streams",
        "commerce",
        "events",
        "domain events",
        "templates",
        "audiences",
        "recurring notifications",
        "explain",
        "digests",
        "channels",
        "providers",
        "suppressions",
        "hooks",
        "queues",
        "dead letters",
        "health",
    ]
    order = list(paths)
    assert order[0] == "/api/notifications"
    of_notifications = [path for path in order if path.startswith("/api/notifications")]
    assert of_notifications[-2:] == ["/api/notifications/batch", "/api/notifications/process"]
