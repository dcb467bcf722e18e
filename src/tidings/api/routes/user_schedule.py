"""The schedule of a user: quiet hours, their time zone, and the time of day of digests."""

from fastapi import APIRouter, Depends

from tidings.api.context import RouteContext
from tidings.api.http.lookups import get_user_or_404
from tidings.errors import ValidationFailed
from tidings.model.user_schedule import UserSchedule
from tidings.ports.rate_limits import READ_RATE, RateLimit
from tidings.schemas.json_route import JsonRoute
from tidings.schemas.response_models import ResponseModel
from tidings.schemas.user_schedule import ScheduleBody, check_schedule

#: per user; a page that saves each click stays far below
_CHANGE_RATE = RateLimit(120, 60)


class QuietHoursResponse(ResponseModel):
    """A window without messages, from `start` until just before `end`, in local time."""

    start: str
    end: str
    #: weekdays on which it starts; empty = all
    days: list[str]
    #: channels that it holds; empty = all
    channels: list[str]


class ScheduleResponse(ResponseModel):
    """The schedule of a user. What is null is not set."""

    #: IANA name; null = that of the user
    timezone: str | None
    #: null = those of the installation; empty = none
    quiet_hours: list[QuietHoursResponse] | None
    #: `HH:MM`
    digest_at: str | None


def build_schedule_response(schedule: UserSchedule) -> ScheduleResponse:
    """Return the response for a schedule."""
    return ScheduleResponse.model_validate(schedule)


def router(context: RouteContext) -> APIRouter:
    """Return the schedule routes. `me` comes first, so that it does not match as a user id."""
    routes = APIRouter(tags=["preferences"], route_class=JsonRoute)
    store, catalog = context.store, context.runtime.catalog
    require_user = context.authenticator.require_user()

    async def load(user_id: str) -> ScheduleResponse:
        async with store.read_snapshot() as tx:
            await get_user_or_404(store, tx, user_id)
            return build_schedule_response(await store.user_schedules.get(tx, user_id))

    async def save(user_id: str, body: ScheduleBody) -> ScheduleResponse:
        schedule = body.to_schedule()
        if errors := check_schedule(schedule, catalog.known_channels):
            raise ValidationFailed.from_errors(errors)
        async with store.transaction() as tx:
            await get_user_or_404(store, tx, user_id)
            await store.user_schedules.set(tx, user_id, schedule, context.clock.now())
        return build_schedule_response(schedule)

    read_limit = Depends(context.rate_limited("read", READ_RATE, require_user))
    change_limit = Depends(context.rate_limited("schedule-change", _CHANGE_RATE, require_user))

    @routes.get("/users/me/schedule", dependencies=[read_limit])
    async def my_schedule(user_id: str = Depends(require_user)) -> ScheduleResponse:
        """Return the calling user's quiet hours and digest time."""
        return await load(user_id)

    @routes.put("/users/me/schedule", dependencies=[change_limit])
    async def set_my_schedule(body: ScheduleBody, user_id: str = Depends(require_user)) -> ScheduleResponse:
        """Replace the schedule of the calling user. What it holds is decided again."""
        return await save(user_id, body)

    @routes.get("/users/{user_id}/schedule")
    async def schedule(user_id: str, _: str = Depends(context.require_scopes("read"))) -> ScheduleResponse:
        """Return a user's quiet hours and digest time."""
        return await load(user_id)

    @routes.put("/users/{user_id}/schedule")
    async def set_schedule(
        user_id: str, body: ScheduleBody, _: str = Depends(context.require_scopes("notify"))
    ) -> ScheduleResponse:
        """Replace the schedule of a user. What it holds is decided again."""
        return await save(user_id, body)

    return routes
