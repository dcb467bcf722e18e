"""What a bounce says of the address: it does not exist, it is unreachable for now, or a policy refused it. Pure.

The enhanced status code decides (RFC 3463). Without one, the text of the server decides whether the address is unknown.
Whatever is unclear counts as a cause that passes: it suppresses an address only if it repeats, and only for some days.
"""

import re
from typing import Final

from tidings.channels.email.reply_policy import is_unknown_address
from tidings.channels.email.smtp_exchange import SmtpReply
from tidings.model.receipt import EventCause

#: an enhanced status code anywhere in a text; digits or dots around it belong to an IP address or a version
_ENHANCED: Final = re.compile(r"(?<![\d.])([245])\.(\d{1,3})\.(\d{1,3})(?![\d.]*\d)")
#: a reply code at the beginning of a text, or after `smtp;`
_REPLY_CODE: Final = re.compile(r"(?:^|;)\s*([45]\d\d)\b")
#: 5.1.x that are about the sender
_ABOUT_SENDER: Final = frozenset({"7", "8", "9"})


def find_status_code(*texts: str | None) -> str | None:
    """Return the first enhanced status code of the texts, such as `5.1.1`; None without one, or if it says nothing.

    `4.0.0` and `5.0.0` are what servers write that know no more.
    """
    for text in texts:
        for found in _ENHANCED.finditer(text or ""):
            if (found[2], found[3]) != ("0", "0"):
                return found[0]
    return None


def classify_bounce(code: str | None, text: str = "") -> EventCause:
    """Return what a bounce says of the address. code: the enhanced status code, if the provider names it apart."""
    enhanced = find_status_code(code, text)
    if enhanced is not None:
        kind, subject, detail = enhanced.split(".")
        if subject == "7":
            return EventCause.POLICY_BOUNCE
        if kind == "5" and subject == "1" and detail not in _ABOUT_SENDER:
            return EventCause.HARD_BOUNCE
        return EventCause.SOFT_BOUNCE
    reply = _REPLY_CODE.search(text)
    if is_unknown_address(SmtpReply(int(reply[1]) if reply else 550, text)):
        return EventCause.HARD_BOUNCE
    return EventCause.SOFT_BOUNCE
