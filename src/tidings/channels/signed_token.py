"""Signatures by the secret key of the server, and signed tokens of links: URL-safe, reusable, without an expiry.

Link scanners of mail servers open links before people do, so a token must survive any use. It stays valid for as long
as the secret key, because a person may open a message that is years old.
"""

import base64
import binascii
import hashlib
import hmac
from functools import lru_cache
from typing import Final

_MAC_LENGTH: Final = 24


def sign_token(secret_key: str, purpose: bytes, payload: bytes) -> str:
    """Return the token of a payload. purpose: separates these signatures from other uses of the secret key."""
    return base64.urlsafe_b64encode(compute_signature(secret_key, purpose, payload) + payload).rstrip(b"=").decode()


def verify_token(secret_key: str, purpose: bytes, token: str, *, max_length: int) -> bytes | None:
    """Return the payload of a token, None if it was not signed with this secret key for this purpose."""
    if len(token) > max_length or not token.isascii():
        return None
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    mac, payload = raw[:_MAC_LENGTH], raw[_MAC_LENGTH:]
    if not hmac.compare_digest(mac, compute_signature(secret_key, purpose, payload)):
        return None
    # one token has one spelling: base64 has spare bits at the end
    return payload if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() == token else None


def compute_signature(secret_key: str, purpose: bytes, payload: bytes) -> bytes:
    """Return 24 bytes that only this server can compute. purpose: as in `sign_token`."""
    return hmac.digest(_derive_key(secret_key, purpose), payload, hashlib.sha256)[:_MAC_LENGTH]


@lru_cache(maxsize=16)
def _derive_key(secret_key: str, purpose: bytes) -> bytes:
    return hmac.digest(secret_key.encode(), purpose, hashlib.sha256)
