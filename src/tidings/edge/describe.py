"""What `/openapi.json` says of routes that read their own bodies, which the framework cannot see."""

from typing import TypeAlias

from pydantic import BaseModel

Json: TypeAlias = dict[str, object]

#: where the models that a body refers to are found; `tidings.api.describe` moves them there
REF = "#/components/schemas/{model}"
_IDEMPOTENCY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "maxLength": 255},
    "description": "Same key and body: the first answer again (`Idempotency-Replayed: true`). Kept for 24 h.",
}


def takes(
    model: type[BaseModel] | None = None, *, security: str = "apiKey", once: bool = False, lines: bool = False
) -> Json:
    """Return the `openapi_extra` of a route that reads its own body, if it has one.

    security: who may call; once: it honours `Idempotency-Key`; lines: it also takes a document per line (NDJSON).
    """
    extra = called_by(security)
    if model is not None:
        schema = model.model_json_schema(by_alias=True, ref_template=REF)
        content: Json = {"application/json": {"schema": schema}}
        if lines:
            content["application/x-ndjson"] = {"schema": {"type": "string", "description": "one document per line"}}
        extra["requestBody"] = {"required": True, "content": content}
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
