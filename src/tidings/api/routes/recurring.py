"""Recurring notifications: sent at recurring times, with the audience and the variables of that moment."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import JSONResponse, Response

from tidings.api.accepting.idempotency import IdempotencyContext
from tidings.api.context import RouteContext
from tidings.api.schemas.recurring import RecurringPage, RecurringResponse, RecurringRunPage, RecurringRunResponse
from tidings.schemas.field_types import Cursor
from tidings.schemas.json_route import JsonRoute
from tidings.schemas.recurring import RecurringBody, to_recurring
from tidings.schemas.response_models import LOCATION_HEADER, paginate, paginate_by

PageLimit = Annotated[int, Query(ge=1, le=500)]
NameCursor = Annotated[str | None, Query(max_length=64, description="`nextCursor` of the previous page")]


def router(context: RouteContext) -> APIRouter:
    """Return the routes under /recurring."""
    routes = APIRouter(tags=["recurring notifications"], route_class=JsonRoute)
    _add_definitions(routes, context)
    _add_runs(routes, context)
    return routes


def _add_definitions(routes: APIRouter, context: RouteContext) -> None:
    service, store = context.runtime.recurring, context.store.recurring
    may_read, may_change = Depends(context.require_scopes("read", "notify")), Depends(context.require_scopes("notify"))

    @routes.get("/recurring", dependencies=[may_read])
    async def list_recurring(cursor: NameCursor = None, limit: PageLimit = 50) -> RecurringPage:
        """List recurring notifications in the order of their names."""
        async with context.store.read_snapshot() as tx:
            rows = await store.page(tx, after=cursor, limit=limit + 1)
        page, next_cursor = paginate_by(rows, limit, lambda row: row.name)
        return RecurringPage(items=[RecurringResponse.from_recurring(row) for row in page], next_cursor=next_cursor)

    @routes.get("/recurring/{name}", dependencies=[may_read])
    async def get_recurring(name: str) -> RecurringResponse:
        """Return a recurring notification."""
        async with context.store.read_snapshot() as tx:
            return RecurringResponse.from_recurring(await service.get(tx, name))

    @routes.put(
        "/recurring/{name}",
        dependencies=[may_change],
        responses={
            200: {"model": RecurringResponse},
            201: {"model": RecurringResponse, "description": "created", "headers": LOCATION_HEADER},
        },
        response_class=Response,
    )
    async def put_recurring(name: str, body: RecurringBody) -> Response:
        """Create or replace a recurring notification. Runs that are not made yet use the new definition."""
        stored, is_new = await service.put(to_recurring(name, body))
        headers = {"Location": f"/api/recurring/{name}"} if is_new else None
        return JSONResponse(RecurringResponse.from_recurring(stored).json_object(), 201 if is_new else 200, headers)

    @routes.delete("/recurring/{name}", dependencies=[may_change], status_code=204)
    async def delete_recurring(name: str) -> None:
        """Delete a recurring notification and its runs. Notifications that were accepted are sent all the same."""
        async with context.store.transaction() as tx:
            await service.delete(tx, name)

    @routes.post("/recurring/{name}/pause", dependencies=[may_change])
    async def pause(name: str) -> RecurringResponse:
        """Pause a recurring notification and cancel its pending runs. Repeating the request is harmless."""
        return RecurringResponse.from_recurring(await service.pause(name))

    @routes.post("/recurring/{name}/resume", dependencies=[may_change])
    async def resume(name: str) -> RecurringResponse:
        """Resume a recurring notification with its next time. What was left out meanwhile is not made up."""
        return RecurringResponse.from_recurring(await service.resume(name))


def _add_runs(routes: APIRouter, context: RouteContext) -> None:
    service, store = context.runtime.recurring, context.store.recurring
    may_read = Depends(context.require_scopes("read", "notify"))

    @routes.post(
        "/recurring/{name}/run",
        status_code=202,
        responses={202: {"model": RecurringRunResponse, "headers": LOCATION_HEADER}},
        response_class=Response,
    )
    async def run(
        name: str,
        caller: str = Depends(context.require_scopes("notify")),
        idempotent: IdempotencyContext = Depends(context.idempotent),
    ) -> Response:
        """Run a recurring notification now, for its whole audience. A worker makes the run within a second."""
        async with idempotent(caller, location=f"/api/recurring/{name}/runs") as call:
            started = await service.start_run(call.tx, name)
            return call.respond(202, RecurringRunResponse.from_run(started).json_object())

    @routes.get("/recurring/{name}/runs", dependencies=[may_read])
    async def list_runs(name: str, cursor: Cursor | None = None, limit: PageLimit = 50) -> RecurringRunPage:
        """List the runs of a recurring notification, newest first."""
        async with context.store.read_snapshot() as tx:
            await service.get(tx, name)
            rows = await store.list_runs(tx, name, before=cursor, limit=limit + 1)
        page, next_cursor = paginate(rows, limit)
        return RecurringRunPage(items=[RecurringRunResponse.from_run(row) for row in page], next_cursor=next_cursor)

    @routes.get("/recurring/{name}/runs/{run_id}", dependencies=[may_read])
    async def get_run(name: str, run_id: str) -> RecurringRunResponse:
        """Return a run of a recurring notification."""
        async with context.store.read_snapshot() as tx:
            return RecurringRunResponse.from_run(await service.get_run(tx, name, run_id))

    @routes.post("/recurring/{name}/runs/{run_id}/repeat", dependencies=[Depends(context.require_scopes("notify"))])
    async def repeat_run(name: str, run_id: str) -> RecurringRunResponse:
        """Make a run again that failed, was missed or was cancelled, for the same users; 409 for any other."""
        async with context.store.transaction() as tx:
            return RecurringRunResponse.from_run(await service.repeat_run(tx, name, run_id))
