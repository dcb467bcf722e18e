"""`POST /api/domain-events`: events of the host product cause the notifications that triggers declare."""

import hashlib
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from tidings.api.accepting.idempotency import idempotent_transaction
from tidings.api.context import RouteContext
from tidings.api.http.openapi import describe_body
from tidings.flow.accept.domain_events import build_requests, list_event_keys
from tidings.model.trigger import DomainEvent
from tidings.ports.store import IdempotentRequest
from tidings.schemas.cloud_event import CloudEvent, read_cloud_event
from tidings.schemas.json_route import JsonRoute
from tidings.schemas.response_models import ResponseModel


class DomainEventNotification(ResponseModel):
    """A notification that an event caused."""

    id: str
    template_code: str
    status: str


class DomainEventResponse(ResponseModel):
    """What an event caused. `matched` is the number of triggers of its type; 0 = the type is not declared."""

    matched: int
    #: later steps of notifications that waited for the event and were cancelled
    cancelled_steps: int
    notifications: list[DomainEventNotification]


def router(context: RouteContext) -> APIRouter:
    """Return the route."""
    runtime = context.runtime
    routes = APIRouter(route_class=JsonRoute, tags=["domain events"])

    @routes.post(
        "/domain-events",
        status_code=202,
        response_model=DomainEventResponse,
        summary="Publish a domain event",
        description="A CloudEvent 1.0, structured (`application/cloudevents+json`) or binary (attributes in the "
        "headers `ce-…`, data in the body). Triggers decide by its `type` who is notified of what. A repeated event, "
        "with the same `source` and `id`, returns the first response and causes nothing. The later steps that wait for "
        "the event are cancelled: those of notifications with its `subject`, and, of notifications without a subject, "
        "those for the user `data.userId`.",
        openapi_extra=describe_body(CloudEvent),
    )
    async def publish_event(
        request: Request, caller: Annotated[str, Depends(context.require_scopes("notify"))]
    ) -> Response:
        body = await request.body()
        event = read_cloud_event({name.lower(): value for name, value in request.headers.items()}, body)
        triggers = runtime.catalog.triggers.get(event.type, ())
        requests = build_requests(event, triggers, runtime.evaluator)
        async with idempotent_transaction(context.store, context.clock, _key_of(event, caller)) as call:
            # first: what the event ends must not be sent beside what it causes
            cancelled = await context.store.steps.cancel_by_event(
                call.tx, event.type, list_event_keys(event), context.clock.now()
            )
            accepted = [await context.notifier.accept(call.tx, one) for one in requests]
            caused = [{"id": one.id, "templateCode": one.template_code, "status": one.state.value} for one in accepted]
            return call.respond(202, {"matched": len(triggers), "cancelledSteps": cancelled, "notifications": caused})

    return routes


def _key_of(event: DomainEvent, caller: str) -> IdempotentRequest:
    """Return the idempotency key of an event: producers must not use `source` and `id` again for another one."""
    identity = hashlib.sha256(f"{event.source}\0{event.id}".encode()).hexdigest()
    return IdempotentRequest(caller, f"cloudevent:{identity}", identity)
