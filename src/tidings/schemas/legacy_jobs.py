"""The legacy jobs `SEND_EMAIL` and `SEND_SMS`: a finished text for an address. Pure.

They become plain messages to the user with that address, on that channel only. Other fields of these jobs (sender,
attachments, template names) are ignored.
"""

import re
from collections.abc import Collection, Mapping
from html.parser import HTMLParser
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from tidings.errors import ValidationFailed
from tidings.model.user import ContactAddress
from tidings.schemas.field_types import Email, Label, Phone, UserId
from tidings.schemas.job_request import JobRequest, with_priority
from tidings.schemas.notification_request import NotifyOptions

SEND_EMAIL = "SEND_EMAIL"
SEND_SMS = "SEND_SMS"
JOB_NAMES = (SEND_EMAIL, SEND_SMS)
#: job name → channel of its message
CHANNELS: Mapping[str, str] = {SEND_EMAIL: "email", SEND_SMS: "sms"}
TEMPLATE_CODE = "MESSAGE"
#: title of the notification of a text message
SMS_TITLE = "Text message"
#: characters of an e-mail that are stored with the notification
MAX_TEXT_LENGTH = 4_000

#: the longest accepted e-mail text
MailText = Annotated[str, Field(max_length=1_000_000)]

_NAME_AND_ADDRESS = re.compile(r"[^<>]*<([^<>\s]+)>\s*")
_TAG = re.compile(r"<[a-zA-Z!/][^>]*>")
_HORIZONTAL_SPACE = re.compile(r"[ \t\r\f\v\u00a0]+")
_SPACE_WITH_NEWLINE = re.compile(r"\s*\n\s*")


def _normalize_phone(value: object) -> object:
    """Return a phone number without the separators between its digits."""
    return re.sub(r"[\s().-]", "", value) if isinstance(value, str) else value


def _strip(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


def _extract_address(value: object) -> object:
    """Return the address part of `Ana Blum <ana@example.org>`."""
    named = _NAME_AND_ADDRESS.fullmatch(value) if isinstance(value, str) else None
    return named[1] if named else _strip(value)


class _LegacyJob(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=False, extra="ignore", strict=True, frozen=True
    )

    #: selects the user if several users have the address, or none has it
    user_id: UserId | None = None


class EmailJob(_LegacyJob):
    """An e-mail. Its text is the first of `text`, `body` and `html` that is not blank."""

    to: Annotated[Email, BeforeValidator(_extract_address)]
    subject: Label
    text: MailText | None = None
    body: MailText | None = None
    html: MailText | None = None

    @model_validator(mode="after")
    def _require_text(self) -> "EmailJob":
        if not self.plain_text:
            raise ValueError("give the text of the e-mail in text, body or html")
        return self

    @property
    def plain_text(self) -> str:
        """The e-mail as plain text."""
        texts = (self.text, self.body and html_to_text(self.body), self.html and html_to_text(self.html))
        return next((text.strip() for text in texts if text and text.strip()), "")


class SmsJob(_LegacyJob):
    """A text message."""

    to: Annotated[Phone, BeforeValidator(_normalize_phone)]
    message: Annotated[str, Field(min_length=1, max_length=2_000), BeforeValidator(_strip)]


def check_channel(name: str, configured: Collection[str]) -> None:
    """Raise ValidationFailed if the channel of a legacy job is not configured.

    name: any job name; configured: names of the configured channels.
    """
    channel = CHANNELS.get(name)
    if channel is not None and channel not in configured:
        raise ValidationFailed.for_field(
            "name",
            f"{name} needs the channel {channel}, which is not configured on this server (configured: "
            f"{', '.join(sorted(configured)) or 'none'}); nothing was sent",
            code="channel_not_configured",
        )


def from_email_job(job: EmailJob, priority: int) -> JobRequest:
    """Return the request of an e-mail. priority: the BullMQ job's, 0 = none."""
    text = job.plain_text
    body = text if len(text) <= MAX_TEXT_LENGTH else text[: MAX_TEXT_LENGTH - 1] + "…"
    variables = {"title": job.subject, "body": body}
    return _build_job_request(job.user_id, ContactAddress("email", job.to), CHANNELS[SEND_EMAIL], variables, priority)


def from_sms_job(job: SmsJob, priority: int) -> JobRequest:
    """Return the request of a text message. priority: the BullMQ job's, 0 = none."""
    # the title is shown in lists of notifications; the message itself has none
    variables = {"title": SMS_TITLE, "body": job.message, "smsText": job.message}
    return _build_job_request(job.user_id, ContactAddress("phone", job.to), CHANNELS[SEND_SMS], variables, priority)


def _build_job_request(
    user_id: str | None, to: ContactAddress, channel: str, variables: Mapping[str, object], priority: int
) -> JobRequest:
    return JobRequest(
        template_code=TEMPLATE_CODE,
        variables=variables,
        options=with_priority(NotifyOptions(channels=[channel]), priority),
        recipients=to if user_id is None else (user_id,),
    )


def html_to_text(text: str) -> str:
    """Return the text without HTML tags, styles and scripts. Text without tags is returned unchanged."""
    if not _TAG.search(text):
        return text
    extractor = _HtmlTextExtractor()
    try:
        extractor.feed(text)
        extractor.close()
    except AssertionError:
        # HTMLParser raises it for a malformed declaration, before it has parsed the whole text
        return _collapse_space(_TAG.sub(" ", text))
    return _collapse_space("".join(extractor.parts))


def _collapse_space(text: str) -> str:
    return _SPACE_WITH_NEWLINE.sub("\n", _HORIZONTAL_SPACE.sub(" ", text)).strip()


class _HtmlTextExtractor(HTMLParser):
    """Collects the visible text."""

    _BLOCK_TAGS = frozenset({"br", "p", "div", "tr", "li", "h1", "h2", "h3", "h4", "table", "ul", "ol"})
    _HIDDEN_TAGS = frozenset({"style", "script", "head", "title"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden_depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002  # HTMLParser's signature
        self._hidden_depth += tag in self._HIDDEN_TAGS
        if tag in self._BLOCK_TAGS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._HIDDEN_TAGS:
            self._hidden_depth = max(0, self._hidden_depth - 1)
        elif tag in self._BLOCK_TAGS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden_depth:
            self.parts.append(data)
