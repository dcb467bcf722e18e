"""Base64url without padding, the encoding of bytes in push subscriptions and VAPID (RFC 7515 Appendix C)."""

import base64
import binascii

_TO_STANDARD = bytes.maketrans(b"-_", b"+/")


def encode(raw: bytes) -> str:
    """Return the bytes as text without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """Return the decoded bytes of a text with or without padding.

    Raises ValueError for characters outside the URL-safe alphabet. The standard library's decoder skips them silently.
    """
    if "+" in text or "/" in text:
        raise ValueError("is standard base64; use the URL-safe alphabet (- and _ instead of + and /)")
    unpadded = text.rstrip("=")
    try:
        standard = unpadded.encode("ascii").translate(_TO_STANDARD)
        return base64.b64decode(standard + b"=" * (-len(standard) % 4), validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise ValueError("is not base64url") from error
