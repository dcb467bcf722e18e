"""The pages that show received messages: the list, and one mail as HTML, text or source. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

import msgspec
from minijinja import Environment

from tidings.mockmail.mailbox import MailContent, Received, ReceivedMail, list_recipients

_TEMPLATE = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
#: the name ends in .html, so that values are escaped
_ENVIRONMENT = Environment(templates={"page.html": _TEMPLATE}, debug=False)
#: ways of showing a mail
VIEWS = (("html", "HTML"), ("text", "Text"), ("headers", "Headers"), ("source", "Source"))
#: characters of a source that the page shows; the rest can be downloaded
_MAX_SHOWN = 200_000


class PageContext(msgspec.Struct, frozen=True):
    """What every page shows around a message."""

    messages: Sequence[Received]
    #: the filter by recipient, or empty
    to: str
    #: messages that were accepted, and those that are kept
    received: int
    kept: int
    smtp_url: str
    sms_url: str


class ListEntry(msgspec.Struct, frozen=True):
    """A message in the list."""

    number: int
    kind: str
    recipient: str
    subject: str
    #: ISO 8601, UTC
    time: str


def render_list(context: PageContext) -> bytes:
    """Return the page without a selected message."""
    return _render(context, title="Messages", selected=0)


def render_message(context: PageContext, message: Received, view: str) -> bytes:
    """Return the page that shows one message. view: a name of `VIEWS`. A mail without HTML is shown as text."""
    common = {"selected": message.number, "recipients": ", ".join(list_recipients(message))}
    time = format_time(message.received_at)
    if not isinstance(message, ReceivedMail):
        title = f"SMS to {message.recipient}"
        return _render(context, title=title, sms=True, sender=message.sender, time=time, body=message.text, **common)
    content = message.content
    view = view if view in dict(VIEWS) else "html"
    view = "text" if view == "html" and content.html is None else view
    attachments = [
        {"name": one.name, "content_type": one.content_type, "size": len(one.content)} for one in content.attachments
    ]
    return _render(
        context,
        title=content.subject or "(no subject)",
        mail=True,
        sender=content.sender or message.mail_from,
        time=time,
        view=view,
        views=VIEWS if content.html is not None else VIEWS[1:],
        attachments=attachments,
        body=_show_body(message, content, view),
        **common,
    )


def to_entry(message: Received) -> ListEntry:
    """Return a message as the list and the JSON API show it."""
    is_mail = isinstance(message, ReceivedMail)
    subject = message.content.subject if isinstance(message, ReceivedMail) else message.text
    recipient = ", ".join(list_recipients(message))
    time = format_time(message.received_at)
    return ListEntry(message.number, "mail" if is_mail else "sms", recipient, subject[:200], time)


def format_time(seconds: float) -> str:
    """Return a Unix time in ISO 8601, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _show_body(message: ReceivedMail, content: MailContent, view: str) -> str:
    if view == "headers":
        return "\n".join(f"{name}: {value}" for name, value in content.headers)
    if view == "source":
        return message.source[:_MAX_SHOWN].decode("utf-8", "replace")
    return content.text or ""


def _render(context: PageContext, **values: object) -> bytes:
    blank = {"mail": False, "sms": False, "view": "", "attachments": [], "body": ""}
    page: str = _ENVIRONMENT.render_template(
        "page.html",
        **{**blank, **values},
        messages=[msgspec.to_builtins(to_entry(one)) for one in context.messages],
        to=context.to,
        query=f"?{urlencode({'to': context.to})}" if context.to else "",
        received=context.received,
        kept=context.kept,
        smtp_url=context.smtp_url,
        sms_url=context.sms_url,
    )
    return page.encode()
