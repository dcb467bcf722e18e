"""Where a click may lead: an absolute http(s) URL, or a path of the host product. Pure.

Everything else could lead elsewhere than it looks: `javascript:`, `//evil`, `/\\evil`, user names before an `@`,
control characters that browsers drop before they read a URL (WHATWG URL §4.4).
"""

from typing import Final
from urllib.parse import urlsplit

MAX_LINK: Final = 2000


def fault_of_link(text: str) -> str | None:
    """Say what is wrong with a click target and what would be right; None if nothing is.

    Right are at most 2000 characters without blanks, backslashes and control characters: a path that starts with
    exactly one slash, or an absolute http(s) URL without user and password.
    """
    if len(text) > MAX_LINK:
        return f"must have at most {MAX_LINK} characters"
    if not text.isprintable() or " " in text or "\\" in text:
        return "must not contain blanks, backslashes or control characters"
    if text.startswith("/") and not text.startswith("//"):
        return None
    return None if _is_absolute(text) else "must be a path that starts with one / or an http(s) URL without user name"


def _is_absolute(text: str) -> bool:
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port  # reading a port that is none raises
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(host) and "@" not in parts.netloc
