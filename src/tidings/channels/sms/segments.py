"""Encoding and segments of an SMS text (3GPP TS 23.038, 23.040). Pure."""

from enum import StrEnum

import msgspec

_BASIC = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
#: each is sent as an escape and a character
_EXTENSION = "\f^{}\\[~]|€"
_GSM7_UNITS = dict.fromkeys(_BASIC, 1) | dict.fromkeys(_EXTENSION, 2)

#: typographic characters and what replaces them
_REPLACEMENTS = str.maketrans(
    {
        "‘": "'",
        "’": "'",
        "‚": "'",
        "‛": "'",
        "′": "'",
        "`": "'",
        "“": '"',
        "”": '"',
        "„": '"',
        "‟": '"',
        "″": '"',
        "«": '"',
        "»": '"',
        "‹": "'",
        "›": "'",
        "‐": "-",
        "‑": "-",
        "‒": "-",
        "–": "-",
        "—": "-",
        "―": "-",
        "−": "-",
        "…": "...",
        "•": "-",
        "\u00a0": " ",
        "\u2007": " ",
        "\u2009": " ",
        "\u200a": " ",
        "\u202f": " ",
        "\t": " ",
        "\u00ad": None,
        "\u200b": None,
        "\u2060": None,
        "\ufeff": None,
    }
)


class SmsEncoding(StrEnum):
    """The alphabet of a message."""

    #: 160 units in one segment, 153 in each of several
    GSM7 = "GSM-7"
    #: UTF-16: 70 units in one segment, 67 in each of several
    UCS2 = "UCS-2"


_SINGLE = {SmsEncoding.GSM7: 160, SmsEncoding.UCS2: 70}
_PART = {SmsEncoding.GSM7: 153, SmsEncoding.UCS2: 67}


class SmsSize(msgspec.Struct, frozen=True):
    """What a text costs."""

    encoding: SmsEncoding
    #: code points of the text
    characters: int
    #: septets in GSM-7, 16-bit units in UCS-2
    units: int
    segments: int
    #: the first character that is not in GSM-7, None if there is none
    forced_by: str | None = None


def measure_text(text: str) -> SmsSize:
    """Return the encoding and the number of segments of a text. An empty text has no segment.

    An escape pair (GSM-7) and a surrogate pair (UCS-2) are not split over two segments.
    """
    forced_by = next((char for char in text if char not in _GSM7_UNITS), None)
    encoding = SmsEncoding.GSM7 if forced_by is None else SmsEncoding.UCS2
    sizes = [_GSM7_UNITS[char] if forced_by is None else 1 + (ord(char) > 0xFFFF) for char in text]
    units = sum(sizes)
    if units <= _SINGLE[encoding]:
        return SmsSize(encoding, len(text), units, min(units, 1), forced_by)
    segments, used = 1, 0
    for size in sizes:
        if used + size > _PART[encoding]:
            segments, used = segments + 1, 0
        used += size
    return SmsSize(encoding, len(text), units, segments, forced_by)


def replace_typography(text: str) -> str:
    """Return the text with typographic quotes, dashes and blanks replaced by their plain forms, which are in GSM-7."""
    return text.translate(_REPLACEMENTS)
