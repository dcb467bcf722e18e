"""Suppressed addresses: list, add, lift; and the events of providers from which they come."""

from datetime import datetime
from typing import Annotated, Literal

import structlog
from fastapi import APIRouter, Depends, Query
from pydantic import Field, ValidationInfo, field_validator
from starlette.responses import Response

from tidings.api.accepting.idempotency import IdempotencyContext
from tidings.api.context import RouteContext
from tidings.errors import ValidationFailed
from tidings.model.ids import new_id
from tidings.model.receipt import EventCause
from tidings.model.suppression import ALL, SuppressionFilter, SuppressionReason
from tidings.schemas.field_types import Cursor, Instant
from tidings.schemas.json_body import RequestModel
from tidings.schemas.json_route import JsonRoute
from tidings.schemas.response_models import LOCATION_HEADER, ResponseModel, paginate, with_location
from tidings.suppression_service import SuppressionService

log = structlog.get_logger(__name__)

PageLimit = Annotated[int, Query(ge=1, le=500)]
ChannelFilter = Annotated[str | None, Query(max_length=32)]


class SuppressionBody(RequestModel):
    """An address to which nothing more is sent."""

    channel: str = Field(min_length=1, max_length=32)
    address: str = Field(min_length=1, max_length=2_000)
    reason: Annotated[SuppressionReason, Field(strict=False)] = SuppressionReason.MANUAL
    scope: Literal["all", "category"] | None = Field(
        None, description="default: `category` with a category, else `all`"
    )
    category: str = Field(
        "", max_length=64, validate_default=True, description="code of the category that is stopped; empty = all"
    )
    expires_at: Instant | None = Field(None, description="when it ends by itself; null = when it is lifted")

    @field_validator("category")
    @classmethod
    def _check_scope(cls, category: str, info: ValidationInfo) -> str:
        # a scope that failed validation is missing in `data`, and has its own error
        scope = info.data.get("scope")
        if scope is not None and (scope == "category") != bool(category):
            raise ValueError("is required with the scope category, and must be empty with the scope all")
        return category


class LiftBody(RequestModel):
    """The suppressions of an address that are lifted."""

    channel: str = Field(min_length=1, max_length=32)
    address: str = Field(min_length=1, max_length=2_000)
    scope: Literal["all", "category"] | None = Field(None, description="only those of this scope; default: both")
    category: str | None = Field(None, max_length=64, description="only that of this category; empty = that of all")
    reason: str = Field(min_length=3, max_length=300, description="why they are lifted; it is kept")


class SuppressionResponse(ResponseModel):
    """A suppressed address."""

    id: str
    channel: str
    #: null after the erasure of its user
    address: str | None
    #: `all`, or `category`
    scope: str
    #: empty = every category
    category: str
    #: our number that it holds for; empty = every sender
    sender: str
    reason: SuppressionReason
    source: str
    author: str
    #: how often its cause was observed
    count: int
    created_at: datetime
    last_event_at: datetime
    expires_at: datetime | None
    lifted_at: datetime | None
    lifted_by: str | None
    lift_reason: str | None


class SuppressionsResponse(ResponseModel):
    """The suppressions that were lifted."""

    items: list[SuppressionResponse]


class SuppressionPage(ResponseModel):
    """Suppressions, newest first."""

    items: list[SuppressionResponse]
    next_cursor: str | None


class ProviderEventResponse(ResponseModel):
    """One event of a provider."""

    id: str
    channel: str
    provider: str
    status: str | None
    cause: EventCause
    recipient: str | None
    code: str | None
    #: the provider's text
    detail: str
    message_id: str | None
    delivery_id: str | None
    occurred_at: datetime
    received_at: datetime
    #: how often the provider sent the same event again
    repeats: int


class ProviderEventPage(ResponseModel):
    """Events of providers, newest first."""

    items: list[ProviderEventResponse]
    next_cursor: str | None


def router(context: RouteContext) -> APIRouter:
    """Return the routes under /suppressions and /provider-events."""
    routes = APIRouter(tags=["suppressions"], route_class=JsonRoute)
    _add_list(routes, context)
    _add_changes(routes, context)

    @routes.get("/provider-events", dependencies=[Depends(context.require_scopes("read"))])
    async def list_events(
        channel: ChannelFilter = None,
        cause: EventCause | None = None,
        limit: PageLimit = 50,
        cursor: Cursor | None = None,
    ) -> ProviderEventPage:
        """List the events that providers reported, newest first, also those of unknown messages."""
        async with context.store.read_snapshot() as tx:
            rows = await context.store.receipts.page(tx, channel=channel, cause=cause, before=cursor, limit=limit + 1)
        page, next_cursor = paginate(rows, limit)
        return ProviderEventPage(
            items=[ProviderEventResponse.model_validate(row) for row in page], next_cursor=next_cursor
        )

    return routes


