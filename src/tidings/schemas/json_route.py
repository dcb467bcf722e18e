"""A FastAPI route class for JSON: authenticates before it reads the body, parses strictly, repeats on conflicts.

Only routers import this module, because workers run without FastAPI.
"""

from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security.base import SecurityBase
from pydantic import BaseModel

from tidings.errors import ValidationFailed
from tidings.ports.transaction import retry_on_conflict
from tidings.schemas import json_body
from tidings.schemas.validation_errors import build_validation_failed


class JsonRoute(APIRoute):
    """The `route_class` of a router whose routes take Pydantic models as JSON bodies, or change the database."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, called with a request whose JSON is parsed strictly.

        A handler whose transaction the database rolled back because of a concurrent one is called again.
        """
        handle = super().get_route_handler()
        authenticators = list(_list_authenticators(self.dependant))

        async def handle_strictly(request: Request) -> Response:
            strict = _StrictRequest(request.scope, request.receive)
            if self.body_field is not None:
                # FastAPI would read the body first: up to 1 MiB from a caller without a credential
                for authenticate in authenticators:
                    await authenticate(strict)
                # read here, because FastAPI turns every error while reading a body (413, 408, disconnect) into a 400
                await strict.body()
            return await retry_on_conflict(partial(handle, strict))

        return handle_strictly


def _list_authenticators(dependant: Dependant) -> Iterator[Callable[[Request], Coroutine[Any, Any, object]]]:
    """Yield the security dependencies of a route, those of its dependencies included."""
    for dependency in dependant.dependencies:
        call: Any = dependency.call
        if isinstance(call, SecurityBase):
            yield call  # type: ignore[misc]  # a subclass that is a dependency is called with the request
        yield from _list_authenticators(dependency)


class _StrictRequest(Request):
    async def json(self) -> object:
        """Return the parsed body, or its bytes if it is not valid JSON.

        Bytes match no model, so the request is rejected with the error from `to_validation_failed`.
        """
        raw = await self.body()
        try:
            value = json_body.parse_json(raw)
        except ValidationFailed:
            return raw
        # older versions of FastAPI treat None as a missing body
        return raw if value is None else value


def to_validation_failed(error: RequestValidationError, route: object) -> ValidationFailed:
    """Return the error with the caller's field names: `keys.auth` in a body, else the name of the parameter."""
    details = error.errors()
    raw = b"" if error.body is None else error.body
    if isinstance(raw, bytes) and any(detail["loc"] == ("body",) for detail in details):
        try:
            json_body.parse_json(raw)
        except ValidationFailed as malformed:
            return malformed
    # the first part of a location is its source: body, query, path or header
    return build_validation_failed([{**detail, "loc": detail["loc"][1:]} for detail in details], _body_model(route))


def _body_model(route: object) -> type[BaseModel] | None:
    field = route.body_field if isinstance(route, APIRoute) else None
    model = None if field is None else field.field_info.annotation
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None
