"""Strict unpadded base64url, the only encoding that Web Push headers and keys use (RFC 7515 §2)."""

import base64
import re

_ALPHABET = re.compile(r"[A-Za-z0-9_-]*\Z")


def encode(data: bytes) -> str:
    """Return `data` as base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """Return the bytes of unpadded base64url. Raises ValueError for padding, other alphabets and truncated text."""
    if not _ALPHABET.match(text) or len(text) % 4 == 1:
        raise ValueError("must be base64url without padding")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
