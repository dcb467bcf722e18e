"""The result of handing one message to one relay: how far it came, and the reply that ended it."""

import re
from enum import StrEnum
from typing import Final

import msgspec

#: enhanced status code (RFC 3463 §2) at the beginning of a reply's text
_ENHANCED: Final = re.compile(r"\s*([245]\.\d{1,3}\.\d{1,3})\b")
#: the relay's id of an accepted message: Postfix, Exim, SES, SendGrid, …
_QUEUE_ID: Final = re.compile(
    r"(?:queued as\s|\bid[=: ]|Ok:?\s+(?=\S*\d)(?!\w+=))\s*<?([\w@.+/-]{1,128})>?", re.IGNORECASE
)
#: characters of a reply that are kept
MAX_REPLY_LENGTH: Final = 300
#: an e-mail address in a reply; it is not stored with the outcome
_ADDRESS: Final = re.compile(r"[^\s<>\"'(),;:]+@[^\s<>\"'(),;:]+")


class Stage(StrEnum):
    """The step of an SMTP session that ended the exchange."""

    #: connecting, greeting, EHLO and TLS
    CONNECT = "connect"
    AUTH = "AUTH"
    MAIL = "MAIL FROM"
    RCPT = "RCPT TO"
    DATA = "DATA"
    #: the message itself; only its reply means that the relay took the message
    CONTENT = "message"


class SmtpReply(msgspec.Struct, frozen=True):
    """A reply of a relay (RFC 5321 §4.2)."""

    code: int
    text: str = ""

    @property
    def enhanced(self) -> str | None:
        """The enhanced status code, such as `5.1.1`, None if the relay sent none."""
        found = _ENHANCED.match(self.text)
        return found[1] if found else None

    @property
    def is_positive(self) -> bool:
        """Whether the command succeeded, or its text may follow (354)."""
        return 200 <= self.code < 400

    @property
    def is_permanent(self) -> bool:
        """Whether the same command would fail again."""
        return self.code >= 500

    @property
    def queue_id(self) -> str | None:
        """The relay's id of the message, None if it named none."""
        found = _QUEUE_ID.search(self.text)
        return found[1] if found else None

    def __str__(self) -> str:
        """Return the reply for people, in one line and without addresses."""
        text = " ".join(_ADDRESS.sub("…", self.text).split())[:MAX_REPLY_LENGTH]
        return f"{self.code} {text}".strip()


class Envelope(msgspec.Struct, frozen=True):
    """One message for one recipient, ready to be sent."""

    mail_from: str
    rcpt_to: str
    #: RFC 5322, lines end with CRLF
    content: bytes
    #: whether all line ends of the content are CRLF and no line begins with a dot, as `mime` writes them
    is_canonical: bool = False

    @property
    def is_international(self) -> bool:
        """Whether an address needs SMTPUTF8 (RFC 6531 §3.1)."""
        return not (self.mail_from.isascii() and self.rcpt_to.isascii())


class SmtpExchange(msgspec.Struct, frozen=True):
    """How far a message came at one relay."""

    stage: Stage
    #: None = the relay did not reply
    reply: SmtpReply | None = None
    #: why there is no reply
    why: str = ""
    #: whether the relay may have accepted the message, although it did not say so
    is_uncertain: bool = False
    #: whether the connection ended before a reply
    is_disconnected: bool = False
    #: whether nothing was tried because all connections were in use
    is_busy: bool = False

    @property
    def is_accepted(self) -> bool:
        """Whether the relay took the message."""
        return self.stage is Stage.CONTENT and self.reply is not None and self.reply.is_positive
