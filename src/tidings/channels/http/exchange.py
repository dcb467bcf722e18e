"""What became of an HTTP request."""

from collections.abc import Mapping

import msgspec


class HttpResponse(msgspec.Struct, frozen=True):
    """A response. Its body is cut to 64 KB."""

    status: int
    #: lower-case names
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    body: bytes = b""


class NotSent(msgspec.Struct, frozen=True):
    """The request was certainly not processed: there was no connection."""

    why: str


class NoResponse(msgspec.Struct, frozen=True):
    """The connection ended or timed out after the request may have been written: it may have been processed."""

    why: str


Exchange = HttpResponse | NotSent | NoResponse
