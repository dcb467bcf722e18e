"""Dead letters: what was refused for good or quarantined, to be listed, replayed or discarded (MISSION M9)."""

from datetime import datetime
from functools import partial
from typing import Annotated

import msgspec
import structlog
from fastapi import APIRouter, Depends, Query, Request
from pydantic import AfterValidator
from starlette.responses import JSONResponse, Response

from tidings.api.dead_letter_bodies import DiscardBody, ReplayBody, clean
from tidings.api.host import ApiHost
from tidings.api.in_parts import InParts
from tidings.edge import bodies, describe
from tidings.edge.answers import Shown, page_of
from tidings.edge.fields import Cursor, Instant
from tidings.flow.replay import Pace, Replayed, Survey, discard_page, left, replay_page, survey, unknown
from tidings.model.priority import Lane
from tidings.ports.operations import DeadLetterFilter
from tidings.ports.store import Transaction

log = structlog.get_logger(__name__)

#: instants that one request spreads a replay over: at a low rate each costs a statement for a few
STEPS = 600

Word = Annotated[str | None, Query(max_length=300), AfterValidator(clean)]


class DeadLetterShown(Shown):
    """One delivery that was given up."""

    id: str
    notification_id: str
    template_code: str
    category: str
    user_id: str
    channel: str
    lane: Lane
    #: the last answer, or why it is quarantined
    error: str
    #: HTTP status of the last answer
    status: int | None
    attempts: int
    #: workers that died while they had it
    crashes: int
    died_at: datetime
    #: nothing of its notification is sent after this
    expires_at: datetime


class DeadLetterPage(Shown):
    """Newest first."""

    items: list[DeadLetterShown]
    next_cursor: str | None


class ErrorGroupShown(Shown):
    """Dead letters with the same error."""

    error: str
    count: int
    first_at: datetime
    last_at: datetime


class ErrorGroups(Shown):
    """The most frequent first; counted over the newest 100 000 dead letters."""

    items: list[ErrorGroupShown]


class SurveyShown(Shown):
    """What a replay or a discard would meet (`dryRun`). Nothing was done."""

    dry_run: bool = True
    #: at most 10 000 are counted
    matching: int
    #: there are more
    more: bool
    replayable: int
    #: of notifications that have expired, or will have before their turn
    expired: int
    cancelled: int
    #: when the last of the replayable ones would be due
    until: datetime | None
    #: the newest few
    sample: list[DeadLetterShown]
    #: of `ids`, those of no dead letter
    unknown_ids: list[str]


class ReplayedShown(Shown):
    """What was replayed."""

    replayed: int
    #: when the last of them is due
    until: datetime | None
    #: that match and stay dead, because their notification has expired
    expired: int
    #: … or was cancelled
    cancelled: int
    #: there are more that could be replayed: ask again
    more: bool
    #: of `ids`, those of no dead letter
    unknown_ids: list[str]


class DiscardedShown(Shown):
    """What was taken off the list."""

    discarded: int
    #: there may be more: ask again
    more: bool
    #: of `ids`, those of no dead letter
    unknown_ids: list[str]


def filtered(
    error: Word = None,
    notification_id: Annotated[Word, Query(alias="notificationId")] = None,
    template_code: Annotated[Word, Query(alias="templateCode")] = None,
    channel: Word = None,
    user_id: Annotated[Word, Query(alias="userId")] = None,
    since: Annotated[Instant | None, Query(description="died at this instant or later")] = None,
    until: Annotated[Instant | None, Query(description="died before this instant")] = None,
) -> DeadLetterFilter:
    """Return the filter that a query names."""
    return DeadLetterFilter(
        error=error,
        notification_id=notification_id,
        template_code=template_code,
        channel=channel,
        user_id=user_id,
        since=since,
        until=until,
    )


def router(host: ApiHost) -> APIRouter:
    """Return the routes under /dead-letters."""
    routes = APIRouter(tags=["dead letters"])
    _add_reading(routes, host)
    _add_acting(routes, host)
    return routes


def _add_reading(routes: APIRouter, host: ApiHost) -> None:
    dead_letters = host.store.dead_letters

    @routes.get("/dead-letters")
    async def listed(
        which: Annotated[DeadLetterFilter, Depends(filtered)],
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        cursor: Cursor | None = None,
        _: str = Depends(host.require("read")),
    ) -> DeadLetterPage:
        """List dead letters, newest first."""
        async with host.store.read() as tx:
            found = await dead_letters.page(tx, which, before=cursor, limit=limit + 1)
        page, following = page_of(found, limit)
        return DeadLetterPage(items=[DeadLetterShown.model_validate(one) for one in page], next_cursor=following)

    @routes.get("/dead-letters/errors")
    async def errors(
        which: Annotated[DeadLetterFilter, Depends(filtered)],
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        _: str = Depends(host.require("read")),
    ) -> ErrorGroups:
        """Count dead letters by error, the most frequent first."""
        async with host.store.read() as tx:
            found = await dead_letters.by_error(tx, which, limit=limit)
        return ErrorGroups(items=[ErrorGroupShown.model_validate(one) for one in found])


