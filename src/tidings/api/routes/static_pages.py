"""Static files and pages: `/web`, the service worker at the root, `/docs` without a CDN."""

import mimetypes
import os
from pathlib import Path
from urllib.parse import quote

from fastapi import APIRouter, FastAPI
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

WEB = Path(__file__).parents[2] / "web"

#: set explicitly, because the system's table may lack them or may have been changed
_MEDIA_TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
    ".webp": "image/webp",
}

_DOCS_HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tidings API</title>
<link rel="icon" href="/web/vendor/swagger-ui/favicon-32x32.png">
<link rel="stylesheet" href="/web/vendor/swagger-ui/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/web/vendor/swagger-ui/swagger-ui-bundle.js"></script>
<script src="/web/vendor/swagger-ui/start.js"></script>
</body>
</html>
"""


class WebFiles(StaticFiles):
    """Static files that browsers revalidate each time (ETag), so that an upgrade takes effect at once."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["Cache-Control"] = "no-cache"
        return response


def install(app: FastAPI, *, demo: bool) -> None:
    """Add the static files and pages to the application."""
    for suffix, kind in _MEDIA_TYPES.items():
        mimetypes.add_type(kind, suffix)
    app.include_router(_router(demo))
    app.mount("/web", WebFiles(directory=WEB), name="web")


def _router(demo: bool) -> APIRouter:
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def root() -> Response:
        return RedirectResponse("/demo/" if demo else "/docs", 307)

    @routes.get("/docs")
    async def docs() -> Response:
        return HTMLResponse(_DOCS_HTML)

    @routes.api_route("/sw.js", methods=["GET", "HEAD"])
    async def service_worker() -> Response:
        # at the root, because the scope of a service worker is its folder; no-cache, so that updates load at once
        return FileResponse(
            WEB / "sw.js",
            media_type="text/javascript",
            headers={"Service-Worker-Allowed": "/", "Cache-Control": "no-cache"},
        )

    if demo:

        @routes.get("/demo")
        async def to_demo() -> Response:
            return RedirectResponse("/demo/", 308)

        # the action URL of the events pack's notifications; here the demo page stands in for the host product's page
        @routes.get("/events/{event_id}")
        async def event_page(event_id: str) -> Response:
            return RedirectResponse(f"/demo/?event={quote(event_id, safe='')}", 307)

        @routes.get("/demo/")
        async def demo_page() -> Response:
            return FileResponse(WEB / "demo" / "index.html", headers={"Cache-Control": "no-cache"})

        @routes.get("/demo/live")
        async def stream_page() -> Response:
            return FileResponse(WEB / "demo" / "live.html", headers={"Cache-Control": "no-cache"})

    return routes
