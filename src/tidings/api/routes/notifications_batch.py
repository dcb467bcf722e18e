"""Batch accept: an NDJSON request with one result per line, or one JSON body with `userIds`."""

import hashlib

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from tidings.api.accepting.group_commit import (
    BatchLine,
    GroupCommitAcceptor,
    create_group_commit_acceptor,
    for_batch,
    for_single,
)
from tidings.api.accepting.idempotency import REPLAYED_HEADERS, KeyHeader, read_key, read_keyed_request
from tidings.api.context import RouteContext
from tidings.api.http import ndjson
from tidings.api.http.openapi import describe_body
from tidings.api.schemas.notifications import AcceptedResponse
from tidings.errors import ValidationFailed
from tidings.ports.store import IdempotentRequest
from tidings.schemas import json_body
from tidings.schemas.notification_request import NotifyBody
from tidings.schemas.response_models import LOCATION_HEADER, with_location

#: lines per request
MAX_LINES = 10_000
#: lines accepted in one transaction; keeps the wait of urgent notifications short
LINES_PER_GROUP = 200


def router(context: RouteContext) -> APIRouter:
    """Return the route /notifications/batch."""
    routes = APIRouter(tags=["notifications"])
    acceptor = create_group_commit_acceptor(context)

    @routes.post(
        "/notifications/batch",
        responses={
            200: {"content": {ndjson.MEDIA_TYPE: {"schema": {"type": "string"}}}, "description": "one result per line"},
            202: {
                "model": AcceptedResponse,
                "description": "for a JSON body with userIds: one notification",
                "headers": LOCATION_HEADER,
            },
        },
        response_class=Response,
        openapi_extra=describe_body(NotifyBody, lines="one JSON document per line"),
    )
    async def batch(
        request: Request, caller: str = Depends(context.require_scopes("notify")), _: KeyHeader = None
    ) -> Response:
        """Accept a notification per line.

        The result of a line is `{line, id, status}` or `{line, status: refused, error}`.
        With an `Idempotency-Key`, the repeat of an interrupted batch continues after its last committed group.
        """
        if "ndjson" in request.headers.get("content-type", "") or "jsonl" in request.headers.get("content-type", ""):
            return await _accept_lines(context, acceptor, request, caller)
        return await _accept_one(context, acceptor, request, caller)

    return routes


async def _accept_one(context: RouteContext, acceptor: GroupCommitAcceptor, request: Request, caller: str) -> Response:
    raw = await request.body()
    try:
        body = json_body.parse_body(raw, NotifyBody)
    except ValidationFailed as error:
        if error.code == json_body.MALFORMED_CODE and _looks_like_ndjson(raw):
            hint = f"{error.message} For several lines of JSON, send Content-Type: {ndjson.MEDIA_TYPE}."
            raise ValidationFailed(hint, field_errors=error.field_errors, code=error.code) from error
        raise
    if body.options.dry_run:
        raise _dry_run_error()
    response = await acceptor.accept(for_single(body, read_keyed_request(request, caller, raw), context.clock))
    return with_location(response.to_response(), "/api/notifications")


async def _accept_lines(
    context: RouteContext, acceptor: GroupCommitAcceptor, request: Request, caller: str
) -> Response:
    key = read_key(request)
    fingerprint = hashlib.sha256(f"{request.method} {request.scope['path']}\n".encode())
    lines: list[BatchLine] = []
    async for number, line in ndjson.read_lines(request, max_lines=MAX_LINES):
        fingerprint.update(line + b"\n")
        lines.append(BatchLine(number, _parse_line(line)))
    if not lines:
        raise ValidationFailed("The body is empty. Send one JSON document per line.", code="malformed_json")
    prefix = None if key is None else hashlib.sha256(key.encode()).hexdigest()
    results: list[bytes] = []
    is_replayed = True
    for start in range(0, len(lines), LINES_PER_GROUP):
        # one key per group: a repeat replays the committed groups and accepts the rest
        group_key = f"batch:{prefix}:{start}"
        keyed = None if prefix is None else IdempotentRequest(caller, group_key, fingerprint.hexdigest())
        response = await acceptor.accept(for_batch(lines[start : start + LINES_PER_GROUP], keyed, context.clock))
        is_replayed = is_replayed and response.is_replayed
        results.extend(bytes(result) + b"\n" for result in msgspec.json.decode(response.body, type=list[msgspec.Raw]))
    headers = REPLAYED_HEADERS if is_replayed else None
    return Response(b"".join(results), media_type=ndjson.MEDIA_TYPE, headers=headers)


def _parse_line(line: bytes) -> NotifyBody | ValidationFailed:
    try:
        body = json_body.parse_body(line, NotifyBody)
    except ValidationFailed as error:
        return error
    return _dry_run_error() if body.options.dry_run else body


def _looks_like_ndjson(raw: bytes) -> bool:
    return b"}\n{" in raw.replace(b"\r", b"")


def _dry_run_error() -> ValidationFailed:
    return ValidationFailed.for_field("options.dryRun", "is only supported by POST /api/notifications")
