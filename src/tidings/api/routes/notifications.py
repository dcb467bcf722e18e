"""Notifications: accept, dry run, list, trace, cancel."""

import base64
import binascii
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Literal, NamedTuple

from fastapi import APIRouter, Depends, Query, Request
from pydantic import JsonValue
from starlette.responses import JSONResponse, Response

from tidings.api.accepting.group_commit import create_group_commit_acceptor, for_single
from tidings.api.accepting.idempotency import read_keyed_request
from tidings.api.context import RouteContext
from tidings.api.http.openapi import describe_body
from tidings.api.http.raw_route import RawRoute
from tidings.api.routes.inbox import MAX_FEED_PAGE, load_feed
from tidings.api.schemas.digests import CollectedResponse, list_collected_responses
from tidings.api.schemas.inbox import InboxPageResponse
from tidings.api.schemas.notifications import (
    AcceptedResponse,
    DeliveryResponse,
    NotificationResponse,
    NotificationStatusResponse,
    SkipResponse,
)
from tidings.api.schemas.steps import StepResponse
from tidings.errors import Conflict, FieldError, ValidationFailed
from tidings.flow.fanout.dry_run import DryRunResult, DryRunStep
from tidings.flow.notifications import get_notification
from tidings.model.delivery import SkipReason
from tidings.model.ids import is_id
from tidings.model.inbox import InboxView
from tidings.model.notification import Notification, NotificationCounts, NotificationState
from tidings.ports.channel import HasPreview
from tidings.ports.rate_limits import READ_RATE
from tidings.ports.store import Transaction
from tidings.schemas import json_body
from tidings.schemas.field_types import Cursor, check_cursor
from tidings.schemas.json_route import JsonRoute
from tidings.schemas.notification_request import NotifyBody, to_notify_request, with_caller_field_names
from tidings.schemas.plan_options import MAX_STEPS
from tidings.schemas.response_models import LOCATION_HEADER, ResponseModel, paginate, with_location

Limit = Annotated[int, Query(ge=1, le=500)]
#: an id, with a user token a position in the feed
ListCursor = Annotated[str | None, Query(max_length=36, description="`nextCursor` of the previous page")]
TraceCursor = Annotated[str | None, Query(max_length=1_200)]
UserFilter = Annotated[str | None, Query(alias="userId")]


class DryRunDecisionResponse(ResponseModel):
    """What would happen on one channel of one user."""

    #: null: all channels that the digest collects
    channel: str | None
    #: send, hold, digest or skip
    decision: str
    #: when it is sent or released, or the digest closes; null: never
    at: datetime | None
    #: the rule that holds or skips it, or what permits the category
    rule: str | None
    #: of a skip
    reason: str | None
    #: the inputs of the rule
    inputs: dict[str, JsonValue]
    #: number of contact points that would receive it
    contact_points: int
    #: digest or skip: what happens instead if the user is above the throttle; null: nothing else
    above_limit: str | None


class DryRunStepResponse(ResponseModel):
    """A later step of one user, if nothing cancels it."""

    #: position in the notification's steps
    step: int
    after_seconds: int
    #: what cancels it: `delivered`, `seen`, `read`, `clicked` or `event`; null: nothing
    unless: str | None
    #: type of the domain event
    event: str | None
    #: at the earliest: the step before is handed over as soon as the rules permit
    starts_at: datetime
    #: why its clock starts: the step before was `handed_over`, or was `not_handed_over`
    cause: str
    #: what would happen at that time
    channels: list[DryRunDecisionResponse]


class DryRunRecipientResponse(ResponseModel):
    """What would happen to one user."""

    user_id: str
    channels: list[DryRunDecisionResponse]
    #: the steps after the first one that reaches the user
    steps: list[DryRunStepResponse]


class DryRunResponse(ResponseModel):
    """The estimated effect of a notification (`dryRun`). Nothing was stored."""

    dry_run: bool = True
    #: users in the audience
    recipients: int
    #: number of users that the figures below are based on
    examined: int
    by_channel: dict[str, int]
    #: recipients without a delivery, per reason
    skipped: dict[str, int]
    #: recipients for whom a digest would collect it
    collected: int
    #: some of the users' ids
    sample: list[str]
    #: the time for which it was planned: now, or when the notification is due
    planned_at: datetime
    #: the first 100 recipients
    decisions: list[DryRunRecipientResponse]
    #: channel → what the message looks like in English: its text, size and encoding
    previews: dict[str, dict[str, JsonValue]]


