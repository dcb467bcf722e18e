"""ASGI middleware in front of every route: what a request body may be, and the headers every answer carries."""

import asyncio
from collections.abc import Mapping, Sequence
from email.message import Message as MediaType
from functools import lru_cache
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidings.api.problems import TooLarge, TooSlow, UnsupportedMediaType

#: routes that take many lines; each line has its own limit (`tidings.api.lines`)
BULK_BYTES: Final = 16 * 1024 * 1024
BULK_PATHS: Final = frozenset({"/api/notifications/batch", "/api/users/bulk"})

#: seconds without another piece of a body after which nobody waits for it any more
BODY_PATIENCE: Final = 15

_LINES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})

_CSP = "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'self'; frame-ancestors 'none'"
#: Swagger UI sets style attributes and shows icons as data URLs
_DOCS_CSP = f"{_CSP}; img-src 'self' data:; style-src 'self' 'unsafe-inline'"
_SECURITY_HEADERS: Mapping[str, str] = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "strict-origin-when-cross-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class BodyGuard:
    """Refuses bodies that are too large (declared or while they stream), compressed, or not JSON."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        bulk = scope["path"] in BULK_PATHS
        limit = max(self.max_bytes, BULK_BYTES) if bulk else self.max_bytes
        headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))  # of a name that comes twice, the first counts
        declared = headers.get(b"content-length", b"").decode("latin-1")
        if declared.isdecimal() and int(declared) > limit:
            raise _too_large(limit)
        if (declared.isdecimal() and int(declared) > 0) or b"transfer-encoding" in headers:
            _check_form(headers.get(b"content-type"), headers.get(b"content-encoding", b""), bulk=bulk)
        seen, complete = 0, False

        async def counted() -> Message:
            nonlocal seen, complete
            if complete:
                return await receive()  # what comes now is the end of the connection, whenever that is
            try:
                async with asyncio.timeout(BODY_PATIENCE):
                    message = await receive()
            except TimeoutError:
                raise TooSlow(f"No more of the body came for {BODY_PATIENCE} s.") from None
            complete = not message.get("more_body", False)
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _too_large(limit)
            return message

        await self.app(scope, counted, send)


@lru_cache(maxsize=64)  # callers say the same few things, and taking a media type apart costs as much as routing
def _check_form(media_type: bytes | None, coding: bytes, *, bulk: bool) -> None:
    encoding = coding.decode("latin-1").strip().lower()
    if encoding not in {"", "identity"}:
        raise UnsupportedMediaType(f"Content-Encoding {encoding[:40]}: send the body uncompressed.")
    if media_type is None:
        return
    parsed = MediaType()
    parsed["content-type"] = media_type.decode("latin-1")
    kind = parsed.get_content_type()
    wanted = kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
    if not wanted and not (kind in _LINES and bulk):
        also = " or application/x-ndjson" if bulk else ""
        raise UnsupportedMediaType(f"Content-Type {kind[:80]}: send application/json{also}.")
    if (parsed.get_content_charset() or "utf-8") != "utf-8":
        raise UnsupportedMediaType("JSON is UTF-8 (RFC 8259 §8.1): send no other charset.")


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body is larger than this route takes: {limit} bytes.")


class AnswerHeaders:
    """Adds the security headers, and those that a route left in `request.state.answer_headers`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path: str = scope["path"]
        state: dict[str, object] = scope.setdefault("state", {})
        left: dict[str, str] = {}
        state["answer_headers"] = left

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given: list[tuple[bytes, bytes]] = list(message["headers"])
                names = {name.lower() for name, _ in given}
                given.extend(pair for pair in _added(path) if pair[0] not in names)
                message["headers"] = given
                for name, value in left.items():
                    MutableHeaders(scope=message)[name] = value
            await send(message)

        await self.app(scope, receive, with_headers)


def _added(path: str) -> Sequence[tuple[bytes, bytes]]:
    """Return the headers that an answer gets unless it has them."""
    if path.startswith(("/api/", "/demo/api/")):
        return _DATA
    return _DOCS if path == "/docs" else _PAGE


def _encoded(**more: str) -> Sequence[tuple[bytes, bytes]]:
    headers = {**_SECURITY_HEADERS, **{name.replace("_", "-"): value for name, value in more.items()}}
    return [(name.encode(), value.encode()) for name, value in headers.items()]


_PAGE = _encoded(content_security_policy=_CSP)
_DOCS = _encoded(content_security_policy=_DOCS_CSP)
_DATA = _encoded(content_security_policy=_CSP, cache_control="no-store")