def _add_acting(routes: APIRouter, host: ApiHost) -> None:
    may = host.require("admin")

    @routes.post(
        "/dead-letters/replay",
        status_code=202,
        responses={202: {"model": ReplayedShown}, 200: {"model": SurveyShown, "description": "dryRun"}},
        response_class=Response,
        openapi_extra=describe.takes(ReplayBody, once=True),
    )
    async def replay(request: Request, caller: str = Depends(may)) -> Response:
        """Send dead letters again, with fresh tries, spread over time.

        They are chosen newest first. Those whose notification has expired or was cancelled stay dead and are counted.
        """
        raw = await request.body()
        body = bodies.read(raw, ReplayBody)
        which, pace = body.which(), Pace(body.rate_per_second)
        if body.dry_run:
            return await _dry_run(host, which, pace)
        parts = InParts(host.work_once, request, caller, raw)
        return await _replay(host, parts, which, pace, most=body.limit, by=caller)

    @routes.post(
        "/dead-letters/discard",
        responses={200: {"model": DiscardedShown | SurveyShown}},
        response_class=Response,
        openapi_extra=describe.takes(DiscardBody, once=True),
    )
    async def discard(request: Request, caller: str = Depends(may)) -> Response:
        """Take dead letters off the list for good. Each delivery's history stays."""
        raw = await request.body()
        body = bodies.read(raw, DiscardBody)
        which = body.which()
        if body.dry_run:
            return await _dry_run(host, which, Pace(ReplayBody.model_fields["rate_per_second"].default))
        parts = InParts(host.work_once, request, caller, raw)
        return await _discard(host, parts, which, most=body.limit, by=caller)


async def _dry_run(host: ApiHost, which: DeadLetterFilter, pace: Pace) -> Response:
    async with host.store.read() as tx:
        found = await survey(host.store, tx, which, pace=pace, now=host.clock.now())
    return JSONResponse(shown(found).json_object())


def shown(found: Survey) -> SurveyShown:
    """Return what is shown of a survey."""
    return SurveyShown.model_validate(found)


async def _replay(
    host: ApiHost, parts: InParts, which: DeadLetterFilter, pace: Pace, *, most: int, by: str
) -> Response:
    store, clock = host.store, host.clock
    # before anything comes back to life
    missing = await _unknown(host, parts, which)
    last: Replayed | None = None
    count, until = 0, None
    most = min(most, STEPS * pace.step)

    async def page(last: Replayed | None, tx: Transaction) -> tuple[int, object]:
        return 202, await replay_page(store, tx, which, pace=pace, most=most - count, now=clock.now(), last=last)

    while last is None or not (last.ended or count >= most):
        last = msgspec.json.decode(await parts.do(partial(page, last)), type=Replayed)
        count, until = count + last.count, last.until or until
    begun = last.begun

    async def rest(tx: Transaction) -> tuple[int, object]:
        found = await left(store, tx, which, begun=begun, now=clock.now())
        more = found.more or found.replayable > 0
        answer = ReplayedShown(
            replayed=count,
            until=until,
            expired=found.expired,
            cancelled=found.cancelled,
            more=more,
            unknown_ids=missing,
        )
        return 202, answer.json_object()

    answer = await parts.do(rest)
    log.info("dead_letters_replayed", count=count, by=by)
    return Response(answer, 202, parts.headers, "application/json")


async def _discard(host: ApiHost, parts: InParts, which: DeadLetterFilter, *, most: int, by: str) -> Response:
    missing = await _unknown(host, parts, which)
    count, ended = 0, False

    async def page(tx: Transaction) -> tuple[int, object]:
        return 200, await discard_page(host.store, tx, which, most=most - count, now=host.clock.now())

    while not ended and count < most:
        done, ended = msgspec.json.decode(await parts.do(page), type=tuple[int, bool])
        count += done
    log.info("dead_letters_discarded", count=count, by=by)
    answer = DiscardedShown(discarded=count, more=not ended, unknown_ids=missing)
    return JSONResponse(answer.json_object(), 200, parts.headers)


async def _unknown(host: ApiHost, parts: InParts, which: DeadLetterFilter) -> list[str]:
    if which.ids is None:
        return []

    async def look(tx: Transaction) -> tuple[int, object]:
        return 200, list(await unknown(host.store, tx, which))

    return msgspec.json.decode(await parts.do(look), type=list[str])
