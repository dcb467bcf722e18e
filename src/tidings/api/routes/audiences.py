"""Saved audiences, and estimates and statistics of audiences."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field, JsonValue, model_validator
from starlette.responses import JSONResponse, Response

from tidings.api.context import RouteContext
from tidings.audience_service import DEFAULT_CATEGORY
from tidings.errors import ValidationFailed
from tidings.flow.fanout.audience_estimate import AudienceEstimate, AudienceStatistics
from tidings.flow.fanout.dry_run import MAX_EXAMINED_USERS
from tidings.model.audience import from_json, saved, to_json
from tidings.model.delivery import SkipReason
from tidings.model.saved_audience import SavedAudience
from tidings.schemas.field_types import check_printable
from tidings.schemas.json_body import RequestModel
from tidings.schemas.json_route import JsonRoute
from tidings.schemas.response_models import LOCATION_HEADER, ResponseModel, paginate_by

PageLimit = Annotated[int, Query(ge=1, le=500)]
NameCursor = Annotated[str | None, Query(max_length=64, description="`nextCursor` of the previous page")]
UserCursor = Annotated[str | None, Query(max_length=200, description="`nextCursor` of the previous part")]
ExaminedLimit = Annotated[
    int, Query(ge=1, le=MAX_EXAMINED_USERS, description="users to examine at most; `nextCursor` continues")
]
Days = Annotated[int, Query(ge=1, le=365)]
CategoryFilter = Annotated[str, Query(max_length=64)]
ChannelFilter = Annotated[list[str] | None, Query(alias="channel", max_length=20)]


#: a JSON audience has exactly one of these
_AUDIENCE_FIELDS = frozenset({"kind", "and", "or", "not"})


class SavedAudienceBody(RequestModel):
    """The definition of a saved audience."""

    definition: dict[str, JsonValue] = Field(description='such as {"kind": "topic", "topic": "jazz"}')
    description: str = Field("", max_length=300)

    @model_validator(mode="before")
    @classmethod
    def _find_definition(cls, body: object) -> object:
        """Take an audience by itself, or the field `audience`, as the definition, as other routes take audiences."""
        if not isinstance(body, dict) or "definition" in body:
            return body
        if not _AUDIENCE_FIELDS.isdisjoint(body):
            return {"definition": body}
        return {("definition" if name == "audience" else name): value for name, value in body.items()}


class SavedAudienceResponse(ResponseModel):
    """A saved audience."""

    name: str
    description: str
    definition: dict[str, JsonValue]
    created_at: datetime | None
    updated_at: datetime | None


class SavedAudiencePage(ResponseModel):
    """Saved audiences, in the order of their names."""

    items: list[SavedAudienceResponse]
    next_cursor: str | None


class EstimateBody(RequestModel):
    """An audience to estimate."""

    audience: dict[str, JsonValue]
    category: str = Field(DEFAULT_CATEGORY, max_length=64, description="whose preferences count")
    channels: list[str] = Field(default_factory=list, max_length=20, description="only these; empty = all")
    cursor: str | None = Field(None, max_length=200, description="`nextCursor` of the previous part")
    limit: int = Field(MAX_EXAMINED_USERS, ge=1, le=MAX_EXAMINED_USERS, description="users to examine at most")


class ChannelReachResponse(ResponseModel):
    """Users on a channel. `reachable` and the numbers of `excluded` add up to `examined`."""

    reachable: int
    #: skip reason → users
    excluded: dict[str, int]


class EstimateResponse(ResponseModel):
    """Whom a notification to an audience would reach now."""

    #: users in the audience; null in all parts but the first
    size: int | None
    #: users that the figures below cover
    examined: int
    #: of these: reached on at least one channel
    reachable: int
    #: of these: reached on none
    unreachable: int
    channels: dict[str, ChannelReachResponse]
    #: ids of the first twenty users
    sample: list[str]
    #: continues with the next part; null = every user was examined
    next_cursor: str | None


class ChannelStatisticsResponse(ResponseModel):
    """Users of an audience on a channel."""

    #: users with an address or a device
    contactable: int
    #: users that opened, clicked, saw or read one of its messages
    engaged: int
    #: users whose most engaged channel it is
    most_engaged: int


class StatisticsResponse(ResponseModel):
    """On which channels the users of an audience can be contacted, and on which they took notice."""

    size: int | None
    examined: int
    #: period of the engagement
    days: int
    #: users engaged on at least one channel
    engaged: int
    #: the channel that most users engage with first
    channels: dict[str, ChannelStatisticsResponse]
    next_cursor: str | None


def to_saved_response(audience: SavedAudience) -> SavedAudienceResponse:
    """Return the response for a saved audience."""
    return SavedAudienceResponse.model_validate(
        {
            "name": audience.name,
            "description": audience.description,
            "definition": to_json(audience.definition),
            "created_at": audience.created_at,
            "updated_at": audience.updated_at,
        }
    )


def to_estimate_response(estimate: AudienceEstimate) -> EstimateResponse:
    """Return the response for an estimate."""
    return EstimateResponse(
        size=estimate.size,
        examined=estimate.examined,
        reachable=estimate.reachable,
        unreachable=estimate.examined - estimate.reachable,
        channels={
            name: ChannelReachResponse(reachable=reach.reachable, excluded=_to_text_keys(reach.excluded))
            for name, reach in estimate.by_channel.items()
        },
        sample=list(estimate.sample),
        next_cursor=estimate.cursor,
    )


def to_statistics_response(statistics: AudienceStatistics, days: int) -> StatisticsResponse:
    """Return the response for statistics, the channel first that most users prefer. days: period of the engagement."""
    ranked = sorted(statistics.by_channel.items(), key=lambda item: (-item[1].most_engaged, -item[1].engaged, item[0]))
    return StatisticsResponse(
        size=statistics.size,
        examined=statistics.examined,
        days=days,
        engaged=statistics.engaged,
        channels={name: ChannelStatisticsResponse.model_validate(one) for name, one in ranked},
        next_cursor=statistics.cursor,
    )


def _to_text_keys(counts: Mapping[SkipReason, int]) -> dict[str, int]:
    return {str(reason): number for reason, number in sorted(counts.items())}


def router(context: RouteContext) -> APIRouter:
    """Return the routes under /audiences."""
    routes = APIRouter(tags=["audiences"], route_class=JsonRoute)
    _add_saved(routes, context)
    _add_estimates(routes, context)
    return routes


def _add_saved(routes: APIRouter, context: RouteContext) -> None:
    service = context.runtime.audiences
    may_read, may_change = Depends(context.require_scopes("read", "notify")), Depends(context.require_scopes("notify"))

    @routes.get("/audiences", dependencies=[may_read])
    async def list_audiences(cursor: NameCursor = None, limit: PageLimit = 50) -> SavedAudiencePage:
        """List saved audiences in the order of their names."""
        async with context.store.read_snapshot() as tx:
            rows = await context.store.saved_audiences.page(tx, after=cursor, limit=limit + 1)
        page, next_cursor = paginate_by(rows, limit, lambda row: row.name)
        return SavedAudiencePage(items=[to_saved_response(row) for row in page], next_cursor=next_cursor)

    @routes.get("/audiences/{name}", dependencies=[may_read])
    async def get_audience(name: str) -> SavedAudienceResponse:
        """Return a saved audience."""
        async with context.store.read_snapshot() as tx:
            return to_saved_response(await service.get(tx, name))

    @routes.put(
        "/audiences/{name}",
        dependencies=[may_change],
        responses={
            200: {"model": SavedAudienceResponse},
            201: {"model": SavedAudienceResponse, "description": "created", "headers": LOCATION_HEADER},
        },
        response_class=Response,
    )
    async def put_audience(name: str, body: SavedAudienceBody) -> Response:
        """Create or replace a saved audience. Notifications that were accepted keep the former definition."""
        definition = from_json(body.definition, path="definition")
        async with context.store.transaction() as tx:
            stored, is_new = await service.put(
                tx, SavedAudience(name, definition, _check_description(body.description))
            )
        headers = {"Location": f"/api/audiences/{name}"} if is_new else None
        return JSONResponse(to_saved_response(stored).json_object(), 201 if is_new else 200, headers)

    @routes.delete("/audiences/{name}", dependencies=[may_change], status_code=204)
    async def delete_audience(name: str) -> None:
        """Delete a saved audience. Notifications that were accepted with it are sent all the same."""
        async with context.store.transaction() as tx:
            await service.delete(tx, name)


def _add_estimates(routes: APIRouter, context: RouteContext) -> None:
    service = context.runtime.audiences
    may_read = Depends(context.require_scopes("read", "notify"))

    @routes.post("/audiences/estimate", dependencies=[may_read])
    async def estimate(body: EstimateBody) -> EstimateResponse:
        """Estimate whom a notification to an audience would reach now, and who is excluded why. Stores nothing."""
        audience = from_json(body.audience)
        async with context.store.read_snapshot() as tx:
            result = await service.estimate(
                tx, audience, category=body.category, channels=body.channels, after=body.cursor, limit=body.limit
            )
        return to_estimate_response(result)

    @routes.get("/audiences/{name}/estimate", dependencies=[may_read])
    async def estimate_saved(
        name: str,
        category: CategoryFilter = DEFAULT_CATEGORY,
        channels: ChannelFilter = None,
        cursor: UserCursor = None,
        limit: ExaminedLimit = MAX_EXAMINED_USERS,
    ) -> EstimateResponse:
        """Estimate whom a notification to a saved audience would reach now."""
        async with context.store.read_snapshot() as tx:
            await service.get(tx, name)
            result = await service.estimate(
                tx, saved(name), category=category, channels=_or_all(channels), after=cursor, limit=limit
            )
        return to_estimate_response(result)

    @routes.get("/audiences/{name}/stats", dependencies=[may_read])
    async def statistics(
        name: str, days: Days = 30, cursor: UserCursor = None, limit: ExaminedLimit = MAX_EXAMINED_USERS
    ) -> StatisticsResponse:
        """Return on which channels the users of a saved audience can be contacted, and on which they take notice."""
        async with context.store.read_snapshot() as tx:
            await service.get(tx, name)
            result = await service.compute_statistics(tx, saved(name), days=days, after=cursor, limit=limit)
        return to_statistics_response(result, days)


def _or_all(channels: Sequence[str] | None) -> Sequence[str]:
    return channels or ()


def _check_description(text: str) -> str:
    try:
        return check_printable(text)
    except ValueError as error:
        raise ValidationFailed.for_field("description", str(error)) from error
