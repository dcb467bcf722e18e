"""Validates click targets: an absolute http(s) URL, or a path of the host product. Pure.

Other forms could lead elsewhere than they appear to: `javascript:`, `//evil`, `/\\evil`, user names before an `@`,
control characters that browsers strip before parsing a URL (WHATWG URL §4.4).
"""

from typing import Final
from urllib.parse import urlsplit

#: bytes of a link in a message: UTF-8, with a backslash before each quotation mark. A message on every channel has room
#: for it and some text
MAX_LINK_BYTES: Final = 2000


def validate_link(text: str) -> str | None:
    """Return the error message for a click target, None if it is valid.

    Valid is a path that starts with exactly one slash, or an absolute http(s) URL without user and password. Both have
    at most `MAX_LINK_BYTES` bytes and contain no spaces, backslashes or control characters.
    """
    if not text.isprintable() or " " in text or "\\" in text:
        return "must not contain spaces, backslashes or control characters"
    if (size := len(text.encode()) + text.count('"')) > MAX_LINK_BYTES:
        return f"must have at most {MAX_LINK_BYTES} bytes as UTF-8, not {size}"
    if text.startswith("/") and not text.startswith("//"):
        return None
    return None if _is_absolute(text) else "must be a path that starts with one / or an http(s) URL without user name"


def _is_absolute(text: str) -> bool:
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port  # reading an invalid port raises ValueError
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(host) and "@" not in parts.netloc
