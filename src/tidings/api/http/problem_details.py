"""Errors as RFC 9457 problem documents, and the table from error class to HTTP status."""

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
    FieldError,
    Forbidden,
    MissingReference,
    NotFound,
    PreconditionFailed,
    RateLimited,
    TidingsError,
    TransactionConflict,
    Unauthenticated,
    ValidationFailed,
)

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"


class PayloadTooLarge(TidingsError):
    """The request body exceeds the route's limit."""

    code = "too_large"


class RequestTimeout(TidingsError):
    """The request body did not arrive in time."""

    code = "too_slow"


class UnsupportedMediaType(TidingsError):
    """The media type or encoding of the request body is not supported."""

    code = "unsupported_media_type"


#: error class → status; the nearest class in an error's MRO counts
STATUS_BY_ERROR: Mapping[type[TidingsError], int] = {
    ValidationFailed: 422,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    MissingReference: 404,
    Conflict: 409,
    PreconditionFailed: 412,
    RateLimited: 429,
    RequestTimeout: 408,
    PayloadTooLarge: 413,
    UnsupportedMediaType: 415,
    BackendError: 503,
    TransactionConflict: 503,
    ConfigError: 500,
    TidingsError: 500,
}
#: codes whose status differs from that of their class
STATUS_BY_CODE: Mapping[str, int] = {"malformed_json": 400}
#: status → code, for errors that the framework raises
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


def http_status(error: TidingsError) -> int:
    """Return the HTTP status of an error."""
    by_class = next(STATUS_BY_ERROR[kind] for kind in type(error).__mro__ if kind in STATUS_BY_ERROR)
    return STATUS_BY_CODE.get(error.code, by_class)


def problem_for(error: TidingsError, instance: str | None = None) -> Problem:
    """Return the problem document of an error."""
    field_errors = error.field_errors if isinstance(error, ValidationFailed) else ()
    return _build_problem(http_status(error), error.code, error.message, instance, field_errors)


def error_headers(error: TidingsError) -> dict[str, str]:
    """Return the response headers of an error: Retry-After, WWW-Authenticate or Connection."""
    if isinstance(error, RateLimited | BackendError):
        return {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    if isinstance(error, Unauthenticated):
        # RFC 6750 §3: a request without credentials gets no error attribute
        attribute = "" if error.code == "unauthenticated" else ', error="invalid_token"'
        return {"WWW-Authenticate": f'Bearer realm="tidings"{attribute}'}
    if isinstance(error, PayloadTooLarge):
        return {"Connection": "close"}  # the rest of the body is not read
    return {}


def error_response(error: TidingsError, instance: str | None = None) -> Response:
    """Return the problem response of an error."""
    return _problem_response(problem_for(error, instance), error_headers(error))


def install(app: Starlette, *, hint: str = "") -> None:
    """Turn every error of a route into a problem document. hint: a sentence for the 404 of an unknown path."""
    app.add_exception_handler(TidingsError, _on_tidings_error)
    app.add_exception_handler(HTTPException, partial(_on_http_exception, hint))


async def _on_tidings_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, TidingsError)
    if http_status(error) >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, BackendError):
        return _internal_error_response(error, request.scope["path"])
    return error_response(error, request.scope["path"])


async def _on_http_exception(hint: str, request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # not `request.url`, which is parsed from the Host header and may raise
    path = request.scope["path"]
    code = _FRAMEWORK_CODES.get(error.status_code, "http_error")
    detail = {
        "no_route": f"No route matches {path}. {hint}".rstrip(),
        "method_not_allowed": f"{path} does not support {request.method}.",
    }.get(code, str(error.detail))
    return _problem_response(_build_problem(error.status_code, code, detail, path), dict(error.headers or {}))


def _internal_error_response(error: Exception, path: str) -> Response:
    """Log an unexpected error with an incident id, and return a response that contains only this id."""
    incident = uuid4().hex
    log.error("request_failed", incident=incident, path=path, exc_info=error)
    detail = f"Internal error. The server log has the details under incident {incident}."
    return _problem_response(_build_problem(500, "internal", detail, path), {})


class UnhandledErrorMiddleware:
    """ASGI middleware that turns any other exception into a 500 problem, so that outer middleware adds its headers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def send_observed(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, send_observed)
        except asyncio.CancelledError:
            # shutdown cancels requests after a time limit; their transactions are rolled back
            if started:
                raise
            shutting_down = BackendError("The server is shutting down; retry.", retry_after=1.0)
            await error_response(shutting_down, scope["path"])(scope, receive, send)
        except ClientDisconnect:
            log.debug("client_disconnected", path=scope["path"])
        except TidingsError as error:
            if started:
                raise
            await error_response(error, scope["path"])(scope, receive, send)
        except Exception as error:
            if started:
                raise
            await _internal_error_response(error, scope["path"])(scope, receive, send)


def _build_problem(
    status: int, code: str, detail: str, instance: str | None, field_errors: Sequence[FieldError] = ()
) -> Problem:
    return Problem(
        type=f"urn:tidings:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        instance=instance,
        errors=[{"field": error.field, "message": error.message} for error in field_errors],
    )


def _problem_response(problem: Problem, headers: Mapping[str, str]) -> Response:
    return Response(msgspec.json.encode(problem), problem.status, headers, MEDIA_TYPE)
