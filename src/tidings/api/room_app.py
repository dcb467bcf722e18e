"""The application of `WEBSOCKET_PORT`: the WebSocket of live rooms and the health of this process, on plain Starlette.

Without the middleware of the API a connection takes less memory.
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tidings.api.context import RouteContext
from tidings.api.http import problem_details
from tidings.api.routes.streams import create_socket_route
from tidings.container import AppContainer
from tidings.errors import BackendError


def create_room_app(runtime: AppContainer) -> Starlette:
    """Return the application of the port of live rooms. The caller opens and closes `runtime`."""

    async def check_health(_request: Request) -> Response:
        """Return 200 while viewers can join: the database responds. The presence has a local fallback."""
        body = {"status": "ok", "connections": runtime.rooms.registry.total, "rooms": len(runtime.rooms.registry.rooms)}
        try:
            await runtime.store.ping()
        except BackendError as error:
            return JSONResponse({**body, "status": "unavailable", "detail": error.message}, 503)
        return JSONResponse(body)

    app = Starlette(routes=[Route("/health", check_health), create_socket_route(RouteContext(runtime))])
    app.router.redirect_slashes = False
    problem_details.install(app)
    return app
