"""Completes `/openapi.json`: problem responses, summaries, and the bodies of routes that parse their own."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TypeAlias, cast

from fastapi import FastAPI
from pydantic import BaseModel

from tidings.api.http.examples import EXAMPLES
from tidings.api.http.problem_codes import PROBLEM_CODES

Json: TypeAlias = dict[str, object]

_REF = "#/components/schemas/{model}"
_METHODS = ("get", "put", "post", "delete", "patch")
#: FastAPI's error schemas, which are replaced by `Problem`
_FRAMEWORK_SCHEMAS = ("HTTPValidationError", "ValidationError")
#: sections of `/docs`: everyday routes first, those of operators last. The tags of packs come between.
_FIRST_TAGS = ("notifications", "users", "preferences", "topics", "push", "inbox", "streams")
_LAST_TAGS = (
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
    "demo",
)
#: last segments of routes that few callers need; they come last in their section
_SPECIAL_ROUTES = ("batch", "bulk", "process")

PROBLEM_SCHEMA: Json = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457 problem details.",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string", "examples": ["urn:tidings:problem:invalid"]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "what is wrong and how to fix it"},
        # no enum: generated clients would reject the codes of a newer server
        "code": {
            "type": "string",
            "description": "\n".join(
                [
                    "Stable. One of:",
                    "",
                    *(f"- `{name}` ({status}): {text}" for name, (status, text) in PROBLEM_CODES.items()),
                ]
            ),
            "examples": list(PROBLEM_CODES),
        },
        "instance": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {
                    "field": {"type": "string", "description": "empty: the whole body"},
                    "message": {"type": "string"},
                },
            },
        },
    },
}
#: status → the problem codes that every route with a trait can return, in addition to the route's own
_DATABASE_PROBLEMS: Mapping[str, str] = {"503": "`backend`: the database does not respond; see `Retry-After`"}
_API_KEY_PROBLEMS: Mapping[str, str] = {
    "401": "`unauthenticated`, `invalid_key`, `invalid_token`",
    "403": "`missing_scope`, `needs_api_key`",
}
_USER_TOKEN_PROBLEMS: Mapping[str, str] = {"401": "`unauthenticated`, `invalid_token`", "403": "`needs_user_token`"}
_BODY_PROBLEMS: Mapping[str, str] = {
    "400": "`malformed_json`: not JSON, nested too deeply, or contains NUL",
    "408": "`too_slow`",
    "413": "`too_large`",
    "415": "`unsupported_media_type`",
    "422": "`invalid`: `errors` lists each field and its fix",
}
#: parameter of a path → the code of 404
_MISSING_PROBLEMS: Mapping[str, str] = {
    "notification_id": "unknown_notification",
    "user_id": "unknown_user",
    "event_id": "event_not_found",
    "order_id": "order_not_found",
    "contact_point_id": "unknown_contact_point",
    "item_id": "unknown_item",
    "suppression_id": "unknown_suppression",
    "channel": "unknown_channel",
}
_PARAMETER_PROBLEMS: Mapping[str, str] = {"422": _BODY_PROBLEMS["422"]}
_IDEMPOTENCY_PROBLEMS: Mapping[str, str] = {"409": "`idempotency_key_in_use`", "422": "`idempotency_key_reused`"}


def describe_body(model: type[BaseModel] | None = None, *, lines: str = "") -> Json:
    """Return the `openapi_extra` of a route that parses its own body.

    model: of a JSON body; lines: description of the lines of an NDJSON body.
    """
    content: Json = {}
    if model is not None:
        schema = cast(Json, json.loads(_generate_schema(model)))
        # with its name among the components, of which generated clients make a class
        definitions = {**cast(Json, schema.pop("$defs", {})), model.__name__: schema}
        content["application/json"] = {"schema": {"$ref": _REF.format(model=model.__name__), "$defs": definitions}}
    if lines:
        content["application/x-ndjson"] = {"schema": {"type": "string", "description": lines}}
    return {"requestBody": {"required": True, "content": content}}


@cache
def _generate_schema(model: type[BaseModel]) -> str:
    """Return the schema of a model as JSON, of which each document takes a copy that it completes."""
    return json.dumps(model.model_json_schema(by_alias=True, ref_template=_REF))


def install(app: FastAPI) -> None:
    """Extend the OpenAPI document that FastAPI generates."""
    generate = app.openapi

    def openapi() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = _complete_document(generate())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the document


def _complete_document(document: Json) -> Json:
    schemas = cast(Json, cast(Json, document["components"])["schemas"])
    for name in _FRAMEWORK_SCHEMAS:
        schemas.pop(name, None)
    schemas["Problem"] = PROBLEM_SCHEMA
    operations: list[tuple[str, str, Json]] = []
    for path, item in cast(dict[str, Json], document["paths"]).items():
        for method in _METHODS:
            if method in item:
                operation = cast(Json, item[method])
                _complete_operation(operation, schemas, path)
                _add_example(operation, method, path)
                operations.append((method, path, operation))
    _shorten_ids(operations)
    document["paths"] = dict(sorted(cast(dict[str, Json], document["paths"]).items(), key=_display_order))
    return document


def _display_order(item: tuple[str, Json]) -> tuple[int, bool]:
    """Return the sort key of a path. Paths with equal keys keep the order in which their routes were added."""
    path, operations = item
    tag = next(iter(cast(list[str], cast(Json, next(iter(operations.values()))).get("tags", []))), "")
    if tag in _FIRST_TAGS:
        section = _FIRST_TAGS.index(tag)
    elif tag in _LAST_TAGS:
        section = len(_FIRST_TAGS) + 1 + _LAST_TAGS.index(tag)
    else:
        section = len(_FIRST_TAGS)
    return section, any(segment in _SPECIAL_ROUTES for segment in path.split("/"))


def _shorten_ids(operations: Sequence[tuple[str, str, Json]]) -> None:
    """Name operations by tag and function: generated clients make functions of the names.

    operations: method, path and operation. Of two with one name, that of the calling user's own path ends in `_own`.
    """
    named = [(_build_name(method, path, operation), path, operation) for method, path, operation in operations]
    counts = Counter(name for name, _, _ in named)
    for name, path, operation in named:
        operation["operationId"] = f"{name}_own" if counts[name] > 1 and "/me/" in path else name


def _build_name(method: str, path: str, operation: Json) -> str:
    # FastAPI's own id is function, path and method
    suffix = re.sub(r"\W", "_", path) + f"_{method}"
    function = str(operation["operationId"]).removesuffix(suffix)
    tag = next(iter(cast(list[str], operation.get("tags", []))), "")
    return re.sub(r"\W", "_", f"{tag}_{function}").lstrip("_")


def _add_example(operation: Json, method: str, path: str) -> None:
    example = EXAMPLES.get((method, path))
    content = cast(dict[str, dict[str, Json]], operation.get("requestBody", {})).get("content", {})
    if example is not None and "application/json" in content:
        content["application/json"]["example"] = cast(Json, example)


def _complete_operation(operation: Json, schemas: Json, path: str) -> None:
    _summarise(operation)
    # public routes state that they require no authentication
    operation.setdefault("security", [])
    responses = cast(Json, operation["responses"])
    if "HTTPValidationError" in str(responses.get("422", "")):
        del responses["422"]
    for status, text in _problems(operation).items():
        responses.setdefault(status, _problem(text))
    missing = [f"`{code}`" for name, code in _MISSING_PROBLEMS.items() if f"{{{name}}}" in path]
    if missing:
        responses.setdefault("404", _problem(" or ".join(missing)))
    for status in ("4XX", "5XX"):
        responses.setdefault(status, _problem("Problem"))
    body = cast(dict[str, dict[str, Json]], operation.get("requestBody", {}))
    for media in body.get("content", {}).values():
        schema = cast(Json, media.get("schema", {}))
        schemas.update(cast(Json, schema.pop("$defs", {})))


def _problems(operation: Json) -> dict[str, str]:
    """Return status → description of the problem responses that follow from an operation's inputs."""
    security = str(operation["security"])
    parameters = str(operation.get("parameters", ""))
    traits = (
        ("apiKey" in security, _API_KEY_PROBLEMS),
        ("userToken" in security, _USER_TOKEN_PROBLEMS),
        ("requestBody" in operation, _BODY_PROBLEMS),
        ("parameters" in operation, _PARAMETER_PROBLEMS),
        ("Idempotency-Key" in parameters, _IDEMPOTENCY_PROBLEMS),
        (operation["security"] or "requestBody" in operation, _DATABASE_PROBLEMS),
    )
    by_status: dict[str, dict[str, None]] = {}
    for applies, problems in traits:
        for status, text in problems.items() if applies else ():
            by_status.setdefault(status, {})[text] = None
    return {status: "; ".join(by_status[status]) for status in sorted(by_status)}


def _problem(text: str) -> Json:
    schema: Json = {"$ref": _REF.format(model="Problem")}
    return {"description": text, "content": {"application/problem+json": {"schema": schema}}}


def _summarise(operation: Json) -> None:
    """Use the first sentence of the description as the summary, unless the route has its own."""
    summary, description = str(operation.get("summary", "")), str(operation.get("description", ""))
    # FastAPI derives both from the function's name: "Set Preferences", "set_preferences_api_users_…"
    is_generated = str(operation.get("operationId", "")).startswith(summary.lower().replace(" ", "_") + "_")
    if not description or not is_generated:
        return
    first, *rest = re.split(r"(?<=\.)\s+", description.strip(), maxsplit=1)
    operation["summary"] = first.rstrip(".")
    operation.pop("description")
    if rest:
        operation["description"] = rest[0]
