"""Digests: list those of a user or of a key."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from tidings.api.context import RouteContext
from tidings.api.schemas.digests import DigestPage, DigestResponse
from tidings.model.digest import DigestState
from tidings.schemas.field_types import Cursor
from tidings.schemas.json_route import JsonRoute
from tidings.schemas.response_models import paginate


def router(context: RouteContext) -> APIRouter:
    """Return the routes under /digests."""
    routes = APIRouter(tags=["digests"], route_class=JsonRoute)

    @routes.get("/digests", dependencies=[Depends(context.require_scopes("read"))])
    async def list_digests(
        user_id: Annotated[str | None, Query(alias="userId", max_length=200)] = None,
        key: Annotated[str | None, Query(max_length=200, description="the value of the key expression")] = None,
        state: DigestState = DigestState.OPEN,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        cursor: Cursor | None = None,
    ) -> DigestPage:
        """List digests, newest first."""
        async with context.store.read_snapshot() as tx:
            rows = await context.store.digests.list_page(
                tx, before=cursor, limit=limit + 1, user_id=user_id, key=key, state=state
            )
        page, next_cursor = paginate(rows, limit)
        return DigestPage(items=[DigestResponse.from_digest(row) for row in page], next_cursor=next_cursor)

    return routes
