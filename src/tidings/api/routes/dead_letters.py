"""Dead letters: list, count by error, replay, discard."""

from datetime import datetime
from functools import partial
from typing import Annotated

import msgspec
import structlog
from fastapi import APIRouter, Depends, Query
from pydantic import AfterValidator
from starlette.responses import JSONResponse, Response

from tidings.api.accepting.idempotency import IdempotencyContext, ResumableRequest
from tidings.api.context import RouteContext
from tidings.api.schemas.dead_letters import DEFAULT_REPLAY_RATE, DiscardBody, ReplayBody, reject_nul
from tidings.flow.recover.dead_letter_replay import (
    ReplayBatch,
    ReplayPreview,
    ReplayRate,
    discard_page,
    find_unknown_ids,
    preview_replay,
    remaining_after,
    replay_page,
)
from tidings.ports.operations import DeadLetter, DeadLetterFilter, ErrorGroup
from tidings.ports.store import Transaction
from tidings.schemas.field_types import Cursor, Instant
from tidings.schemas.json_route import JsonRoute
from tidings.schemas.response_models import ResponseModel, paginate

log = structlog.get_logger(__name__)

#: transactions per replay request; at a low rate each one replays only a few deliveries
MAX_REPLAY_STEPS = 600

FilterText = Annotated[str | None, Query(max_length=300), AfterValidator(reject_nul)]


class DeadLetterPage(ResponseModel):
    """Dead letters, newest first."""

    items: list[DeadLetter]
    next_cursor: str | None


class ErrorGroupsResponse(ResponseModel):
    """Dead letters per error, the most frequent first; counted over the newest 100 000."""

    items: list[ErrorGroup]


class ReplayPreviewResponse(ResponseModel):
    """What a replay or discard would affect (`dryRun`). Nothing was changed."""

    dry_run: bool = True
    #: counted up to 10 000
    matching: int
    #: whether there are more than were counted
    more: bool
    replayable: int
    #: whose notification has expired, or will expire before they are due
    expired: int
    cancelled: int
    #: due time of the last replayable one
    until: datetime | None
    #: some of the newest
    sample: list[DeadLetter]
    #: those of `ids` that are not dead letters
    unknown_ids: list[str]


class ReplayResponse(ResponseModel):
    """The result of a replay."""

    replayed: int
    #: due time of the last replayed one
    until: datetime | None
    #: matching ones that were not replayed because their notification has expired
    expired: int
    #: matching ones that were not replayed because their notification was cancelled
    cancelled: int
    #: whether more can be replayed; repeat the request
    more: bool
    #: those of `ids` that are not dead letters
    unknown_ids: list[str]


class DiscardResponse(ResponseModel):
    """The result of a discard."""

    discarded: int
    #: whether there may be more; repeat the request
    more: bool
    #: those of `ids` that are not dead letters
    unknown_ids: list[str]


def filter_from_query(
    error: FilterText = None,
    notification_id: Annotated[FilterText, Query(alias="notificationId")] = None,
    template_code: Annotated[FilterText, Query(alias="templateCode")] = None,
    channel: FilterText = None,
    user_id: Annotated[FilterText, Query(alias="userId")] = None,
    since: Annotated[Instant | None, Query(description="failed at this instant or later")] = None,
    until: Annotated[Instant | None, Query(description="failed before this instant")] = None,
) -> DeadLetterFilter:
    """Return the filter of the query parameters."""
    return DeadLetterFilter(
        error=error,
        notification_id=notification_id,
        template_code=template_code,
        channel=channel,
        user_id=user_id,
        since=since,
        until=until,
    )


def router(context: RouteContext) -> APIRouter:
    """Return the routes under /dead-letters."""
    routes = APIRouter(tags=["dead letters"], route_class=JsonRoute)
    _add_reading(routes, context)
    _add_actions(routes, context)
    return routes


def _add_reading(routes: APIRouter, context: RouteContext) -> None:
    dead_letters = context.store.dead_letters

    @routes.get("/dead-letters")
    async def list_dead_letters(
        selected: Annotated[DeadLetterFilter, Depends(filter_from_query)],
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        cursor: Cursor | None = None,
        _: str = Depends(context.require_scopes("read")),
    ) -> DeadLetterPage:
        """List dead letters, newest first."""
        async with context.store.read_snapshot() as tx:
            rows = await dead_letters.page(tx, selected, before=cursor, limit=limit + 1)
        page, next_cursor = paginate(rows, limit)
        return DeadLetterPage(items=list(page), next_cursor=next_cursor)

    @routes.get("/dead-letters/errors")
    async def errors(
        selected: Annotated[DeadLetterFilter, Depends(filter_from_query)],
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        _: str = Depends(context.require_scopes("read")),
    ) -> ErrorGroupsResponse:
        """Count dead letters by error, the most frequent first."""
        async with context.store.read_snapshot() as tx:
            groups = await dead_letters.group_by_error(tx, selected, limit=limit)
        return ErrorGroupsResponse(items=list(groups))


