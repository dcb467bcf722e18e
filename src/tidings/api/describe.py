"""Makes `/openapi.json` honest: problem answers, security schemes, the models of request bodies, summaries."""

import re
from typing import cast

from fastapi import FastAPI

from tidings.edge.describe import REF, Json

_METHODS = ("get", "put", "post", "delete", "patch")
#: what the framework would claim about errors
_FOREIGN = ("HTTPValidationError", "ValidationError")

PROBLEM_SCHEMA: Json = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457 problem details.",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string", "examples": ["urn:tidings:problem:invalid"]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "what is wrong and what would be right"},
        "code": {"type": "string", "description": "stable, for programs"},
        "instance": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {
                    "field": {"type": "string", "description": "empty: the body as a whole"},
                    "message": {"type": "string"},
                },
            },
        },
    },
}
_SCHEMES: Json = {
    "apiKey": {"type": "http", "scheme": "bearer", "description": "API key of a server: `tdg_…`"},
    "userToken": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "Short-lived token of one user: HS256, claims `sub` and `exp`",
    },
}


def install(app: FastAPI) -> None:
    """Complete what the framework describes."""
    describe = app.openapi

    def openapi() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(describe())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the framework's documented way to extend the description


def _complete(description: Json) -> Json:
    components = cast(Json, description.setdefault("components", {}))
    schemas = cast(Json, components.setdefault("schemas", {}))
    for name in _FOREIGN:
        schemas.pop(name, None)
    schemas["Problem"] = PROBLEM_SCHEMA
    components["securitySchemes"] = _SCHEMES
    for path, item in cast(dict[str, Json], description["paths"]).items():
        for method in _METHODS:
            if method in item:
                _complete_operation(path, cast(Json, item[method]), schemas)
    return description


def _complete_operation(path: str, operation: Json, schemas: Json) -> None:
    _summarise(operation)
    responses = cast(Json, operation.setdefault("responses", {}))
    if "HTTPValidationError" in str(responses.get("422", "")):
        del responses["422"]
    for status in ("4XX", "5XX"):
        responses.setdefault(
            status,
            {
                "description": "Problem",
                "content": {"application/problem+json": {"schema": {"$ref": REF.format(model="Problem")}}},
            },
        )
    if path.startswith("/api/"):
        operation.setdefault("security", [{"apiKey": []}])
    body = cast(dict[str, dict[str, Json]], operation.get("requestBody", {}))
    for media in body.get("content", {}).values():
        schema = cast(Json, media.get("schema", {}))
        schemas.update(cast(Json, schema.pop("$defs", {})))


def _summarise(operation: Json) -> None:
    """Let the first sentence of the description be the summary, unless the route has one of its own."""
    summary, description = str(operation.get("summary", "")), str(operation.get("description", ""))
    # the framework makes both from the function's name: "Set Preferences", "set_preferences_api_users_…"
    is_name = str(operation.get("operationId", "")).startswith(summary.lower().replace(" ", "_") + "_")
    if not description or not is_name:
        return
    first, *rest = re.split(r"(?<=\.)\s+", description.strip(), maxsplit=1)
    operation["summary"] = first.rstrip(".")
    operation.pop("description")
    if rest:
        operation["description"] = rest[0]
