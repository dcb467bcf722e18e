"""ASGI middleware: limits on request bodies, and security headers on every response."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidings.api.http.problem_details import PayloadTooLarge, RequestTimeout, UnsupportedMediaType

#: largest body of an NDJSON route; each line has its own limit (`tidings.api.http.ndjson`)
BULK_MAX_BYTES: Final = 16 * 1024 * 1024
BULK_PATHS: Final = frozenset({"/api/notifications/batch", "/api/users/bulk"})

#: paths whose callers decide on the media type: providers, and mail programs that unsubscribe (RFC 8058 §3.2)
FOREIGN_PATHS: Final = ("/hooks/", "/unsubscribe/")

#: longest Content-Type; the longest useful one has about 60 bytes
MAX_CONTENT_TYPE_BYTES: Final = 200
#: seconds to wait for the next chunk of a body
BODY_READ_TIMEOUT: Final = 15

# Linear: no two parts of a pattern can match the same character. The parser of `email` takes quadratic time, and raises
# for parameters such as `charset*=`. Other parameters than charset have no meaning for JSON (RFC 8259 §11).
_MEDIA_TYPE = re.compile(r"\s*([!#$%&'*+.^_`|~0-9a-z-]+/[!#$%&'*+.^_`|~0-9a-z-]+)\s*(?:;|$)")
_PARAMETER = re.compile(r';\s*([^\s;="]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;"]*)')

_NDJSON_TYPES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})

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


class BodyLimitMiddleware:
    """Rejects bodies that are too large (declared or while they stream), too slow, compressed, or not JSON."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        bulk = scope["path"] in BULK_PATHS
        limit = max(self.max_bytes, BULK_MAX_BYTES) if bulk else self.max_bytes
        headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))  # the first of a repeated header counts
        declared = _content_length(headers.get(b"content-length", b""))
        if declared > limit:
            raise _too_large(limit)
        is_foreign = scope["path"].startswith(FOREIGN_PATHS)
        if not is_foreign and (declared > 0 or b"transfer-encoding" in headers):
            _check_media_type(headers.get(b"content-type"), headers.get(b"content-encoding", b""), bulk=bulk)
        seen, complete = 0, False

        async def receive_limited() -> Message:
            nonlocal seen, complete
            if complete:
                return await receive()  # after the body: the disconnect, without a time limit
            try:
                async with asyncio.timeout(BODY_READ_TIMEOUT):
                    message = await receive()
            except TimeoutError:
                raise RequestTimeout(f"No data of the body arrived for {BODY_READ_TIMEOUT} s.") from None
            complete = not message.get("more_body", False)
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _too_large(limit)
            return message

        await self.app(scope, receive_limited, send)


def _content_length(header: bytes) -> int:
    """Return the declared length; 0 = none. The digits are limited, because `int` refuses thousands of them."""
    digits = header.strip().lstrip(b"0")
    return int(digits[:20]) if digits.isdigit() else 0


@lru_cache(maxsize=64)  # callers send few distinct values, and parsing a media type costs as much as routing
def _check_media_type(content_type: bytes | None, content_encoding: bytes, *, bulk: bool) -> None:
    encoding = content_encoding.decode("latin-1").strip().lower()
    if encoding not in {"", "identity"}:
        raise UnsupportedMediaType(f"Content-Encoding {encoding[:40]} is not supported. Send the body uncompressed.")
    if content_type is None:
        return
    if len(content_type) > MAX_CONTENT_TYPE_BYTES:
        raise UnsupportedMediaType(f"Content-Type has more than {MAX_CONTENT_TYPE_BYTES} bytes. Send application/json.")
    media_type, charset = parse_media_type(content_type)
    is_json = media_type == "application/json" or (
        media_type.startswith("application/") and media_type.endswith("+json")
    )
    if not is_json and not (media_type in _NDJSON_TYPES and bulk):
        also = " or application/x-ndjson" if bulk else ""
        raise UnsupportedMediaType(f"Content-Type {media_type[:80]} is not supported. Send application/json{also}.")
    if charset not in {"", "utf-8", "utf8"}:
        raise UnsupportedMediaType("The charset of JSON must be UTF-8 (RFC 8259 §8.1).")


def parse_media_type(content_type: bytes) -> tuple[str, str]:
    """Return (media type, charset) in lower case. The type is `text/plain` if it is malformed (RFC 2045 §5.2)."""
    text = content_type.decode("latin-1").lower()
    found = _MEDIA_TYPE.match(text)
    if found is None:
        return "text/plain", ""
    parameters = dict(reversed(_PARAMETER.findall(text, found.end(1))))
    return found[1], parameters.get("charset", "").strip('"')


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body exceeds the limit of {limit} bytes.")


class SecurityHeadersMiddleware:
    """Adds the security headers, and the headers that a dependency put into `request.state.response_headers`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path: str = scope["path"]
        state: dict[str, object] = scope.setdefault("state", {})
        route_headers: dict[str, str] = {}
        state["response_headers"] = route_headers

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers: list[tuple[bytes, bytes]] = list(message["headers"])
                names = {name.lower() for name, _ in headers}
                headers.extend(pair for pair in _headers_for(path) if pair[0] not in names)
                message["headers"] = headers
                for name, value in route_headers.items():
                    MutableHeaders(scope=message)[name] = value
            await send(message)

        await self.app(scope, receive, with_headers)


def _headers_for(path: str) -> Sequence[tuple[bytes, bytes]]:
    """Return the headers that are added to a response that does not have them."""
    if path.startswith(("/api/", "/demo/api/")):
        return _DATA_HEADERS
    return _DOCS_HEADERS if path == "/docs" else _PAGE_HEADERS


def _encode_headers(**extra: str) -> Sequence[tuple[bytes, bytes]]:
    headers = {**_SECURITY_HEADERS, **{name.replace("_", "-"): value for name, value in extra.items()}}
    return [(name.encode(), value.encode()) for name, value in headers.items()]


_PAGE_HEADERS = _encode_headers(content_security_policy=_CSP)
_DOCS_HEADERS = _encode_headers(content_security_policy=_DOCS_CSP)
_DATA_HEADERS = _encode_headers(content_security_policy=_CSP, cache_control="no-store")
