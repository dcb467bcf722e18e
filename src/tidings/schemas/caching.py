"""Responses that browsers and proxies may cache, with an entity tag (RFC 9110 §8.8.3, RFC 9111)."""

from collections.abc import Mapping

from fastapi import Request
from starlette.responses import JSONResponse, Response


def cacheable_response(request: Request, content: Mapping[str, object], *, version: str, max_age: int) -> Response:
    """Return a public JSON response that may be cached for `max_age` seconds; 304 if the caller has this version.

    version: identifies the content; without quotes.
    """
    tag = f'"{version}"'
    headers = {
        "Cache-Control": f"public, max-age={max_age}",
        "ETag": tag,
        # a shared cache must not give an answer to another origin, which lacks the header of that origin
        "Vary": "Origin",
    }
    known = request.headers.get("if-none-match", "").split(",")
    if any(entry.strip().removeprefix("W/") in (tag, "*") for entry in known):
        return Response(status_code=304, headers=headers)
    return JSONResponse(content, headers=headers)
