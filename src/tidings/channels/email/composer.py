"""Composes messages: the complete RFC 5322 bytes except `To`, which is added when the message is sent."""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from email.utils import format_datetime
from functools import lru_cache
from typing import Final

import msgspec

from tidings.channels.email.addresses import to_ascii_domain
from tidings.channels.email.calendar import build_calendar, parse_calendar_event
from tidings.channels.email.layout import MAX_HTML_BYTES, MailLayout, measure_html
from tidings.channels.email.mime import (
    METADATA_HEADER,
    Part,
    QuotedPrintable,
    clean_text,
    write_address_header,
    write_body,
    write_text_header,
    write_token_header,
)
from tidings.channels.email.settings import EmailSettings
from tidings.channels.email.tracking import MailTracker
from tidings.channels.email.unsubscribe import Unsubscription, sign_unsubscription
from tidings.model.template import Category, RenderedMessage
from tidings.ports.channel import ComposeContext
from tidings.ports.clock import Clock

#: path of the unsubscribe page; a token follows
UNSUBSCRIBE_PATH: Final = "/unsubscribe/"
#: characters of a subject; clients show about 70
MAX_SUBJECT_LENGTH: Final = 250


class EmailPayload(msgspec.Struct, frozen=True, array_like=True):
    """A composed message. One rendering serves every address of a user, so the recipient is not part of it."""

    mail_from: str
    content: bytes
    #: another relay may be asked although the first may have taken the message
    duplicate_ok: bool = False


class EmailComposer:
    """Composes messages for one installation."""

    def __init__(self, settings: EmailSettings, *, public_url: str, secret_key: str, clock: Clock) -> None:
        """public_url: base of unsubscribe links. secret_key: signs them."""
        self._settings = settings
        self._public_url = (settings.public_url or public_url).rstrip("/")
        self._secret_key = secret_key
        self._clock = clock
        self._layout = MailLayout(settings)
        self._tracker = MailTracker(
            public_url=self._public_url,
            secret_key=secret_key,
            opens=settings.track_opens,
            clicks=settings.track_clicks,
        )
        self._sender = to_ascii_domain(settings.sender_address)
        self._domain = self._sender.rpartition("@")[2]
        self._from_header = write_address_header("From", settings.sender_name or settings.brand_name, self._sender)
        reply_to = to_ascii_domain(settings.reply_to)
        self._reply_to_header = write_address_header("Reply-To", "", reply_to) if reply_to else ""
        self._bounce_address = to_ascii_domain(settings.bounce_address) or self._sender

    def compose(self, content: RenderedMessage, context: ComposeContext) -> bytes:
        """Return the encoded `EmailPayload` of a message. Raises ValidationFailed for invalid MJML or calendar data."""
        body = self._layout.render(content, context.category)
        now = self._clock.now()
        url = self._build_unsubscribe_url(context)
        link = url or self._public_url
        html = self._tracker.insert_tracking(body.html, context, now)
        attachments = []
        if calendar := content.fields.get("calendar", "").strip():
            event = parse_calendar_event(calendar)
            linked = event if event.url else msgspec.structs.replace(event, url=content.url)
            attachments.append(build_calendar(linked, now, self._sender))
        head = self._write_headers(content, context, now, url)
        boundary = hashlib.sha256(context.delivery_id.encode()).hexdigest()[:24]
        alternatives = [
            Part("text/plain", QuotedPrintable(body.text.encode(link))),
            Part("text/html", QuotedPrintable(html.encode(link))),
        ]
        message = head.encode("ascii") + write_body(alternatives, attachments, boundary)
        duplicate_ok = context.category.code in self._settings.duplicate_ok
        return msgspec.msgpack.encode(EmailPayload(self._bounce_address, message, duplicate_ok))

    def preview(self, content: RenderedMessage, category: Category) -> Mapping[str, object]:
        """Return subject, text part and size of a message. Raises ValidationFailed for invalid MJML."""
        body = self._layout.render(content, category)
        size = measure_html(body)
        return {
            "subject": choose_subject(content),
            "text": body.text.join(self._public_url + UNSUBSCRIBE_PATH),
            "htmlBytes": size,
            "isClipped": size > MAX_HTML_BYTES,
        }

    def _write_headers(
        self, content: RenderedMessage, context: ComposeContext, now: datetime, unsubscribe_url: str | None
    ) -> str:
        lines = [
            self._from_header,
            write_text_header("Subject", choose_subject(content)),
            _write_date(now.replace(microsecond=0)),
            write_token_header("Message-ID", self._build_id(context.delivery_id)),
            "MIME-Version: 1.0\r\n",
            # no out-of-office replies (RFC 3834 §5)
            "Auto-Submitted: auto-generated\r\n",
            "X-Auto-Response-Suppress: All\r\n",
            write_token_header("Content-Language", content.lang),
        ]
        if self._settings.hook_secret is not None:
            # Postmark replaces the Message-ID, and returns this in its webhooks
            lines.append(write_token_header(METADATA_HEADER, context.delivery_id))
        lines.append(self._reply_to_header)
        if context.collapse_key != context.notification_id:
            # messages about one subject form a thread below a message that was never sent
            key = f"{context.user_id}\n{context.collapse_key}"
            thread = self._build_id(f"thread-{hashlib.sha256(key.encode()).hexdigest()[:32]}")
            lines += [write_token_header("In-Reply-To", thread), write_token_header("References", thread)]
        if unsubscribe_url is not None:
            lines += [
                write_token_header("List-Unsubscribe", f"<{unsubscribe_url}>"),
                # RFC 8058 §3.1
                "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n",
            ]
        return "".join(lines)

    def _build_id(self, local_part: str) -> str:
        return f"<{local_part}@{self._domain}>"

    def _build_unsubscribe_url(self, context: ComposeContext) -> str | None:
        """Return the user's one-click link, None for a mandatory category."""
        if context.category.is_mandatory("email"):
            return None
        token = sign_unsubscription(self._secret_key, Unsubscription(context.user_id, context.category.code))
        return f"{self._public_url}{UNSUBSCRIBE_PATH}{token}"


def choose_subject(content: RenderedMessage) -> str:
    """Return the subject of the template, or else the title, in one line."""
    return (clean_text(content.fields.get("subject", "")) or content.title)[:MAX_SUBJECT_LENGTH]


@lru_cache(maxsize=16)
def _write_date(second: datetime) -> str:
    return f"Date: {format_datetime(second)}\r\n"