def _add_list(routes: APIRouter, context: RouteContext) -> None:
    @routes.get("/suppressions", dependencies=[Depends(context.require_scopes("read"))])
    async def list_suppressions(
        channel: ChannelFilter = None,
        address: Annotated[str | None, Query(max_length=2_000, description="requires `channel`")] = None,
        reason: SuppressionReason | None = None,
        ended: Annotated[bool, Query(description="include those that were lifted or have expired")] = False,
        limit: PageLimit = 50,
        cursor: Cursor | None = None,
    ) -> SuppressionPage:
        """List suppressed addresses, newest first."""
        if address is not None and channel is None:
            raise ValidationFailed.for_field("channel", "is required with address")
        if address is not None and channel is not None:
            address = parse_address(context, channel, address)
        selected = SuppressionFilter(channel, address, reason, ended)
        async with context.store.read_snapshot() as tx:
            rows = await context.store.suppressions.page(
                tx, selected, before=cursor, limit=limit + 1, now=context.clock.now()
            )
        page, next_cursor = paginate(rows, limit)
        return SuppressionPage(items=[SuppressionResponse.model_validate(row) for row in page], next_cursor=next_cursor)


def _add_changes(routes: APIRouter, context: RouteContext) -> None:
    require_admin = context.require_scopes("admin")
    service = SuppressionService(context.store, context.clock)

    @routes.post(
        "/suppressions",
        responses={201: {"model": SuppressionResponse, "description": "created", "headers": LOCATION_HEADER}},
        status_code=201,
        response_class=Response,
    )
    async def add(
        body: SuppressionBody,
        key_id: str = Depends(require_admin),
        idempotent: IdempotencyContext = Depends(context.idempotent),
    ) -> Response:
        """Suppress an address. One that is suppressed already for this reason is counted once more."""
        address = parse_address(context, body.channel, body.address)
        if body.category != ALL and body.category not in context.runtime.catalog.categories:
            known = ", ".join(sorted(context.runtime.catalog.categories))
            raise ValidationFailed.for_field("category", f"is not a known category; known are {known}")
        now = context.clock.now()
        async with idempotent(f"key:{key_id}") as call:
            stored = await service.add(
                call.tx,
                suppression_id=new_id(now),
                channel=body.channel,
                address=address,
                reason=body.reason,
                category=body.category,
                expires_at=body.expires_at,
                source="api",
                author=key_id,
            )
            created = SuppressionResponse.model_validate(stored)
            return with_location(call.respond(201, created.json_object()), "/api/suppressions")

    @routes.delete("/suppressions")
    async def lift_address(body: LiftBody, key_id: str = Depends(require_admin)) -> SuppressionsResponse:
        """Lift the suppressions of an address, so that it is written to again. They are kept with who lifted them."""
        address = parse_address(context, body.channel, body.address)
        async with context.store.transaction() as tx:
            lifted = await service.lift_address(
                tx, body.channel, address, scope=body.scope, category=body.category, by=key_id, reason=body.reason
            )
        log.info("suppressions_lifted", channel=body.channel, count=len(lifted), by=key_id)
        return SuppressionsResponse(items=[SuppressionResponse.model_validate(one) for one in lifted])

    @routes.delete("/suppressions/{suppression_id}")
    async def lift(
        suppression_id: str,
        reason: Annotated[str, Query(min_length=3, max_length=300, description="why it is lifted; it is kept")],
        key_id: str = Depends(require_admin),
    ) -> SuppressionResponse:
        """Lift a suppression, so that its address is written to again. It is kept with who lifted it and why."""
        async with context.store.transaction() as tx:
            lifted = await service.lift(tx, suppression_id, by=key_id, reason=reason)
        log.info("suppression_lifted", suppression_id=suppression_id, by=key_id)
        return SuppressionResponse.model_validate(lifted)


def parse_address(context: RouteContext, channel: str, address: str) -> str:
    """Return an address in the channel's canonical form. Raises ValidationFailed."""
    plugin = context.runtime.plugins.get(channel)
    if plugin is None:
        known = ", ".join(sorted(context.runtime.plugins))
        raise ValidationFailed.for_field("channel", f"is not an installed channel; installed are {known}")
    try:
        return plugin.parse_address(address, context.runtime.settings)
    except ValueError as error:
        raise ValidationFailed.for_field("address", str(error)) from error