class RecallResponse(ResponseModel):
    """The effect of a recall."""

    id: str
    #: feeds from which the notification was removed by this call
    recalled: int


class NotificationPage(ResponseModel):
    """Notifications, newest first."""

    items: list[NotificationResponse]
    next_cursor: str | None


class DeliveryPage(ResponseModel):
    """Deliveries in the order in which they were planned."""

    items: list[DeliveryResponse]
    next_cursor: str | None


class TraceResponse(ResponseModel):
    """A notification with its deliveries, attempts and skips."""

    notification: NotificationStatusResponse
    deliveries: list[DeliveryResponse]
    skips: list[SkipResponse]
    #: the later steps of the users on this page
    steps: list[StepResponse]
    #: recipients for whom a digest collected it
    collected: list[CollectedResponse]
    next_cursor: str | None


def router(context: RouteContext) -> APIRouter:
    """Return the routes under /notifications."""
    routes = APIRouter(tags=["notifications"], route_class=JsonRoute)
    _add_writing(routes, context)
    _add_reading(routes, context)
    _add_tracing(routes, context)
    return routes


def _add_writing(routes: APIRouter, context: RouteContext) -> None:
    pipeline = context.runtime.pipeline
    require_notify = context.require_scopes("notify")
    acceptor = create_group_commit_acceptor(context)

    async def notify(request: Request) -> Response:
        """Accept a notification. A 202 response guarantees that its audience will be processed."""
        caller = await require_notify(request)
        raw = await request.body()
        body = json_body.parse_body(raw, NotifyBody)
        keyed = read_keyed_request(request, caller, raw)
        if body.options.dry_run:
            estimate = _dry_run_response(await _estimate(context, body), _build_previews(context, body))
            return JSONResponse(estimate.json_object())
        response = await acceptor.accept(for_single(body, keyed, context.clock))
        return with_location(response.to_response(), "/api/notifications")

    routes.add_api_route(
        "/notifications",
        notify,
        methods=["POST"],
        status_code=202,
        responses={
            202: {"model": AcceptedResponse, "headers": LOCATION_HEADER},
            200: {"model": DryRunResponse, "description": "dryRun"},
        },
        # for the OpenAPI document only: `RawRoute` ignores dependencies
        dependencies=[Depends(require_notify), Depends(context.idempotent)],
        openapi_extra=describe_body(NotifyBody),
        route_class_override=RawRoute,
    )

    @routes.delete("/notifications/{notification_id}")
    async def cancel(notification_id: str, _: str = Depends(context.require_scopes("notify"))) -> AcceptedResponse:
        """Cancel a notification. Only sends already in flight complete. 409 if all deliveries are final."""
        await pipeline.cancel(notification_id)
        return AcceptedResponse(id=notification_id, status=NotificationState.CANCELLED)

    @routes.post("/notifications/{notification_id}/recall")
    async def recall(notification_id: str, _: str = Depends(require_notify)) -> RecallResponse:
        """Cancel a notification and remove it from all feeds. May be repeated."""
        async with context.store.read_snapshot() as tx:
            await get_notification(context.store, tx, notification_id)
        # a conflict means that everything was sent: nothing is left to cancel, but feeds may have its items
        with suppress(Conflict):
            await pipeline.cancel(notification_id)
        return RecallResponse(id=notification_id, recalled=await context.runtime.inbox.recall(notification_id))


