"""What the OpenAPI document says of requests to the events routes.

The routes read their bodies themselves (so that every fault is one of ours), hence FastAPI does not know the models.
"""

from tidings.packs.events.intake import Body

_ONCE = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "maxLength": 255},
    "description": "Same key and body: the first answer again (`Idempotency-Replayed: true`). Kept for 24 h.",
}


def documented(model: type[Body] | None = None) -> dict[str, object]:
    """Return the `openapi_extra` of a route that works once per `Idempotency-Key` and reads this body, if any."""
    extra: dict[str, object] = {"parameters": [_ONCE]}
    if model is not None:
        schema = model.model_json_schema(by_alias=True)
        # the models are flat: a schema with references would point nowhere from inside an operation
        assert "$defs" not in schema
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return extra
