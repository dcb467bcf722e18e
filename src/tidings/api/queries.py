"""What stands behind the question mark: a misspelt filter must not mean everything."""

from collections.abc import Iterator

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from tidings.edge.faults import MAX_FAULTS
from tidings.errors import Fault, Invalid


async def known_only(request: Request) -> None:
    """Refuse a parameter that the route does not know. Routes that take none do not look, for proxies add their own.

    Raises Invalid naming each one and what the route knows.
    """
    route = request.scope.get("route")
    if not request.query_params or not isinstance(route, APIRoute):
        return
    known = dict.fromkeys(_names(route.dependant))
    if known and (unknown := [name for name in request.query_params if name not in known]):
        why = f"is not known here; known are: {', '.join(known)}"
        raise Invalid.of([Fault(name, why) for name in unknown[:MAX_FAULTS]])


def _names(dependant: Dependant) -> Iterator[str]:
    """Yield what a route and all that it depends on read from the query."""
    yield from (field.alias for field in dependant.query_params)
    for one in dependant.dependencies:
        yield from _names(one)
