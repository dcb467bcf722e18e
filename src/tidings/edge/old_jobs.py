"""The older jobs `SEND_EMAIL` and `SEND_SMS`: ready-made words to an address (MISSION M26). Pure.

They become plain messages to the user who has the address, over that channel alone. What these producers send besides
(sender, attachments, names of templates) is not looked at.
"""

import re
from html.parser import HTMLParser
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from tidings.edge.asked import Asked, with_priority
from tidings.edge.fields import Email, Phone, UserId
from tidings.edge.notify_body import NotifyOptions
from tidings.edge.text import Label
from tidings.model.user import Address

SEND_EMAIL = "SEND_EMAIL"
SEND_SMS = "SEND_SMS"
NAMES = (SEND_EMAIL, SEND_SMS)
TEMPLATE = "MESSAGE"
#: a text message has no title of its own
SMS_TITLE = "Text message"
#: characters of a mail that are kept with the notification
MOST_WORDS = 4_000

#: the longest mail that is read at all
Words = Annotated[str, Field(max_length=1_000_000)]

_NAMED = re.compile(r"[^<>]*<([^<>\s]+)>\s*")
_TAG = re.compile(r"<[a-zA-Z!/][^>]*>")
_LINE = re.compile(r"[ \t\r\f\v\u00a0]+")
_GAP = re.compile(r"\s*\n\s*")


def _dialled(value: object) -> object:
    """Return a number without the blanks and signs that people write between its digits."""
    return re.sub(r"[\s().-]", "", value) if isinstance(value, str) else value


def _trimmed(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


def _bare(value: object) -> object:
    """Return the address of `Ana Blum <ana@example.org>`."""
    named = _NAMED.fullmatch(value) if isinstance(value, str) else None
    return named[1] if named else _trimmed(value)


class _OldJob(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=False, extra="ignore", strict=True, frozen=True
    )

    #: says who has the address where several have, or none
    user_id: UserId | None = None


class EmailJob(_OldJob):
    """A mail: its words are the first of `text`, `body` and `html`."""

    to: Annotated[Email, BeforeValidator(_bare)]
    subject: Label
    text: Words | None = None
    body: Words | None = None
    html: Words | None = None

    @model_validator(mode="after")
    def _with_words(self) -> "EmailJob":
        if not self.words:
            raise ValueError("give the words of the mail in text, body or html")
        return self

    @property
    def words(self) -> str:
        """The mail as plain text."""
        given = (self.text, self.body and plain(self.body), self.html and plain(self.html))
        return next((one.strip() for one in given if one and one.strip()), "")


class SmsJob(_OldJob):
    """A text message."""

    to: Annotated[Phone, BeforeValidator(_dialled)]
    message: Annotated[str, Field(min_length=1, max_length=2_000), BeforeValidator(_trimmed)]


def email(job: EmailJob, priority: int) -> Asked:
    """Return what a mail asks for. priority: BullMQ's own of the job, 0 = none."""
    words = job.words
    kept = words if len(words) <= MOST_WORDS else words[: MOST_WORDS - 1] + "…"
    return _asked(job.user_id, Address("email", job.to), "email", job.subject, kept, priority)


def sms(job: SmsJob, priority: int) -> Asked:
    """Return what a text message asks for. priority: BullMQ's own of the job, 0 = none."""
    return _asked(job.user_id, Address("phone", job.to), "sms", SMS_TITLE, job.message, priority)


def _asked(user_id: str | None, to: Address, channel: str, title: str, words: str, priority: int) -> Asked:
    return Asked(
        template_code=TEMPLATE,
        variables={"title": title, "body": words},
        options=with_priority(NotifyOptions(channels=[channel]), priority),
        whom=to if user_id is None else (user_id,),
    )


def plain(text: str) -> str:
    """Return a text without the tags of HTML, its styles and scripts; one that has none comes back as it is."""
    if not _TAG.search(text):
        return text
    reader = _Words()
    try:
        reader.feed(text)
        reader.close()
    except AssertionError:
        # how the parser says that a declaration is none; what it has read by then is not all
        return _GAP.sub("\n", _LINE.sub(" ", _TAG.sub(" ", text))).strip()
    return _GAP.sub("\n", _LINE.sub(" ", "".join(reader.found))).strip()


class _Words(HTMLParser):
    """Collects what a reader would see."""

    _BREAKS = frozenset({"br", "p", "div", "tr", "li", "h1", "h2", "h3", "h4", "table", "ul", "ol"})
    _UNSEEN = frozenset({"style", "script", "head", "title"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self._unseen = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002  # the parser's
        self._unseen += tag in self._UNSEEN
        if tag in self._BREAKS:
            self.found.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._UNSEEN:
            self._unseen = max(0, self._unseen - 1)
        elif tag in self._BREAKS:
            self.found.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.found.append(data)
