"""Keywords of incoming messages: opt-out, opt-in and help (the default keywords of Twilio). Pure."""

import re
import unicodedata
from enum import StrEnum

_OPT_OUT = frozenset({"stop", "stopall", "unsubscribe", "cancel", "end", "quit", "revoke", "optout"})
_OPT_IN = frozenset({"start", "yes", "unstop"})
_HELP = frozenset({"help", "info"})
#: words by which a longer message probably asks for an opt-out; `cancel`, `end` and `quit` are too common for that
_LIKELY_OPT_OUT = frozenset({"stop", "stopall", "unsubscribe", "revoke", "optout"})
_WORD = re.compile(r"[^\W_]+")


class SmsIntent(StrEnum):
    """What an incoming message asks for."""

    #: send nothing more to the number
    OPT_OUT = "opt_out"
    #: send again
    OPT_IN = "opt_in"
    HELP = "help"
    #: not a keyword, but probably an opt-out: an operator decides
    REVIEW = "review"
    OTHER = "other"


def parse_intent(text: str) -> SmsIntent:
    """Return what an incoming message asks for.

    A keyword is the only word of the message, in any case and with any punctuation around it. `STOP PLEASE` is not a
    keyword and is returned as `REVIEW`.
    """
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    if len(words) == 1:
        if words[0] in _OPT_OUT:
            return SmsIntent.OPT_OUT
        if words[0] in _OPT_IN:
            return SmsIntent.OPT_IN
        if words[0] in _HELP:
            return SmsIntent.HELP
    return SmsIntent.REVIEW if _LIKELY_OPT_OUT.intersection(words) else SmsIntent.OTHER
