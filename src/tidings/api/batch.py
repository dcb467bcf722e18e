"""Many notifications in one request (API.md): NDJSON with one result per line, or one body with `userIds`."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from tidings.api import lines
from tidings.api.host import ApiHost
from tidings.api.idempotency import key_of
from tidings.api.notify_body import NotifyBody, as_called, to_request
from tidings.api.shapes import Accepted
from tidings.edge import bodies, describe
from tidings.edge.answers import LOCATION, located
from tidings.errors import Invalid, NotFound
from tidings.ports.store import Transaction

#: lines in one request
MAX_LINES = 10_000
#: lines accepted in one transaction: short enough that urgent work does not wait behind a batch
CHUNK = 200


@dataclass(frozen=True, slots=True)
class Line:
    """One line as read: a request, or why there is none."""

    number: int
    wanted: NotifyBody | Invalid


def router(host: ApiHost) -> APIRouter:
    """Return the route /notifications/batch."""
    routes = APIRouter(tags=["notifications"])

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
            return await _many(host, request, caller)
        return await _one(host, request, caller)

    return routes


async def _one(host: ApiHost, request: Request, caller: str) -> Response:
    body = bodies.read(await request.body(), NotifyBody)
    if body.options.dry_run:
        raise Invalid.field("options.dryRun", "is for POST /api/notifications")

    async def work(tx: Transaction) -> tuple[int, object]:
        with as_called(body):
            accepted = await host.notifier.accept(tx, to_request(body, host.clock.now()))
        return 202, Accepted(id=accepted.id, status=accepted.state).json_object()

    return located(await host.once(request, caller, work), "/api/notifications")


async def _many(host: ApiHost, request: Request, caller: str) -> Response:
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
        part_key = None if prefix is None else f"batch:{prefix}:{start}"
        chunk = read[start : start + CHUNK]

        async def work(tx: Transaction, chunk: Sequence[Line] = chunk) -> tuple[int, object]:
            return 200, [await _accept(host, tx, line) for line in chunk]

        answer = await host.work_once.run(caller, part_key, whole.hexdigest(), work)
        replayed = replayed and answer.replayed
        parts.extend(msgspec.json.encode(one) + b"\n" for one in msgspec.json.decode(answer.body))
    headers = {"Idempotency-Replayed": "true"} if replayed else None
    return Response(b"".join(parts), media_type=lines.MEDIA_TYPE, headers=headers)


def _read(line: bytes) -> NotifyBody | Invalid:
    try:
        body = bodies.read(line, NotifyBody)
        if body.options.dry_run:
            raise Invalid.field("options.dryRun", "is for POST /api/notifications")
        return body
    except Invalid as error:
        return error


async def _accept(host: ApiHost, tx: Transaction, line: Line) -> dict[str, object]:
    if isinstance(line.wanted, Invalid):
        return lines.failed(line.number, line.wanted)
    try:
        async with host.store.savepoint(tx):
            with as_called(line.wanted):
                accepted = await host.notifier.accept(tx, to_request(line.wanted, host.clock.now()))
    except (Invalid, NotFound) as error:
        return lines.failed(line.number, error)
    return {"line": line.number, "id": accepted.id, "status": str(accepted.state)}