def _add_reading(routes: APIRouter, context: RouteContext) -> None:
    key_id, user_id_of_token = context.authenticator.require_scopes_or_user("read")
    limit_users = context.limit_users("read", READ_RATE, user_id_of_token)

    @routes.get("/notifications", dependencies=[Depends(limit_users)])
    async def list_notifications(
        limit: Limit = 50,
        cursor: ListCursor = None,
        state: NotificationState | InboxView | None = None,
        category: str | None = None,
        template_code: Annotated[str | None, Query(alias="templateCode")] = None,
        user_id: UserFilter = None,
        _: str = Depends(key_id),
        caller_id: str = Depends(user_id_of_token),
    ) -> NotificationPage | InboxPageResponse:
        """List notifications, newest first. With a user token: the user's feed, as `GET /api/inbox`."""
        if caller_id:
            filters = {"category": category, "templateCode": template_code, "userId": user_id}
            _check_feed_params(state, limit, filters)
            view = InboxView.ALL if state is None else InboxView(state)
            return await load_feed(context, caller_id, view, cursor, limit)
        if isinstance(state, InboxView):
            known = ", ".join(NotificationState)
            raise ValidationFailed.for_field("state", f"with an API key, must be one of: {known}")
        async with context.store.read_snapshot() as tx:
            rows = await context.store.notifications.list_page(
                tx,
                before=None if cursor is None else _check_id_cursor(cursor),
                limit=limit + 1,
                state=state,
                category=category,
                template=template_code,
                user_id=user_id,
            )
        page, next_cursor = paginate(rows, limit)
        return NotificationPage(
            items=[NotificationResponse.from_notification(row) for row in page], next_cursor=next_cursor
        )

    @routes.get("/notifications/{notification_id}")
    async def get_one(
        notification_id: str, _: str = Depends(context.require_scopes("read", "notify"))
    ) -> NotificationStatusResponse:
        """Return a notification and its progress."""
        async with context.store.read_snapshot() as tx:
            return NotificationStatusResponse.with_counts(*await get_with_counts(context, tx, notification_id))


def _add_tracing(routes: APIRouter, context: RouteContext) -> None:
    delivery_store = context.store.deliveries

    @routes.get("/notifications/{notification_id}/deliveries")
    async def deliveries(
        notification_id: str,
        user_id: UserFilter = None,
        state: Literal["failed"] | None = None,
        limit: Limit = 100,
        cursor: Cursor | None = None,
        _: str = Depends(context.require_scopes("read")),
    ) -> DeliveryPage:
        """List deliveries with their attempts. `state=failed`: only those that ended without reaching the recipient."""
        async with context.store.read_snapshot() as tx:
            await get_notification(context.store, tx, notification_id)
            rows = await delivery_store.list_with_attempts(
                tx, notification_id, user_id=user_id, after=cursor, limit=limit + 1, failed_only=state == "failed"
            )
        page, next_cursor = paginate(rows, limit)
        return DeliveryPage(items=[DeliveryResponse.model_validate(row) for row in page], next_cursor=next_cursor)

    @routes.get("/notifications/{notification_id}/trace")
    async def trace(
        notification_id: str,
        user_id: UserFilter = None,
        limit: Limit = 100,
        cursor: TraceCursor = None,
        _: str = Depends(context.require_scopes("read")),
    ) -> TraceResponse:
        """Return the deliveries, attempts and skips of a notification, page by page."""
        after = _TraceCursor.decode(cursor)
        async with context.store.read_snapshot() as tx:
            status = NotificationStatusResponse.with_counts(*await get_with_counts(context, tx, notification_id))
            deliveries = await delivery_store.list_with_attempts(
                tx, notification_id, user_id=user_id, after=after.delivery, limit=limit + 1
            )
            skips = await delivery_store.list_skips(
                tx, notification_id, user_id=user_id, after=after.skip, limit=limit + 1
            )
            collected = await context.store.digests.list_of_notification(
                tx, notification_id, user_id=user_id, after=after.collected_user, limit=limit + 1
            )
            has_more = max(len(deliveries), len(skips), len(collected)) > limit
            deliveries, skips, collected = deliveries[:limit], skips[:limit], collected[:limit]
            on_page = {one.user_id for one in deliveries} | {one.user_id for one in skips}
            steps = await context.store.steps.list_of(
                tx, notification_id, user_ids=on_page, limit=MAX_STEPS * max(1, len(on_page))
            )
        last = _TraceCursor(
            deliveries[-1].id if deliveries else after.delivery,
            skips[-1].id if skips else after.skip,
            collected[-1][0].user_id if collected else after.collected_user,
        )
        return TraceResponse(
            notification=status,
            deliveries=[DeliveryResponse.model_validate(delivery) for delivery in deliveries],
            skips=[SkipResponse.model_validate(skip) for skip in skips],
            steps=[StepResponse.from_step(step) for step in steps],
            collected=list_collected_responses(collected),
            next_cursor=last.encode() if has_more else None,
        )


