"""Request bodies of the events routes in the OpenAPI document.

The routes read their bodies themselves (so that every fault is one of ours), hence FastAPI does not know the models.
"""

from tidings.packs.events.intake import Body


def documented(model: type[Body]) -> dict[str, object]:
    """Return the `openapi_extra` of a route that reads this body."""
    schema = model.model_json_schema(by_alias=True)
    # the models are flat: a schema with references would point nowhere from inside an operation
    assert "$defs" not in schema
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
