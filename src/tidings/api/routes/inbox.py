"""The feed of the calling user, for its browser."""

import re
from datetime import datetime, timedelta
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from tidings.api.context import RouteContext
from tidings.api.http.lookups import get_user_or_404
from tidings.api.schemas.inbox import InboxCountsResponse, InboxPageResponse
from tidings.errors import ValidationFailed
from tidings.inbox_service import InboxService
from tidings.model.inbox import MAX_MARKED_ITEMS, InboxView
from tidings.ports.rate_limits import READ_RATE, RateLimit
from tidings.schemas.field_types import Cursor, Instant
from tidings.schemas.json_body import RequestModel
from tidings.schemas.json_route import JsonRoute

#: per user; a page reports what it shows at most once per second
_CHANGE_RATE = RateLimit(240, 60)
#: how far ahead an item can be snoozed
MAX_SNOOZE = timedelta(days=366)
#: the hour of the user's day at which an item that is snoozed until tomorrow returns
TOMORROW_HOUR = 9
#: a position in a feed
_POSITION = re.compile(r"[1-9]\d{0,17}", re.ASCII)

#: largest page of a feed
MAX_FEED_PAGE = 100
PageLimit = Annotated[int, Query(ge=1, le=MAX_FEED_PAGE)]
#: `nextCursor` of the previous page
PositionCursor = Annotated[str | None, Query(max_length=36, description="`nextCursor` of the previous page")]


class SeenBody(RequestModel):
    """The items that were shown."""

    ids: list[str] = Field(
        min_length=1, max_length=MAX_MARKED_ITEMS, description="ids of items or of notifications; others are ignored"
    )


class ReadAllBody(RequestModel):
    """The newest item that was shown."""

    up_to: Cursor = Field(description="id of the newest item that was shown; what arrived after it stays unread")


class SnoozeBody(RequestModel):
    """When the item returns."""

    until: Instant | Literal["tomorrow"] | None = Field(
        description="an instant, `tomorrow` (09:00 in the user's time zone), or null to end the snooze now"
    )


def router(context: RouteContext) -> APIRouter:
    """Return the routes under /inbox."""
    routes = APIRouter(tags=["inbox"], route_class=JsonRoute)
    _add_reading(routes, context)
    _add_marking(routes, context)
    _add_moving(routes, context)
    return routes


def parse_position(cursor: str | None) -> int | None:
    """Return the position of a cursor. Raises ValidationFailed."""
    if cursor is None:
        return None
    if _POSITION.fullmatch(cursor) is None:
        raise ValidationFailed.for_field("cursor", "must be the nextCursor of the previous page")
    return int(cursor)


async def load_feed(
    context: RouteContext, user_id: str, view: InboxView, cursor: str | None, limit: int
) -> InboxPageResponse:
    """Return a page of a user's feed. Raises ValidationFailed for an invalid cursor."""
    inbox = context.runtime.inbox
    page = await inbox.load_page(user_id, view, before=parse_position(cursor), limit=limit)
    return InboxPageResponse.from_page(page, limit)


def _add_reading(routes: APIRouter, context: RouteContext) -> None:
    require_user = context.authenticator.require_user()
    limited = [Depends(context.rate_limited("read", READ_RATE, require_user))]

    @routes.get("/inbox", dependencies=limited)
    async def feed(
        state: InboxView = InboxView.ALL,
        limit: PageLimit = 20,
        cursor: PositionCursor = None,
        user_id: str = Depends(require_user),
    ) -> InboxPageResponse:
        """List the calling user's items, the latest arrival first, with the counters of the same moment."""
        return await load_feed(context, user_id, state, cursor, limit)

    @routes.get("/inbox/counts", dependencies=limited)
    async def counts(user_id: str = Depends(require_user)) -> InboxCountsResponse:
        """Return the counters of the calling user's whole feed."""
        return InboxCountsResponse.from_counts(await context.runtime.inbox.load_counts(user_id))


