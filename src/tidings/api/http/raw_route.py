"""A route that bypasses FastAPI's parameter and dependency handling.

That handling costs more than validating a notification: 0.19 ms of 0.27 ms, measured on `POST /api/notifications`, the
one route with enough calls for it to matter. Such a route authenticates the caller itself and describes its body in
`openapi_extra`. Exceptions are handled as on all routes.
"""

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send


class RawRoute(APIRoute):
    """Calls its endpoint function with one argument, the request."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request to this route's path."""
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)  # 405 with the `Allow` header
            return
        response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)
