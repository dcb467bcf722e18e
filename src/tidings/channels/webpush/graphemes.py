"""User-perceived characters: where a text may be cut (Unicode UAX #29, extended grapheme clusters). Pure.

Python's standard library has no segmentation. The classes are derived from general categories, so a few rare signs
count as part of the character before them although UAX #29 separates them. A cut then comes one character earlier.
"""

import unicodedata

_ZERO_WIDTH_JOINER = "\u200d"
#: signs that combine two consonants of Indic scripts into one cluster (GB9c)
_CONJUNCT_LINKERS = frozenset("\u094d\u09cd\u0acd\u0b4d\u0c4d\u0d4d")
#: extending characters that are no marks: zero width (non-)joiner, half-width voiced marks, skin tones, tags of flags
_EXTENDING_RANGES = (
    ("\u200c", "\u200d"),
    ("\uff9e", "\uff9f"),
    ("\U0001f3fb", "\U0001f3ff"),
    ("\U000e0020", "\U000e007f"),
)
#: signs that belong to the character after them (Prepend)
_PREPENDED_RANGES = (
    ("\u0600", "\u0605"),
    ("\u06dd", "\u06dd"),
    ("\u070f", "\u070f"),
    ("\u0890", "\u0891"),
    ("\u08e2", "\u08e2"),
    ("\U000110bd", "\U000110bd"),
    ("\U000110cd", "\U000110cd"),
)


def find_boundary(text: str, index: int) -> int:
    """Return the last position, at most `index`, at which the text may be cut. 0 if its first character is longer."""
    while 0 < index < len(text) and not _is_boundary(text, index):
        index -= 1
    return index


def _is_boundary(text: str, index: int) -> bool:
    before, after = text[index - 1], text[index]
    # the common case: two ASCII characters are separate, except a line end of two characters
    if before < "\x7f" and after < "\x7f":
        return not (before == "\r" and after == "\n")
    if _is_extending(after) or before == _ZERO_WIDTH_JOINER or _is_in(before, _PREPENDED_RANGES):
        return False
    if _is_regional_indicator(before) and _is_regional_indicator(after):
        return _count_regional_indicators(text, index) % 2 == 0
    return not (_is_hangul_syllable_part(before, after) or _is_conjunct(text, index))


def _is_extending(char: str) -> bool:
    return unicodedata.category(char) in ("Mn", "Mc", "Me") or _is_in(char, _EXTENDING_RANGES)


def _is_in(char: str, ranges: tuple[tuple[str, str], ...]) -> bool:
    return any(first <= char <= last for first, last in ranges)


def _is_regional_indicator(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"


def _count_regional_indicators(text: str, index: int) -> int:
    """Return how many regional indicators end at an index: two of them are one flag."""
    start = index
    while start and _is_regional_indicator(text[start - 1]):
        start -= 1
    return index - start


def _is_hangul_syllable_part(before: str, after: str) -> bool:
    """Return whether two Hangul letters belong to one syllable (GB6 to GB8)."""
    is_leading = "\u1100" <= before <= "\u115f" or "\ua960" <= before <= "\ua97c"
    is_syllable = "\uac00" <= before <= "\ud7a3"
    is_vowel = "\u1160" <= before <= "\u11a7" or "\ud7b0" <= before <= "\ud7c6"
    is_trailing = "\u11a8" <= before <= "\u11ff" or "\ud7cb" <= before <= "\ud7fb"
    next_leading = "\u1100" <= after <= "\u115f" or "\ua960" <= after <= "\ua97c" or "\uac00" <= after <= "\ud7a3"
    next_vowel = "\u1160" <= after <= "\u11a7" or "\ud7b0" <= after <= "\ud7c6"
    next_trailing = "\u11a8" <= after <= "\u11ff" or "\ud7cb" <= after <= "\ud7fb"
    return (
        (is_leading and (next_leading or next_vowel))
        or ((is_vowel or is_syllable) and (next_vowel or next_trailing))
        or (is_trailing and next_trailing)
    )


def _is_conjunct(text: str, index: int) -> bool:
    """Return whether a linker joins the letter at an index to the letter before it (GB9c)."""
    position = index - 1
    has_linker = False
    while position and _is_extending(text[position]):
        has_linker = has_linker or text[position] in _CONJUNCT_LINKERS
        position -= 1
    return has_linker and unicodedata.category(text[index]) == "Lo" and unicodedata.category(text[position]) == "Lo"