def _add_actions(routes: APIRouter, context: RouteContext) -> None:
    require_admin = context.require_scopes("admin")

    @routes.post(
        "/dead-letters/replay",
        status_code=202,
        responses={202: {"model": ReplayResponse}, 200: {"model": ReplayPreviewResponse, "description": "dryRun"}},
        response_class=Response,
    )
    async def replay(
        body: ReplayBody,
        caller: str = Depends(require_admin),
        idempotent: IdempotencyContext = Depends(context.idempotent),
    ) -> Response:
        """Replay dead letters with a new set of attempts, spread over time.

        The newest are replayed first. Those whose notification has expired or was cancelled are counted and not
        replayed.
        """
        selected, rate = body.to_filter(), ReplayRate(body.rate_per_second)
        if body.dry_run:
            return await _dry_run(context, selected, rate)
        resumable = ResumableRequest(idempotent, caller)
        return await _replay(context, resumable, selected, rate, limit=body.limit, caller=caller)

    @routes.post(
        "/dead-letters/discard",
        responses={200: {"model": DiscardResponse | ReplayPreviewResponse}},
        response_class=Response,
    )
    async def discard(
        body: DiscardBody,
        caller: str = Depends(require_admin),
        idempotent: IdempotencyContext = Depends(context.idempotent),
    ) -> Response:
        """Discard dead letters. The history of each delivery is kept."""
        selected = body.to_filter()
        if body.dry_run:
            return await _dry_run(context, selected, ReplayRate(DEFAULT_REPLAY_RATE))
        resumable = ResumableRequest(idempotent, caller)
        return await _discard(context, resumable, selected, limit=body.limit, caller=caller)


async def _dry_run(context: RouteContext, selected: DeadLetterFilter, rate: ReplayRate) -> Response:
    async with context.store.read_snapshot() as tx:
        preview = await preview_replay(context.store, tx, selected, rate=rate, now=context.clock.now())
    return JSONResponse(preview_response(preview).json_object())


def preview_response(preview: ReplayPreview) -> ReplayPreviewResponse:
    """Return the response for a dry run."""
    return ReplayPreviewResponse.model_validate(preview)


async def _replay(
    context: RouteContext,
    resumable: ResumableRequest,
    selected: DeadLetterFilter,
    rate: ReplayRate,
    *,
    limit: int,
    caller: str,
) -> Response:
    store, clock = context.store, context.clock
    # before the first replay: a replayed delivery is no longer a dead letter
    unknown_ids = await _find_unknown_ids(context, resumable, selected)
    last: ReplayBatch | None = None
    count, until = 0, None
    limit = min(limit, MAX_REPLAY_STEPS * rate.step_size)

    async def replay_next(last: ReplayBatch | None, tx: Transaction) -> ReplayBatch:
        return await replay_page(store, tx, selected, rate=rate, limit=limit - count, now=clock.now(), last=last)

    while last is None or not (last.ended or count >= limit):
        last = msgspec.json.decode(await resumable.run_step(partial(replay_next, last)), type=ReplayBatch)
        count, until = count + last.count, last.until or until
    begun = last.begun

    async def summarize(tx: Transaction) -> object:
        remaining = await remaining_after(store, tx, selected, begun=begun, now=clock.now())
        response = ReplayResponse(
            replayed=count,
            until=until,
            expired=remaining.expired,
            cancelled=remaining.cancelled,
            more=remaining.more or remaining.replayable > 0,
            unknown_ids=unknown_ids,
        )
        return response.json_object()

    summary = await resumable.run_step(summarize)
    log.info("dead_letters_replayed", count=count, by=caller)
    return Response(summary, 202, resumable.headers, "application/json")


async def _discard(
    context: RouteContext, resumable: ResumableRequest, selected: DeadLetterFilter, *, limit: int, caller: str
) -> Response:
    unknown_ids = await _find_unknown_ids(context, resumable, selected)
    count, ended = 0, False

    async def discard_next(tx: Transaction) -> object:
        return await discard_page(context.store, tx, selected, limit=limit - count, now=context.clock.now())

    while not ended and count < limit:
        discarded, ended = msgspec.json.decode(await resumable.run_step(discard_next), type=tuple[int, bool])
        count += discarded
    log.info("dead_letters_discarded", count=count, by=caller)
    response = DiscardResponse(discarded=count, more=not ended, unknown_ids=unknown_ids)
    return JSONResponse(response.json_object(), 200, resumable.headers)


async def _find_unknown_ids(
    context: RouteContext, resumable: ResumableRequest, selected: DeadLetterFilter
) -> list[str]:
    if selected.ids is None:
        return []

    async def find(tx: Transaction) -> object:
        return list(await find_unknown_ids(context.store, tx, selected))

    return msgspec.json.decode(await resumable.run_step(find), type=list[str])
