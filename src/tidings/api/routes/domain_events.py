"""`POST /api/domain-events`: events of the host product cause the notifications that triggers declare."""

import hashlib
from collections.abc import Mapping
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Request
from pydantic import JsonValue
from starlette.responses import JSONResponse, Response

from tidings.api.accepting.idempotency import Replayed, idempotent_transaction
from tidings.api.context import RouteContext
from tidings.api.http.openapi import describe_body
from tidings.api.http.problem_details import problem_for
from tidings.errors import ValidationFailed
from tidings.flow.accept.domain_events import build_requests, find_user_id
from tidings.model.trigger import DomainEvent
from tidings.ports.store import IdempotentRequest
from tidings.schemas.cloud_event import BATCH_TYPE, CloudEvent, is_batch, read_cloud_event, read_cloud_events
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


class DomainEventResult(ResponseModel):
    """What an event of a batch caused, or the problem because of which it was refused."""

    matched: int | None = None
    cancelled_steps: int | None = None
    notifications: list[DomainEventNotification] | None = None
    error: dict[str, JsonValue] | None = None


class DomainEventBatchResponse(ResponseModel):
    """The results of a batch, in the order of its events."""

    results: list[DomainEventResult]


def router(context: RouteContext) -> APIRouter:
    """Return the route."""
    routes = APIRouter(route_class=JsonRoute, tags=["domain events"])
    body = describe_body(CloudEvent)
    events = {"schema": {"type": "array", "items": {"$ref": "#/components/schemas/CloudEvent"}}}
    body["requestBody"]["content"][BATCH_TYPE] = events  # type: ignore[index]  # a JSON document

    @routes.post(
        "/domain-events",
        status_code=202,
        response_model=DomainEventResponse | DomainEventBatchResponse,
        summary="Publish a domain event",
        description="A CloudEvent 1.0, structured (`application/cloudevents+json`) or binary (attributes in the "
        "headers `ce-…`, data in the body). Triggers decide by its `type` who is notified of what. A repeated event, "
        "with the same `source` and `id`, returns the first response and causes nothing; they take the place of an "
        "`Idempotency-Key`. The later steps that wait for "
        "the event are cancelled: those of notifications with its `subject`, and, of notifications without a subject, "
        "those for the user `data.userId`. A batch "
        f"(`{BATCH_TYPE}`) has a result per event; an invalid event does not stop the others.",
        openapi_extra=body,
    )
    async def publish_event(
        request: Request, caller: Annotated[str, Depends(context.require_scopes("notify"))]
    ) -> Response:
        body = await request.body()
        headers = {name.lower(): value for name, value in request.headers.items()}
        if not is_batch(headers):
            return await _process(context, read_cloud_event(headers, body), caller)
        results = [await _process_one_of_batch(context, event, caller) for event in read_cloud_events(body)]
        return JSONResponse({"results": results}, 202)

    return routes


async def _process(context: RouteContext, event: DomainEvent, caller: str) -> Response:
    """Accept the notifications of an event. Raises Replayed for a repeated event, ValidationFailed."""
    runtime = context.runtime
    triggers = runtime.catalog.triggers.get(event.type, ())
    requests = build_requests(event, triggers, runtime.evaluator)
    async with idempotent_transaction(context.store, context.clock, _key_of(event, caller)) as call:
        # first: what the event ends must not be sent beside what it causes
        cancelled = await context.store.steps.cancel_by_event(
            call.tx, event.type, context.clock.now(), subject=event.subject, user_id=find_user_id(event)
        )
        accepted = [await context.notifier.accept(call.tx, one) for one in requests]
        caused = [{"id": one.id, "templateCode": one.template_code, "status": one.state.value} for one in accepted]
        return call.respond(202, {"matched": len(triggers), "cancelledSteps": cancelled, "notifications": caused})


async def _process_one_of_batch(
    context: RouteContext, event: DomainEvent | ValidationFailed, caller: str
) -> Mapping[str, object]:
    """Return the result of an event, in a transaction of its own."""
    try:
        if isinstance(event, ValidationFailed):
            raise event
        found: Mapping[str, object] = msgspec.json.decode(bytes((await _process(context, event, caller)).body))
    except Replayed as repeated:
        found = msgspec.json.decode(repeated.response.body)
    except ValidationFailed as error:
        found = {"error": msgspec.to_builtins(problem_for(error))}
    return found


def _key_of(event: DomainEvent, caller: str) -> IdempotentRequest:
    """Return the idempotency key of an event: producers must not use `source` and `id` again for another one."""
    identity = hashlib.sha256(f"{event.source}\0{event.id}".encode()).hexdigest()
    return IdempotentRequest(caller, f"cloudevent:{identity}", identity)
