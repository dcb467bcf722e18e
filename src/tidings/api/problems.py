"""Errors as RFC 9457 problem documents. The one table from error to HTTP status is here."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from functools import partial
from http import HTTPStatus
from uuid import uuid4

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidings.errors import (
    BackendError,
    ConfigError,
    Conflict,
    Fault,
    Forbidden,
    Invalid,
    NotFound,
    RateLimited,
    TidingsError,
    Unauthenticated,
)

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"


class TooLarge(TidingsError):
    """The request body is larger than this route takes."""

    code = "too_large"


class TooSlow(TidingsError):
    """The request body stopped coming."""

    code = "too_slow"


class UnsupportedMediaType(TidingsError):
    """The request body is in a form that is not read."""

    code = "unsupported_media_type"


#: error class → status; the nearest class in an error's ancestry counts
STATUS: Mapping[type[TidingsError], int] = {
    Invalid: 422,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    RateLimited: 429,
    TooSlow: 408,
    TooLarge: 413,
    UnsupportedMediaType: 415,
    BackendError: 503,
    ConfigError: 500,
    TidingsError: 500,
}
#: codes whose status differs from that of their class
STATUS_BY_CODE: Mapping[str, int] = {"malformed_json": 400}
#: codes for answers that the framework makes
_FRAMEWORK_CODES = {404: "no_route", 405: "method_not_allowed", 400: "bad_request"}


class Problem(msgspec.Struct, omit_defaults=True, rename="camel"):
    """An RFC 9457 problem document."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    instance: str | None = None
    errors: list[dict[str, str]] = msgspec.field(default_factory=list)


def status_of(error: TidingsError) -> int:
    """Return the HTTP status of an error."""
    by_class = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    return STATUS_BY_CODE.get(error.code, by_class)


def problem_of(error: TidingsError, instance: str | None = None) -> Problem:
    """Return the problem document of an error raised on purpose."""
    faults: Sequence[Fault] = error.faults if isinstance(error, Invalid) else ()
    return _problem(status_of(error), error.code, error.message, instance, faults)


def headers_of(error: TidingsError) -> dict[str, str]:
    """Return the headers an error brings: when to come back, how to say who one is."""
    if isinstance(error, RateLimited | BackendError):
        return {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    if isinstance(error, Unauthenticated):
        # RFC 6750 §3: a request without credentials gets no error attribute
        given = error.code not in {"unauthenticated"}
        return {"WWW-Authenticate": 'Bearer realm="tidings"' + (', error="invalid_token"' if given else "")}
    if isinstance(error, TooLarge):
        return {"Connection": "close"}  # the rest of the body is not worth reading
    return {}


def answer(error: TidingsError, instance: str | None = None) -> Response:
    """Return the response for an error raised on purpose."""
    return _response(problem_of(error, instance), headers_of(error))


def install(app: Starlette, *, hint: str = "") -> None:
    """Make every error that leaves a route a problem document. hint: a sentence for the 404 of an unknown path."""
    app.add_exception_handler(TidingsError, _on_tidings_error)
    app.add_exception_handler(HTTPException, partial(_on_http_exception, hint))


async def _on_tidings_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, TidingsError)
    if status_of(error) >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, BackendError):
        return _unexpected(error, request.url.path)
    return answer(error, request.url.path)


async def _on_http_exception(hint: str, request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    code = _FRAMEWORK_CODES.get(error.status_code, "http_error")
    detail = {
        "no_route": f"There is nothing at {path}. {hint}".rstrip(),
        "method_not_allowed": f"{request.method} is not known at {path}.",
    }.get(code, str(error.detail))
    return _response(_problem(error.status_code, code, detail, path), dict(error.headers or {}))


def _unexpected(error: Exception, path: str) -> Response:
    """Log an error nobody foresaw under an id, and answer with that id alone."""
    incident = uuid4().hex
    log.error("request failed", incident=incident, path=path, exc_info=error)
    detail = f"Something went wrong on our side. The log has the details under {incident}."
    return _response(_problem(500, "internal", detail, path), {})


class CatchUnexpected:
    """ASGI middleware: whatever else is raised becomes a 500 problem, so that headers added outside it hold too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except asyncio.CancelledError:
            # a stop waits only so long for requests; what was begun is rolled back
            if started:
                raise
            stopped = BackendError("The process stops before it could answer; ask again.", retry_after=1.0)
            await answer(stopped, scope["path"])(scope, receive, send)
        except ClientDisconnect:
            log.debug("client went away", path=scope["path"])
        except TidingsError as error:
            if started:
                raise
            await answer(error, scope["path"])(scope, receive, send)
        except Exception as error:
            if started:
                raise
            await _unexpected(error, scope["path"])(scope, receive, send)


def _problem(status: int, code: str, detail: str, instance: str | None, faults: Sequence[Fault] = ()) -> Problem:
    return Problem(
        type=f"urn:tidings:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        instance=instance,
        errors=[{"field": fault.field, "message": fault.message} for fault in faults],
    )


def _response(problem: Problem, headers: Mapping[str, str]) -> Response:
    return Response(msgspec.json.encode(problem), problem.status, headers, MEDIA_TYPE)
