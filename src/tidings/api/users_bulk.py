"""Many users in one request: NDJSON in, one result per line out (API.md)."""

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from tidings.api import lines
from tidings.api.host import ApiHost
from tidings.api.users import UserBody, user_of
from tidings.edge import bodies, describe
from tidings.edge.fields import UserId
from tidings.errors import Invalid
from tidings.model.user import User

#: lines in one request
MAX_LINES = 100_000
#: users stored in one transaction: short enough that nobody else waits for long
CHUNK = 500


class BulkUserBody(UserBody):
    """A line: the user with the id."""

    id: UserId


def router(host: ApiHost) -> APIRouter:
    """Return the route /users/bulk."""
    routes = APIRouter(tags=["users"])
    store = host.store

    @routes.post(
        "/users/bulk",
        responses={200: {"content": {lines.MEDIA_TYPE: {"schema": {"type": "string"}}}}},
        response_class=Response,
        openapi_extra=describe.takes_lines(BulkUserBody),
    )
    async def bulk(request: Request, _: str = Depends(host.require("notify"))) -> Response:
        """Upsert a user per line.

        Each line is answered with `{line, id, status: created|updated}` or `{line, status: refused, error}`.
        Lines before one that is too large are kept. Sending the same lines again changes nothing.
        """
        results: dict[int, object] = {}
        #: id → the lines that name it, and the user as the last of them has it
        waiting: dict[str, tuple[list[int], User]] = {}

        async def store_waiting() -> None:
            async with store.begin() as tx:
                new = await store.users.upsert(tx, [user for _, user in waiting.values()], host.clock.now())
            for (numbers, user), created in zip(waiting.values(), new, strict=True):
                for number in numbers:
                    status = "created" if created and number == numbers[0] else "updated"
                    results[number] = {"line": number, "id": user.id, "status": status}
            waiting.clear()

        async for number, line in lines.lines(request, at_most=MAX_LINES):
            try:
                body = bodies.read(line, BulkUserBody)
            except Invalid as error:
                results[number] = lines.failed(number, error)
                continue
            if len(waiting) >= CHUNK:
                await store_waiting()
            numbers = [*waiting[body.id][0], number] if body.id in waiting else [number]
            waiting[body.id] = (numbers, user_of(body.id, body))
        if waiting:
            await store_waiting()
        return lines.answer(results[number] for number in sorted(results))

    return routes
