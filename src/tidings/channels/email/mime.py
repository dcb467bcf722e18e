"""Writes messages in the Internet Message Format (RFC 5322, 2045–2047): headers and body parts, ASCII only, CRLF.

No line begins with a dot, so that a message can be sent over SMTP as it is.

Written here instead of with `email.message`, which encodes a long URL in a header as an encoded word, and takes
milliseconds for the quoted-printable form of an HTML part.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from email.header import Header
from functools import lru_cache
from typing import Final

import msgspec

#: header with our id of the delivery, which Postmark returns in its webhooks: it replaces the Message-ID
METADATA_HEADER: Final = "X-PM-Metadata-delivery-id"
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\s]+")
_ATOMS: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]+")
#: a line that begins with a dot, and the rest of it
_LEADING_DOT: Final = re.compile(rb"^\.([^\r\n]*)", re.MULTILINE)
_LINE_END: Final = re.compile(r"\r\n|\r|\n")
#: recommended length of a line (RFC 5322 §2.1.1)
_LINE_LENGTH: Final = 76
#: between two encoded pieces: a line break after `=` is not part of the text (RFC 2045 §6.7, rule 5)
SOFT_BREAK: Final = b"=\r\n"
#: encoded pieces that are kept: a layout has some forty, in each language and shape of its messages
_SHARED_PIECES: Final = 512
#: characters of a piece that is kept
_MAX_SHARED_LENGTH: Final = 16_000


class QuotedPrintable(msgspec.Struct, frozen=True):
    """A text in quoted-printable, without a line break at its end."""

    body: bytes


class Part(msgspec.Struct, frozen=True):
    """One part of a body."""

    #: media type with its parameters, except the charset
    content_type: str
    content: str | bytes | QuotedPrintable
    #: None = shown inline
    filename: str | None = None


def clean_text(text: str) -> str:
    """Return a text in one line. Line breaks and control characters become spaces: no value can begin a header."""
    return _CONTROL.sub(" ", text).strip()


def write_text_header(name: str, text: str) -> str:
    """Return a header line with free text, encoded if it is not ASCII (RFC 2047)."""
    text = clean_text(text)
    if text.isascii() and len(name) + 2 + len(text) <= _LINE_LENGTH:
        return f"{name}: {text}\r\n"
    charset = "us-ascii" if text.isascii() else "utf-8"
    encoded = Header(text, charset, maxlinelen=_LINE_LENGTH, header_name=name).encode(linesep="\r\n")
    return f"{name}: {encoded}\r\n"


def write_address_header(name: str, display_name: str, address: str) -> str:
    """Return a header line with one address, with or without a name."""
    display_name, address = clean_text(display_name), clean_text(address)
    if not display_name:
        return f"{name}: {address}\r\n"
    if not display_name.isascii():
        phrase = Header(display_name, "utf-8", maxlinelen=_LINE_LENGTH, header_name=name).encode(linesep="\r\n")
    elif _ATOMS.fullmatch(display_name):
        phrase = display_name
    else:
        escaped = display_name.replace("\\", "\\\\").replace('"', '\\"')
        phrase = f'"{escaped}"'
    return f"{name}: {phrase} <{address}>\r\n"


def write_token_header(name: str, *tokens: str) -> str:
    """Return a header line of ASCII tokens such as URLs and message ids, which must not be encoded. One per line."""
    return f"{name}:" + "".join(f"\r\n {clean_text(token)}" for token in tokens).replace("\r\n ", " ", 1) + "\r\n"


def write_body(alternatives: Sequence[Part], attachments: Sequence[Part], boundary: str) -> bytes:
    """Return the content headers and the body: alternatives from plain to rich, then attachments.

    boundary: separates the parts; it must not occur in them, so it contains `=_`, which the encodings exclude.
    """
    inner = _write_multipart("alternative", [_write_part(part) for part in alternatives], f"{boundary}a")
    if not attachments:
        return inner
    return _write_multipart("mixed", [inner, *(_write_part(part) for part in attachments)], f"{boundary}m")


def _write_multipart(subtype: str, parts: Sequence[bytes], boundary: str) -> bytes:
    head = f'Content-Type: multipart/{subtype}; boundary="=_{boundary}"\r\n\r\n'.encode("ascii")
    mark = f"--=_{boundary}".encode("ascii")
    return head + b"".join(mark + b"\r\n" + part for part in parts) + mark + b"--\r\n"


def _write_part(part: Part) -> bytes:
    content, content_type = part.content, part.content_type
    disposition = f'Content-Disposition: attachment; filename="{part.filename}"\r\n' if part.filename else ""
    if not isinstance(content, bytes):
        content_type += '; charset="utf-8"'
    if isinstance(content, QuotedPrintable):
        encoding, body = "quoted-printable", content.body + b"\r\n"
    elif part.filename or isinstance(content, bytes):
        raw = content.encode() if isinstance(content, str) else content
        encoding, body = "base64", base64.encodebytes(raw).replace(b"\n", b"\r\n")
    else:
        encoding, body = "quoted-printable", _encode_quoted_printable(content) + b"\r\n"
    head = f"Content-Type: {content_type}\r\nContent-Transfer-Encoding: {encoding}\r\n{disposition}\r\n"
    return head.encode("ascii") + body


def encode_text(text: str) -> bytes:
    """Return a piece of a text in quoted-printable. Pieces that messages share are encoded once."""
    return _encode_shared(text) if len(text) <= _MAX_SHARED_LENGTH else _encode_quoted_printable(text)


def _encode_quoted_printable(text: str) -> bytes:
    # most texts have line feeds only, for which a replacement is many times faster than the pattern
    lines = _LINE_END.sub("\r\n", text) if "\r" in text else text.replace("\n", "\r\n")
    encoded = binascii.b2a_qp(lines.encode(), istext=True)
    # soft line breaks have the form of the first line break of the text
    encoded = encoded if "\n" in lines else encoded.replace(b"\n", b"\r\n")
    # SMTP doubles a dot at the beginning of a line; without any, messages need not be searched for them
    while encoded.startswith(b".") or b"\n." in encoded:
        encoded = _LEADING_DOT.sub(_encode_leading_dot, encoded)
    return encoded


def _encode_leading_dot(line: re.Match[bytes]) -> bytes:
    # the form of the dot is two characters longer, and `=` may follow, so a full line becomes two
    return b"=2E" + line[1] if len(line[1]) <= _LINE_LENGTH - 4 else b"=2E" + SOFT_BREAK + line[1]


_encode_shared = lru_cache(maxsize=_SHARED_PIECES)(_encode_quoted_printable)
