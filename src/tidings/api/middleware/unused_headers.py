"""ASGI middleware: removes request headers that Tidings never uses, before anything parses them.

The framework parses cookies for each request, with a parser of the standard library that takes quadratic time in some
versions of Python. Tidings accepts bearer credentials only.
"""

from starlette.types import ASGIApp, Receive, Scope, Send


class CookieRemovalMiddleware:
    """Hides the `Cookie` header from the application."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and any(name == b"cookie" for name, _ in scope["headers"]):
            # in place: outer middleware reads what the router adds to the scope
            scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"cookie"]
        await self.app(scope, receive, send)