def _check_feed_params(
    state: NotificationState | InboxView | None, limit: int, filters: Mapping[str, str | None]
) -> None:
    """Reject parameters that only callers with an API key may use. Raises ValidationFailed."""
    errors = [
        FieldError(name, "requires an API key; a user token lists the user's own feed")
        for name, value in filters.items()
        if value is not None
    ]
    if isinstance(state, NotificationState):
        errors.append(FieldError("state", f"with a user token, must be one of: {', '.join(InboxView)}"))
    if limit > MAX_FEED_PAGE:
        errors.append(FieldError("limit", f"with a user token, must be at most {MAX_FEED_PAGE}"))
    if errors:
        raise ValidationFailed.from_errors(errors)


def _check_id_cursor(cursor: str) -> str:
    try:
        return check_cursor(cursor)
    except ValueError as error:
        raise ValidationFailed.for_field("cursor", str(error)) from error


async def get_with_counts(
    context: RouteContext, tx: Transaction, notification_id: str
) -> tuple[Notification, NotificationCounts]:
    """Return a notification and its counts. Raises NotFound."""
    notification = await get_notification(context.store, tx, notification_id)
    return notification, await context.store.notifications.get_counts(tx, notification.id)


async def _estimate(context: RouteContext, body: NotifyBody) -> DryRunResult:
    async with context.store.read_snapshot() as tx:
        try:
            return await context.runtime.pipeline.dry_run(tx, to_notify_request(body, context.clock.now()))
        except ValidationFailed as error:
            raise with_caller_field_names(body, error) from error


def _build_previews(context: RouteContext, body: NotifyBody) -> dict[str, Mapping[str, object]]:
    """Return the previews of the channels that have one, of those that the request names, or else of all."""
    request = to_notify_request(body, context.clock.now())
    previews: dict[str, Mapping[str, object]] = {}
    for name, channel in context.runtime.channels.items():
        if isinstance(channel, HasPreview) and (not request.channels or name in request.channels):
            message, category = context.runtime.pipeline.render_sample(request, name)
            try:
                previews[name] = channel.preview(message, category)
            except ValidationFailed as error:
                # a real call is accepted, and skipped on this channel
                previews[name] = {"error": error.message}
    return previews


def _dry_run_response(estimate: DryRunResult, previews: Mapping[str, Mapping[str, object]]) -> DryRunResponse:
    return DryRunResponse.model_validate(
        {
            "recipients": estimate.recipients,
            "examined": estimate.examined,
            "byChannel": dict(estimate.by_channel),
            "skipped": _count_by_reason(estimate.skipped),
            "collected": estimate.collected,
            "sample": list(estimate.sample),
            "plannedAt": estimate.planned_at,
            "decisions": [
                {
                    "userId": user_id,
                    "channels": recipient.decisions,
                    "steps": [_describe_step(step) for step in recipient.steps],
                }
                for user_id, recipient in estimate.shown.items()
            ],
            "previews": {name: dict(preview) for name, preview in previews.items()},
        }
    )


def _describe_step(later: DryRunStep) -> Mapping[str, object]:
    step = later.step
    return {
        "step": step.step,
        "afterSeconds": step.after_seconds,
        "unless": step.unless,
        "event": step.event,
        "startsAt": later.starts_at,
        "cause": step.cause,
        "channels": later.decisions,
    }


def _count_by_reason(counts: Mapping[SkipReason, int]) -> dict[str, int]:
    return {str(reason): number for reason, number in counts.items()}


class _TraceCursor(NamedTuple):
    """The last delivery, skip and user with a collected item of a page."""

    delivery: str | None = None
    skip: str | None = None
    collected_user: str | None = None

    def encode(self) -> str:
        return base64.urlsafe_b64encode("~".join(part or "" for part in self).encode()).decode()

    @classmethod
    def decode(cls, cursor: str | None) -> "_TraceCursor":
        """Return the parts of a cursor. Raises ValidationFailed."""
        if cursor is None:
            return cls()
        try:
            delivery, skip, user = base64.urlsafe_b64decode(cursor).decode().split("~", 2)
        except (binascii.Error, ValueError) as error:
            raise ValidationFailed.for_field("cursor", "must be the nextCursor of the previous page") from error
        if any(part and not is_id(part) for part in (delivery, skip)):
            raise ValidationFailed.for_field("cursor", "must be the nextCursor of the previous page")
        return cls(delivery or None, skip or None, user or None)
