"""Patterns with `*` as three readers take them: Python, Redis and Lua. All other characters stand for themselves."""

import re
from collections.abc import Callable


def matcher(pattern: str) -> Callable[[str], bool]:
    """Return a test of whole keys."""
    compiled = re.compile(".*".join(re.escape(part) for part in pattern.split("*")), re.DOTALL)
    return lambda key: compiled.fullmatch(key) is not None


def for_redis(pattern: str) -> str:
    """Return the pattern for `MATCH`, in which `?`, `[`, `]` and a backslash mean more."""
    return re.sub(r"([?\[\]\\])", r"\\\1", pattern)


def for_lua(pattern: str) -> str:
    """Return the pattern for `string.find`, which works on bytes and takes `%` before what means more."""
    return "^" + re.sub(r"([\^$()%.\[\]+\-?])", r"%\1", pattern).replace("*", ".*") + "$"
