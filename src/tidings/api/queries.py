"""What an address may say: a misspelt filter must not mean everything, a NUL can be kept by no database."""

from collections.abc import Iterator

from fastapi import FastAPI, Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.responses import Response

from tidings.api import problems
from tidings.edge.faults import MAX_FAULTS, path_of, sentence
from tidings.errors import Fault, Invalid


def install(app: FastAPI) -> None:
    """Make a problem document of a value that the framework refuses in a path or a query."""
    app.add_exception_handler(RequestValidationError, _refused)


async def understood(request: Request) -> None:
    """Refuse a parameter that the route does not know, and the character NUL in any.

    Routes that take no parameters do not look for unknown ones, because proxies add their own. Raises Invalid naming
    each one, and what the route knows.
    """
    _without_nul(request)
    route = request.scope.get("route")
    if not request.query_params or not isinstance(route, APIRoute):
        return
    known = dict.fromkeys(_names(route.dependant))
    if known and (unknown := [name for name in request.query_params if name not in known]):
        why = f"is not known here; known are: {', '.join(known)}"
        raise Invalid.of([Fault(name, why) for name in unknown[:MAX_FAULTS]])


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # each is told where it stands, query or path, and then its name
    faults = [Fault(path_of(one["loc"][1:]), sentence(one)) for one in error.errors()]
    return problems.answer(Invalid.of(faults), request.url.path)


def _without_nul(request: Request) -> None:
    # the id of what an address is about is the field `id` of what stands there, `user_id` its name in templates only
    parts = (("id" if name.endswith("_id") else name, part) for name, part in request.path_params.items())
    named = [*parts, *request.query_params.multi_items()]
    if broken := dict.fromkeys(name for name, value in named if "\0" in str(value)):
        raise Invalid.of([Fault(name, "must not contain the character NUL") for name in list(broken)[:MAX_FAULTS]])


def _names(dependant: Dependant) -> Iterator[str]:
    """Yield what a route and all that it depends on read from the query."""
    yield from (field.alias for field in dependant.query_params)
    for one in dependant.dependencies:
        yield from _names(one)