def _add_marking(routes: APIRouter, context: RouteContext) -> None:
    inbox: InboxService = context.runtime.inbox
    require_user = context.authenticator.require_user()
    limited = [Depends(context.rate_limited("inbox-change", _CHANGE_RATE, require_user))]

    @routes.post("/inbox/seen", dependencies=limited)
    async def seen_many(body: SeenBody, user_id: str = Depends(require_user)) -> InboxCountsResponse:
        """Mark the items that were shown as seen. A notification whose item has not arrived yet arrives as seen."""
        return InboxCountsResponse.from_counts(await inbox.mark_seen(user_id, body.ids))

    @routes.post("/inbox/read-all", dependencies=limited)
    async def read_all(body: ReadAllBody, user_id: str = Depends(require_user)) -> InboxCountsResponse:
        """Mark the feed as read up to the newest item that was shown. What arrived after it stays unread."""
        return InboxCountsResponse.from_counts(await inbox.mark_all_read(user_id, body.up_to))

    @routes.post("/inbox/{item_id}/seen", dependencies=limited)
    async def seen(item_id: str, user_id: str = Depends(require_user)) -> InboxCountsResponse:
        """Mark an item as seen. The id may be that of its notification."""
        return InboxCountsResponse.from_counts(await inbox.mark_item_seen(user_id, item_id))

    @routes.post("/inbox/{item_id}/read", dependencies=limited)
    async def read(item_id: str, user_id: str = Depends(require_user)) -> InboxCountsResponse:
        """Mark an item as read, which includes seen. The id may be that of its notification."""
        return InboxCountsResponse.from_counts(await inbox.mark_item_read(user_id, item_id))

    @routes.post("/inbox/{item_id}/unread", dependencies=limited)
    async def unread(item_id: str, user_id: str = Depends(require_user)) -> InboxCountsResponse:
        """Mark an item as unread. It stays seen."""
        return InboxCountsResponse.from_counts(await inbox.mark_item_unread(user_id, item_id))


def _add_moving(routes: APIRouter, context: RouteContext) -> None:
    inbox: InboxService = context.runtime.inbox
    require_user = context.authenticator.require_user()
    limited = [Depends(context.rate_limited("inbox-change", _CHANGE_RATE, require_user))]

    @routes.post("/inbox/{item_id}/archive", dependencies=limited)
    async def archive(item_id: str, user_id: str = Depends(require_user)) -> InboxCountsResponse:
        """Move an item to the archive, where it does not expire. Ends its snooze."""
        return InboxCountsResponse.from_counts(await inbox.archive(user_id, item_id))

    @routes.post(
        "/inbox/{item_id}/unarchive",
        dependencies=limited,
        responses={409: {"description": "`item_expired`: it remains in the archive"}},
    )
    async def unarchive(item_id: str, user_id: str = Depends(require_user)) -> InboxCountsResponse:
        """Move an item back to the feed, at its former position."""
        return InboxCountsResponse.from_counts(await inbox.unarchive(user_id, item_id))

    @routes.post(
        "/inbox/{item_id}/snooze",
        dependencies=limited,
        responses={409: {"description": "`item_archived`: unarchive it first"}},
    )
    async def snooze(item_id: str, body: SnoozeBody, user_id: str = Depends(require_user)) -> InboxCountsResponse:
        """Hide an item until a time, at which it returns as unread at the top of the feed."""
        until = await _resolve_until(context, user_id, body.until)
        return InboxCountsResponse.from_counts(await inbox.snooze(user_id, item_id, until))


async def _resolve_until(
    context: RouteContext, user_id: str, until: datetime | Literal["tomorrow"] | None
) -> datetime | None:
    now = context.clock.now()
    if until == "tomorrow":
        async with context.store.read_once() as tx:
            user = await get_user_or_404(context.store, tx, user_id)
        zone = ZoneInfo(user.timezone)
        day = now.astimezone(zone) + timedelta(days=1)
        return datetime(day.year, day.month, day.day, TOMORROW_HOUR, tzinfo=zone)
    if until is not None and not now < until <= now + MAX_SNOOZE:
        raise ValidationFailed.for_field("until", f"must be in the future, at most {MAX_SNOOZE.days} days ahead")
    return until
