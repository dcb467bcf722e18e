"""Base64url without padding, as push subscriptions and VAPID spell bytes (RFC 7515 Appendix C)."""

import base64
import binascii

_TO_STANDARD = bytes.maketrans(b"-_", b"+/")


def encode(raw: bytes) -> str:
    """Return the text of some bytes, unpadded."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """Return the bytes of a text, padded or not.

    Raises ValueError for anything outside the URL-safe alphabet; the standard library's own decoder skips it silently.
    """
    if "+" in text or "/" in text:
        raise ValueError("is standard base64; use the URL-safe alphabet (- and _ instead of + and /)")
    bare = text.rstrip("=")
    try:
        standard = bare.encode("ascii").translate(_TO_STANDARD)
        return base64.b64decode(standard + b"=" * (-len(standard) % 4), validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise ValueError("is not base64url") from error
