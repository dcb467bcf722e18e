"""Bulk upsert of users: an NDJSON request with one result per line."""

from collections.abc import Sequence

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from tidings.api.context import RouteContext
from tidings.api.http import ndjson
from tidings.api.http.openapi import describe_body
from tidings.api.routes.users import UserBody, to_user
from tidings.errors import ValidationFailed
from tidings.model.user import User
from tidings.ports.transaction import retry_on_conflict
from tidings.schemas import json_body
from tidings.schemas.field_types import UserId

#: lines per request
MAX_LINES = 100_000
#: users per transaction; keeps the wait of other writers short
USERS_PER_TRANSACTION = 500


class BulkUserBody(UserBody):
    """One line: a user with its id."""

    id: UserId


_FIELDS = BulkUserBody.model_json_schema()["properties"]


def router(context: RouteContext) -> APIRouter:
    """Return the route /users/bulk."""
    routes = APIRouter(tags=["users"])
    store = context.store

    @routes.post(
        "/users/bulk",
        responses={200: {"content": {ndjson.MEDIA_TYPE: {"schema": {"type": "string"}}}}},
        response_class=Response,
        openapi_extra=describe_body(lines=f"one JSON document per line: {', '.join(_FIELDS)}"),
    )
    async def bulk(request: Request, _: str = Depends(context.require_scopes("notify"))) -> Response:
        """Upsert a user per line.

        The result of a line is `{line, id, status: created|updated}` or `{line, status: refused, error}`.
        If a line is too large, the lines before it may already be stored. Repeating a request has no further effect.
        """
        results: dict[int, object] = {}
        #: user id → its line numbers, and the user of its last line
        pending: dict[str, tuple[list[int], User]] = {}

        async def store_pending() -> Sequence[bool]:
            async with store.transaction() as tx:
                return await store.users.upsert(tx, [user for _, user in pending.values()], context.clock.now())

        async def flush() -> None:
            created_flags = await retry_on_conflict(store_pending)
            for (numbers, user), created in zip(pending.values(), created_flags, strict=True):
                for number in numbers:
                    status = "created" if created and number == numbers[0] else "updated"
                    results[number] = {"line": number, "id": user.id, "status": status}
            pending.clear()

        async for number, line in ndjson.read_lines(request, max_lines=MAX_LINES):
            try:
                body = json_body.parse_body(line, BulkUserBody)
            except ValidationFailed as error:
                results[number] = ndjson.error_result(number, error)
                continue
            if len(pending) >= USERS_PER_TRANSACTION:
                await flush()
            numbers = [*pending[body.id][0], number] if body.id in pending else [number]
            pending[body.id] = (numbers, to_user(body.id, body))
        if pending:
            await flush()
        return ndjson.response(results[number] for number in sorted(results))

    return routes
