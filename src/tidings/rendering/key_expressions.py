"""What the expressions of keys may use. They come with requests, and the work of some operations has no limit. Pure."""

import re
from collections.abc import Collection
from typing import Final

_STRINGS: Final = re.compile(r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')""")
_FILTER: Final = re.compile(r"\|\s*([A-Za-z_]\w*)(\s*\()?")
_CALL: Final = re.compile(r"([A-Za-z_]\w*|\]|\))\s*\(")
#: words that a parenthesis may follow without a call
_KEYWORDS: Final = frozenset({"and", "or", "not", "in", "if", "else", "is"})
#: built-in filters whose result is no longer than their arguments
KEY_FILTERS: Final = frozenset(
    {"abs", "bool", "capitalize", "count", "d", "default", "first", "float", "int", "last", "length", "lower", "round"}
    | {"string", "title", "trim", "upper"}
)


def find_key_problem(expression: str, own_filters: Collection[str]) -> str | None:
    """Return what an expression uses that a key may not, None if nothing. own_filters: names of the packs' filters.

    The renderer's fuel counts instructions. A repeated list, or a call such as `replace`, is one instruction however
    much it produces.
    """
    text = _STRINGS.sub("''", expression)
    if "*" in text:
        return "must not multiply"
    for name, _ in _FILTER.findall(text):
        if name not in KEY_FILTERS and name not in own_filters:
            known = ", ".join(sorted({*KEY_FILTERS, *own_filters}))
            return f"must not use the filter {name}; known are: {known}"
    for called in _CALL.findall(_FILTER.sub("|", text)):
        if called not in _KEYWORDS:
            return "must not call functions"
    return None
