"""A route whose function takes the request and returns the response: nothing of the framework stands between.

Looking for parameters and dependencies costs more than checking a notification does. Such a route says in
`openapi_extra` what it takes, and asks itself who calls. Errors are answered as everywhere.
"""

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send


class Direct(APIRoute):
    """Calls its function, which must take one argument, the request."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request whose path is this route's."""
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)  # says which methods there are
            return
        response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)
