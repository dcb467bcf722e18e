"""Notifications: accept, preview, list, follow, cancel (API.md)."""

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import JSONResponse, Response

from tidings.api.direct import Direct
from tidings.api.host import ApiHost
from tidings.api.idempotency import keyed_of
from tidings.api.known import known_notification
from tidings.api.served import Estimate
from tidings.api.shapes import Accepted, DeliveryShown, NotificationShown, NotificationStatus, SkipShown
from tidings.api.together import together_of
from tidings.api.wanted import single
from tidings.edge import bodies, describe
from tidings.edge.answers import LOCATION, Shown, located, page_of
from tidings.edge.fields import Cursor
from tidings.edge.notify_body import NotifyBody, as_called, to_request
from tidings.errors import Invalid
from tidings.model.delivery import SkipReason
from tidings.model.notification import Counts, Notification, NotificationState
from tidings.ports.store import Transaction

Limit = Annotated[int, Query(ge=1, le=500)]
TraceCursor = Annotated[str | None, Query(max_length=200)]
UserFilter = Annotated[str | None, Query(alias="userId")]


class Preview(Shown):
    """What a notification would do (`dryRun`). Nothing was stored."""

    dry_run: bool = True
    #: users in the audience
    recipients: int
    #: users that the figures below were counted over
    examined: int
    by_channel: dict[str, int]
    #: recipients without a delivery, per reason
    skipped: dict[str, int]
    #: ids of the first few
    sample: list[str]


class NotificationPage(Shown):
    """Newest first."""

    items: list[NotificationShown]
    next_cursor: str | None


class DeliveryPage(Shown):
    """Deliveries in the order they were planned."""

    items: list[DeliveryShown]
    next_cursor: str | None


class Trace(Shown):
    """What happened, recipient by recipient: what was sent, and who was skipped why."""

    notification: NotificationStatus
    deliveries: list[DeliveryShown]
    skips: list[SkipShown]
    next_cursor: str | None


def router(host: ApiHost) -> APIRouter:
    """Return the routes under /notifications."""
    routes = APIRouter(tags=["notifications"])
    _add_writing(routes, host)
    _add_reading(routes, host)
    _add_following(routes, host)
    return routes


def _add_writing(routes: APIRouter, host: ApiHost) -> None:
    pipeline = host.runtime.pipeline
    may_notify = host.require("notify")
    together = together_of(host)

    async def notify(request: Request) -> Response:
        """Accept a notification. Once this answers 202 it will reach everybody in the audience."""
        caller = await may_notify(request)
        raw = await request.body()
        body = bodies.read(raw, NotifyBody)
        if body.options.dry_run:
            return JSONResponse(_preview(await _estimate(host, body)).json_object())
        answer = await together.accept(single(body, keyed_of(request, caller, raw), host.clock))
        return located(answer.response(), "/api/notifications")

    routes.add_api_route(
        "/notifications",
        notify,
        methods=["POST"],
        status_code=202,
        responses={202: {"model": Accepted, "headers": LOCATION}, 200: {"model": Preview, "description": "dryRun"}},
        openapi_extra=describe.takes(NotifyBody, once=True),
        route_class_override=Direct,
    )

    @routes.delete("/notifications/{notification_id}")
    async def cancel(notification_id: str, _: str = Depends(host.require("notify"))) -> Accepted:
        """Cancel a notification. Nothing is sent afterwards, sends in flight excepted. Done already: 409."""
        await pipeline.cancel(notification_id)
        return Accepted(id=notification_id, status=NotificationState.CANCELLED)


def _add_reading(routes: APIRouter, host: ApiHost) -> None:
    @routes.get("/notifications")
    async def recent(
        limit: Limit = 50,
        cursor: Cursor | None = None,
        state: NotificationState | None = None,
        category: str | None = None,
        template_code: Annotated[str | None, Query(alias="templateCode")] = None,
        user_id: UserFilter = None,
        _: str = Depends(host.require("read")),
    ) -> NotificationPage:
        """List notifications, newest first."""
        async with host.store.read() as tx:
            found = await host.store.notifications.recent(
                tx,
                before=cursor,
                limit=limit + 1,
                state=state,
                category=category,
                template=template_code,
                user_id=user_id,
            )
        page, following = page_of(found, limit)
        return NotificationPage(items=[NotificationShown.of(one) for one in page], next_cursor=following)

    @routes.get("/notifications/{notification_id}")
    async def one(notification_id: str, _: str = Depends(host.require("read", "notify"))) -> NotificationStatus:
        """Return a notification and how far it has come."""
        async with host.store.read() as tx:
            return NotificationStatus.counted(*await counted(host, tx, notification_id))


