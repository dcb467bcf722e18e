"""Many notifications in one request (API.md): NDJSON with one result per line, or one body with `userIds`."""

import hashlib

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from tidings.api import lines
from tidings.api.host import ApiHost
from tidings.api.idempotency import key_of, keyed_of
from tidings.api.shapes import Accepted
from tidings.api.together import Together, together_of
from tidings.api.wanted import Line, several, single
from tidings.edge import bodies, describe
from tidings.edge.answers import LOCATION, located
from tidings.edge.notify_body import NotifyBody
from tidings.errors import Invalid
from tidings.ports.store import KeyedRequest

#: lines in one request
MAX_LINES = 10_000
#: lines accepted in one go: short enough that urgent work does not wait behind a batch
CHUNK = 200


def router(host: ApiHost) -> APIRouter:
    """Return the route /notifications/batch."""
    routes = APIRouter(tags=["notifications"])
    together = together_of(host)

    @routes.post(
        "/notifications/batch",
        responses={
            200: {"content": {lines.MEDIA_TYPE: {"schema": {"type": "string"}}}, "description": "one result per line"},
            202: {"model": Accepted, "description": "one body with userIds: one notification", "headers": LOCATION},
        },
        response_class=Response,
        openapi_extra=describe.takes(NotifyBody, once=True, lines=True),
    )
    async def batch(request: Request, caller: str = Depends(host.require("notify"))) -> Response:
        """Accept a notification per line.

        Each line is answered with `{line, id, status}` or `{line, status: refused, error}`.
        With an `Idempotency-Key`, a batch that was cut off half-way goes on where it stopped.
        """
        if "ndjson" in request.headers.get("content-type", "") or "jsonl" in request.headers.get("content-type", ""):
            return await _many(host, together, request, caller)
        return await _one(host, together, request, caller)

    return routes


async def _one(host: ApiHost, together: Together, request: Request, caller: str) -> Response:
    raw = await request.body()
    try:
        body = bodies.read(raw, NotifyBody)
    except Invalid as error:
        if error.code == bodies.MALFORMED and _has_lines(raw):
            hint = f"{error.message} Several lines of JSON want Content-Type: {lines.MEDIA_TYPE}."
            raise Invalid(hint, faults=error.faults, code=error.code) from error
        raise
    if body.options.dry_run:
        raise _no_dry_run()
    answer = await together.accept(single(body, keyed_of(request, caller, raw), host.clock))
    return located(answer.response(), "/api/notifications")


async def _many(host: ApiHost, together: Together, request: Request, caller: str) -> Response:
    key = key_of(request)
    whole = hashlib.sha256(f"{request.method} {request.url.path}\n".encode())
    read: list[Line] = []
    async for number, line in lines.lines(request, at_most=MAX_LINES):
        whole.update(line + b"\n")
        read.append(Line(number, _read(line)))
    if not read:
        raise Invalid("The body has no lines: send one JSON document per line.", code="malformed_json")
    prefix = None if key is None else hashlib.sha256(key.encode()).hexdigest()
    parts: list[bytes] = []
    replayed = True
    for start in range(0, len(read), CHUNK):
        keyed = None if prefix is None else KeyedRequest(caller, f"batch:{prefix}:{start}", whole.hexdigest())
        answer = await together.accept(several(read[start : start + CHUNK], keyed, host.clock))
        replayed = replayed and answer.replayed
        parts.extend(bytes(one) + b"\n" for one in msgspec.json.decode(answer.body, type=list[msgspec.Raw]))
    headers = {"Idempotency-Replayed": "true"} if replayed else None
    return Response(b"".join(parts), media_type=lines.MEDIA_TYPE, headers=headers)


def _read(line: bytes) -> NotifyBody | Invalid:
    try:
        body = bodies.read(line, NotifyBody)
    except Invalid as error:
        return error
    return _no_dry_run() if body.options.dry_run else body


def _has_lines(raw: bytes) -> bool:
    return b"}\n{" in raw.replace(b"\r", b"")


def _no_dry_run() -> Invalid:
    return Invalid.field("options.dryRun", "is for POST /api/notifications")
