"""The lint of SMS texts: encoding, segments, the character that forces UCS-2, and how a recipient can opt out. Pure."""

import re
import unicodedata
from collections.abc import Collection, Sequence

from tidings.channels.sms.payload import build_text
from tidings.channels.sms.segments import measure_text
from tidings.model.lint import LintFinding, LintLevel
from tidings.model.template import Category, RenderedMessage

_LINK = re.compile(r"https?://\S")


def lint_text(
    content: RenderedMessage, category: Category, *, senders: Collection[str], plain: bool, max_segments: int
) -> Sequence[LintFinding]:
    """Return what an SMS costs, and what is wrong with it.

    senders: numbers and names from which it may be sent. plain: typographic characters are replaced.
    """
    text = build_text(content, plain=plain)
    size = measure_text(text)
    message = f"{size.segments} segments, {size.characters} characters in {size.encoding.value}"
    if size.forced_by is not None:
        name = unicodedata.name(size.forced_by, f"U+{ord(size.forced_by):04X}")
        message += f" because of {size.forced_by!r} ({name})"
    level = LintLevel.INFO
    if not text or size.segments > max_segments:
        level = LintLevel.ERROR
        message = f"{message}; it is not sent, as it is empty or has more than {max_segments}"
    found = [LintFinding("segments", level, message, size.segments * 1_000 + size.units)]
    named = [sender for sender in senders if is_alphanumeric(sender)]
    if named and not category.is_mandatory("sms") and not _LINK.search(text):
        message = (
            f"recipients cannot answer STOP to the sender {named[0]!r}, and the category {category.code} is optional: "
            "add a link to the text with which they can turn it off"
        )
        found.append(LintFinding("opt_out_link", LintLevel.ERROR, message))
    return found


def is_alphanumeric(sender: str) -> bool:
    """Return whether a sender is a name, to which no recipient can answer. A messaging service has numbers."""
    return not sender.lstrip("+").isdigit() and not re.fullmatch(r"MG[0-9a-f]{32}", sender)