def _add_following(routes: APIRouter, host: ApiHost) -> None:
    deliveries_of = host.store.deliveries

    @routes.get("/notifications/{notification_id}/deliveries")
    async def deliveries(
        notification_id: str,
        user_id: UserFilter = None,
        limit: Limit = 100,
        cursor: Cursor | None = None,
        _: str = Depends(host.require("read")),
    ) -> DeliveryPage:
        """List deliveries with their attempts."""
        async with host.store.read() as tx:
            await known_notification(host.store, tx, notification_id)
            found = await deliveries_of.trace(tx, notification_id, user_id=user_id, after=cursor, limit=limit + 1)
        page, following = page_of(found, limit)
        return DeliveryPage(items=[DeliveryShown.model_validate(one) for one in page], next_cursor=following)

    @routes.get("/notifications/{notification_id}/trace")
    async def trace(
        notification_id: str,
        user_id: UserFilter = None,
        limit: Limit = 100,
        cursor: TraceCursor = None,
        _: str = Depends(host.require("read")),
    ) -> Trace:
        """Tell what happened to each recipient. Deliveries and skips are paged together."""
        after_delivery, after_skip = _read_cursor(cursor)
        async with host.store.read() as tx:
            shown = NotificationStatus.counted(*await counted(host, tx, notification_id))
            sent = await deliveries_of.trace(
                tx, notification_id, user_id=user_id, after=after_delivery, limit=limit + 1
            )
            skips = await deliveries_of.skips(tx, notification_id, user_id=user_id, after=after_skip, limit=limit + 1)
        more = len(sent) > limit or len(skips) > limit
        sent, skips = sent[:limit], skips[:limit]
        last_delivery = sent[-1].id if sent else after_delivery
        last_skip = skips[-1].id if skips else after_skip
        return Trace(
            notification=shown,
            deliveries=[DeliveryShown.model_validate(one) for one in sent],
            skips=[SkipShown.model_validate(one) for one in skips],
            next_cursor=_write_cursor(last_delivery, last_skip) if more else None,
        )


async def counted(host: ApiHost, tx: Transaction, notification_id: str) -> tuple[Notification, Counts]:
    """Return a notification and its counts. Raises NotFound."""
    found = await known_notification(host.store, tx, notification_id)
    return found, await host.store.notifications.counts(tx, found.id)


async def _estimate(host: ApiHost, body: NotifyBody) -> Estimate:
    async with host.store.read() as tx:
        try:
            return await host.runtime.pipeline.preview(tx, to_request(body, host.clock.now()))
        except Invalid as error:
            raise as_called(body, error) from error


def _preview(estimate: Estimate) -> Preview:
    return Preview(
        recipients=estimate.recipients,
        examined=estimate.examined,
        by_channel=dict(estimate.by_channel),
        skipped=_words(estimate.skipped),
        sample=list(estimate.sample),
    )


def _words(counts: Mapping[SkipReason, int]) -> dict[str, int]:
    return {str(reason): number for reason, number in counts.items()}


def _write_cursor(after_delivery: str | None, after_skip: str | None) -> str:
    return base64.urlsafe_b64encode(f"{after_delivery or ''}~{after_skip or ''}".encode()).decode()


def _read_cursor(cursor: str | None) -> tuple[str | None, str | None]:
    if cursor is None:
        return None, None
    try:
        delivery, mark, skip = base64.urlsafe_b64decode(cursor).decode().partition("~")
    except (binascii.Error, ValueError) as error:
        raise Invalid.field("cursor", "must be the nextCursor of the page before") from error
    if not mark:
        raise Invalid.field("cursor", "must be the nextCursor of the page before")
    return delivery or None, skip or None
