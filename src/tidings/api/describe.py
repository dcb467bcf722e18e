"""Makes `/openapi.json` honest: request bodies, problem answers, security schemes."""

from typing import TypeAlias, cast

from fastapi import FastAPI
from pydantic import BaseModel

Json: TypeAlias = dict[str, object]

_REF = "#/components/schemas/{model}"
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
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
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
_IDEMPOTENCY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "maxLength": 255},
    "description": "Same key and body: the first answer again (`Idempotency-Replayed: true`). Kept for 24 h.",
}


def takes(model: type[BaseModel], *, security: str = "apiKey", once: bool = False, lines: bool = False) -> Json:
    """Return the `openapi_extra` of a route that reads its own body.

    once: it honours `Idempotency-Key`; lines: it also takes one document per line (NDJSON).
    """
    schema = model.model_json_schema(by_alias=True, ref_template=_REF)
    content: Json = {"application/json": {"schema": schema}}
    if lines:
        content["application/x-ndjson"] = {"schema": {"type": "string", "description": "one document per line"}}
    extra: Json = {"requestBody": {"required": True, "content": content}, "security": [{security: []}]}
    if once:
        extra["parameters"] = [_IDEMPOTENCY]
    return extra


def takes_lines(model: type[BaseModel]) -> Json:
    """Return the `openapi_extra` of a route that takes one document per line (NDJSON)."""
    schema = {
        "type": "string",
        "description": f"one document per line: {', '.join(model.model_json_schema()['properties'])}",
    }
    return {
        "requestBody": {"required": True, "content": {"application/x-ndjson": {"schema": schema}}},
        "security": [{"apiKey": []}],
    }


def called_by(*schemes: str) -> Json:
    """Return the `openapi_extra` of a route without a body: any of the schemes will do; none = public."""
    return {"security": [{scheme: []} for scheme in schemes]}


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
    responses = cast(Json, operation.setdefault("responses", {}))
    if "HTTPValidationError" in str(responses.get("422", "")):
        del responses["422"]
    for status in ("4XX", "5XX"):
        responses.setdefault(
            status,
            {
                "description": "Problem",
                "content": {"application/problem+json": {"schema": {"$ref": _REF.format(model="Problem")}}},
            },
        )
    if path.startswith("/api/"):
        operation.setdefault("security", [{"apiKey": []}])
    body = cast(dict[str, dict[str, Json]], operation.get("requestBody", {}))
    for media in body.get("content", {}).values():
        schema = cast(Json, media.get("schema", {}))
        schemas.update(cast(Json, schema.pop("$defs", {})))
