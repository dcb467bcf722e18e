"""Rejects unknown query parameters, and NUL characters in paths and queries.

A misspelt filter must not select everything, and databases cannot store NUL.
"""

from collections.abc import Iterator

from fastapi import FastAPI, Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.responses import Response

from tidings.api.http import problem_details
from tidings.errors import FieldError, ValidationFailed
from tidings.schemas.json_route import to_validation_failed
from tidings.schemas.validation_errors import MAX_FIELD_ERRORS

_API_PREFIX = "/api/"


def install(app: FastAPI) -> None:
    """Turn FastAPI's validation errors (path, query, header, body) into problem documents."""
    app.add_exception_handler(RequestValidationError, _on_invalid_params)


async def reject_unknown_params(request: Request) -> None:
    """Reject query parameters that the route does not define, and NUL in any parameter.

    Pages that browsers open and hooks of providers, which are not under `/api/`, ignore unknown parameters if they
    define none: mail programs, link scanners and providers add their own. Raises ValidationFailed naming each unknown
    parameter and the known ones.
    """
    _reject_nul(request)
    route = request.scope.get("route")
    if not request.query_params or not isinstance(route, APIRoute):
        return
    known = dict.fromkeys(_parameter_names(route.dependant))
    is_strict = bool(known) or request.scope["path"].startswith(_API_PREFIX)
    if is_strict and (unknown := [name for name in request.query_params if name not in known]):
        message = f"is not a known parameter; known are: {', '.join(known) or 'none'}"
        raise ValidationFailed.from_errors([FieldError(name, message) for name in unknown[:MAX_FIELD_ERRORS]])


async def _on_invalid_params(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem_details.error_response(
        to_validation_failed(error, request.scope.get("route")), request.scope["path"]
    )


def _reject_nul(request: Request) -> None:
    # `user_id` is the name in the path template only; callers know the field as `id`
    path_params = (("id" if name.endswith("_id") else name, value) for name, value in request.path_params.items())
    params = [*path_params, *request.query_params.multi_items()]
    if invalid := dict.fromkeys(name for name, value in params if "\0" in str(value)):
        raise ValidationFailed.from_errors(
            [FieldError(name, "must not contain the character NUL") for name in list(invalid)[:MAX_FIELD_ERRORS]]
        )


def _parameter_names(dependant: Dependant) -> Iterator[str]:
    """Yield the query parameters of a route and of all its dependencies."""
    yield from (field.alias for field in dependant.query_params)
    for dependency in dependant.dependencies:
        yield from _parameter_names(dependency)
