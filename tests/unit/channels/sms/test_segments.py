"""Encoding and segments of SMS texts."""

import gsm0338
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.channels.sms.segments import SmsEncoding, measure_text, replace_typography

GSM7, UCS2 = SmsEncoding.GSM7, SmsEncoding.UCS2
GSM7_TEXT = "".join(gsm0338.Codec().decode(bytes([code]))[0] for code in range(128) if code != 0x1B)
JUDGE = gsm0338.Codec()


@pytest.mark.parametrize(
    ("text", "encoding", "units", "segments"),
    [
        ("", GSM7, 0, 0),
        ("a", GSM7, 1, 1),
        ("a" * 160, GSM7, 160, 1),
        ("a" * 161, GSM7, 161, 2),
        ("a" * 306, GSM7, 306, 2),
        ("a" * 307, GSM7, 307, 3),
        ("a" * 459, GSM7, 459, 3),
        ("a" * 460, GSM7, 460, 4),
        # extension characters count 2 in GSM-7
        ("^{}\\[~]|€\f", GSM7, 20, 1),
        ("€" * 80, GSM7, 160, 1),
        ("€" * 80 + "a", GSM7, 161, 2),
        ("a" * 159 + "€", GSM7, 161, 2),
        # an escape pair is not split: 152 + 2 does not fit in 153
        ("a" * 152 + "€" + "a" * 152, GSM7, 306, 3),
        ("a" * 151 + "€" + "a" * 153, GSM7, 306, 2),
        ("€" * 153, GSM7, 306, 3),
        # but 1 in UCS-2
        ("^{}\\[~]|€\f" + "ł", UCS2, 11, 1),
        ("{" * 69 + "ł", UCS2, 70, 1),
        ("ł" * 70, UCS2, 70, 1),
        ("ł" * 71, UCS2, 71, 2),
        ("ł" * 134, UCS2, 134, 2),
        ("ł" * 135, UCS2, 135, 3),
        # characters beyond the BMP are two units, which are not split
        ("😀" * 35, UCS2, 70, 1),
        ("😀" * 36, UCS2, 72, 2),
        ("😀" * 67, UCS2, 134, 3),
        ("ł" * 66 + "😀" + "ł" * 66, UCS2, 134, 3),
        ("ł" * 65 + "😀" + "ł" * 67, UCS2, 134, 2),
        # characters that look like GSM-7
        ("à è é ì ò ù Ç ß Å å Æ æ Ñ ñ Ü ü § ¿ ¡ ¤ @ £ $ ¥", GSM7, 47, 1),
        ("ç", UCS2, 1, 1),
        ("`", UCS2, 1, 1),
        ("\u2019", UCS2, 1, 1),
        ("\u00a0", UCS2, 1, 1),
        ("\t", UCS2, 1, 1),
        ("ΓΔΘΛΞΠΣΦΨΩ", GSM7, 10, 1),
        ("α", UCS2, 1, 1),
        ("e\u0301", UCS2, 2, 1),
    ],
)
def test_c64_vectors(text: str, encoding: SmsEncoding, units: int, segments: int) -> None:
    size = measure_text(text)
    assert (size.encoding, size.units, size.segments) == (encoding, units, segments)


def test_c65_the_character_that_forces_ucs2_is_named() -> None:
    assert measure_text("It\u2019s 5 – 6").forced_by == "\u2019"
    assert measure_text("It's 5 - 6").forced_by is None


@given(st.text(st.sampled_from(GSM7_TEXT + "^{}\\[~]|€\f"), max_size=700))
def test_gsm7_units_are_those_of_another_codec(text: str) -> None:
    size = measure_text(text)
    assert size.encoding is GSM7
    assert size.units == len(JUDGE.encode(text)[0])


# a lone escape is no character of a text
@given(st.text(st.characters(codec="utf-16", exclude_characters="\x1b"), min_size=1, max_size=400))
def test_a_text_is_gsm7_exactly_if_another_codec_can_encode_it(text: str) -> None:
    size = measure_text(text)
    try:
        units = len(JUDGE.encode(text)[0])
    except UnicodeError:
        assert size.encoding is UCS2
        assert size.units == len(text.encode("utf-16-le")) // 2
        assert size.forced_by is not None
        assert size.forced_by in text
    else:
        assert (size.encoding, size.units) == (GSM7, units)


@given(st.text(st.characters(codec="utf-16"), max_size=400))
def test_c64_segments_hold_the_units_with_at_most_one_lost_per_segment(text: str) -> None:
    size = measure_text(text)
    single, part = (160, 153) if size.encoding is GSM7 else (70, 67)
    if size.units <= single:
        assert size.segments == (1 if text else 0)
    else:
        assert -(-size.units // part) <= size.segments <= -(-size.units // (part - 1))


def test_c65_typographic_characters_are_replaced() -> None:
    text = replace_typography("“It’s\u00a0here” – 5…\u200b")
    assert text == '"It\'s here" - 5...'
    assert measure_text(text).encoding is GSM7
    assert replace_typography("zażółć 😀") == "zażółć 😀"
