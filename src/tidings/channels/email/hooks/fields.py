"""Fields that the calls of several providers have: addresses, message ids, instants; and shared secrets. Pure."""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, TypeVar

import msgspec

from tidings.channels.email.addresses import parse_address
from tidings.errors import Unauthenticated, ValidationFailed
from tidings.model.ids import is_id

T = TypeVar("T")
_IN_BRACKETS: Final = re.compile(r"<([^<>]*)>")


def decode_body(body: bytes, kind: type[T]) -> T:
    """Return a JSON body. Raises ValidationFailed naming the field."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValidationFailed.for_field("", f"is not what this provider sends: {error}") from error


def parse_recipient(text: str | None) -> str | None:
    """Return an address in the form in which it is stored, None for a text without one."""
    found = _IN_BRACKETS.search(text or "")
    try:
        return parse_address(found[1] if found else text or "")
    except ValidationFailed:
        return None


def parse_delivery_id(message_id: str | None) -> str | None:
    """Return our id of a delivery from a `Message-ID` that Tidings wrote, `<id@domain>`; None for another one."""
    local = (message_id or "").strip().strip("<>").partition("@")[0]
    return local if is_id(local) else None


def parse_instant(text: str | None, default: datetime) -> datetime:
    """Return an instant in ISO 8601, or `default`: a report without a valid time is not lost."""
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return default
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def verify_secret(headers: Mapping[str, str], body: bytes, secret: str) -> None:
    """Verify a call by a shared secret: as bearer token, as password of `Basic`, or as key of a signature of the body.

    The signature is `X-Tidings-Signature: sha256=` and the HMAC-SHA256 of the bytes as received, in hex. Raises
    Unauthenticated.
    """
    if (given := headers.get("x-tidings-signature")) is not None:
        expected = "sha256=" + hmac.digest(secret.encode(), body, hashlib.sha256).hex()
        if not hmac.compare_digest(given.strip().lower().encode(), expected.encode()):
            raise Unauthenticated("the signature of the hook is invalid")
        return
    scheme, _, credential = headers.get("authorization", "").partition(" ")
    password = credential.strip().encode()
    if scheme.lower() == "basic":
        try:
            password = base64.b64decode(password, validate=True).partition(b":")[2]
        except binascii.Error:
            password = b""
    elif scheme.lower() != "bearer":
        raise Unauthenticated("the hook has neither a signature nor an Authorization header")
    if not hmac.compare_digest(password, secret.encode()):
        raise Unauthenticated("the secret of the hook is wrong")
