"""The text of an SMS, from the template's text for the channel or from title and body. Pure."""

import re
import unicodedata
from collections.abc import Mapping

import msgspec

from tidings.channels.sms.segments import measure_text, replace_typography
from tidings.errors import ValidationFailed
from tidings.model.template import RenderedMessage

#: not sent by any alphabet; phones show them as boxes
_CONTROLS = re.compile(r"[\x00-\x09\x0b\x0e-\x1f\x7f\ud800-\udfff]")


class SmsPayload(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What the channel stores of a composed message."""

    text: str
    segments: int
    #: another provider may be asked although the first may have taken the message
    duplicate_ok: bool = False


def compose_text(content: RenderedMessage, *, max_segments: int, plain: bool) -> tuple[str, int]:
    """Return the text of a message and its number of segments. plain: replace typographic quotes, dashes and blanks.

    Raises ValidationFailed for `text` if it is empty, has more segments than allowed, or control characters.
    """
    text = build_text(content, plain=plain)
    if not text:
        raise ValidationFailed.for_field("text", "is empty after rendering")
    if (control := _CONTROLS.search(text)) is not None:
        raise ValidationFailed.for_field("text", f"contains {control[0]!r}, which cannot be sent in an SMS")
    size = measure_text(text)
    if size.segments > max_segments:
        cause = f" because of {size.forced_by!r}" if size.forced_by else ""
        raise ValidationFailed.for_field(
            "text",
            f"has {size.segments} segments ({size.encoding}{cause}); shorten it to at most {max_segments}",
        )
    return text, size.segments


def build_text(content: RenderedMessage, *, plain: bool) -> str:
    """Return the text of a message before it is checked. plain: replace typographic quotes, dashes and blanks."""
    own = content.fields.get("text")
    text = own if own is not None else "\n".join(part for part in (content.title, content.body) if part)
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    return replace_typography(text) if plain else text


def preview_text(text: str, max_segments: int) -> Mapping[str, object]:
    """Return encoding and size of a text, the character that forces UCS-2, and whether it is too long to be sent."""
    size = measure_text(text)
    forced_by = size.forced_by
    return {
        "text": text,
        "encoding": size.encoding.value,
        "characters": size.characters,
        "units": size.units,
        "segments": size.segments,
        "forcedBy": forced_by,
        "forcedByName": None if forced_by is None else unicodedata.name(forced_by, f"U+{ord(forced_by):04X}"),
        "isTooLong": size.segments > max_segments,
    }


def encode_payload(payload: SmsPayload) -> bytes:
    """Return the payload as JSON."""
    return msgspec.json.encode(payload)


def decode_payload(data: bytes) -> SmsPayload:
    """Return the payload of JSON. Raises msgspec.DecodeError for anything else."""
    return msgspec.json.decode(data, type=SmsPayload)
