"""The messages that the mock mail service received, bounded in number and bytes, and how a mail is read."""

import asyncio
import email
import email.errors
import email.header
import email.policy
from collections import deque
from collections.abc import Iterator, Sequence
from email.message import Message

import msgspec

#: bytes of all kept messages together
MAX_BYTES = 64 << 20


class Attachment(msgspec.Struct, frozen=True):
    """A part of a mail that is not shown as its text."""

    name: str
    content_type: str
    content: bytes


class MailContent(msgspec.Struct, frozen=True):
    """A mail as a mail program shows it."""

    subject: str
    sender: str
    headers: tuple[tuple[str, str], ...]
    html: str | None
    text: str | None
    attachments: tuple[Attachment, ...]


class ReceivedMail(msgspec.Struct, frozen=True):
    """A mail that was accepted."""

    #: counts accepted messages from 1
    number: int
    #: Unix time, seconds
    received_at: float
    #: MAIL FROM
    mail_from: str
    #: RCPT TO
    recipients: tuple[str, ...]
    #: the message as it was transmitted, without transparency dots
    source: bytes

    @property
    def content(self) -> MailContent:
        """The parsed mail."""
        return parse_mail(self.source)


class ReceivedSms(msgspec.Struct, frozen=True):
    """An SMS that was accepted."""

    number: int
    received_at: float
    message_id: str
    sender: str
    recipient: str
    text: str


Received = ReceivedMail | ReceivedSms


class Mailbox:
    """The newest messages, at most `keep` of them and at most 64 MB. Older ones are dropped."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._messages: deque[Received] = deque()
        self._bytes = 0
        self._last_number = 0
        self._arrival = asyncio.Event()

    def __len__(self) -> int:
        """How many messages are kept."""
        return len(self._messages)

    @property
    def last_number(self) -> int:
        """How many messages were accepted, those that were dropped included."""
        return self._last_number

    def take_number(self) -> int:
        """Return the number of the next message."""
        self._last_number += 1
        return self._last_number

    def add(self, message: Received) -> None:
        """Keep a message. Drops the oldest ones above the limits, but never the new one."""
        self._messages.append(message)
        self._bytes += _count_bytes(message)
        while len(self._messages) > 1 and (len(self._messages) > self._keep or self._bytes > MAX_BYTES):
            self._bytes -= _count_bytes(self._messages.popleft())
        arrival, self._arrival = self._arrival, asyncio.Event()
        arrival.set()

    async def wait(self) -> None:
        """Return when the next message arrives."""
        await self._arrival.wait()

    def get(self, number: int) -> Received | None:
        """Return a kept message."""
        return next((one for one in self._messages if one.number == number), None)

    def list_newest(self, *, to: str | None = None, after: int = 0, limit: int = 100) -> Sequence[Received]:
        """Return the newest messages, newest first. to: a recipient; after: only higher numbers."""
        found: list[Received] = []
        for message in reversed(self._messages):
            if message.number <= after or len(found) == limit:
                break
            if to is None or to.casefold() in {one.casefold() for one in list_recipients(message)}:
                found.append(message)
        return found

    def clear(self) -> None:
        """Delete all messages. Numbers continue."""
        self._messages.clear()
        self._bytes = 0


def list_recipients(message: Received) -> tuple[str, ...]:
    """Return the addresses or the number that a message was sent to."""
    return message.recipients if isinstance(message, ReceivedMail) else (message.recipient,)


def parse_mail(source: bytes) -> MailContent:
    """Return a mail as a mail program shows it. Never raises for a malformed one: what can be read is returned."""
    message = email.message_from_bytes(source, policy=email.policy.compat32)
    texts: dict[str, str] = {}
    attachments: list[Attachment] = []
    for part in _walk_leaves(message):
        kind, name = part.get_content_type(), part.get_filename()
        if name is None and kind in ("text/html", "text/plain") and kind not in texts:
            texts[kind] = _decode_text(part)
        else:
            content = part.get_payload(decode=True)
            name = decode_header(name) if name else f"part-{len(attachments) + 1}"
            attachments.append(Attachment(name, kind, content if isinstance(content, bytes) else b""))
    headers = tuple((name, decode_header(str(value))) for name, value in message.items())
    return MailContent(
        subject=decode_header(str(message.get("Subject", ""))),
        sender=decode_header(str(message.get("From", ""))),
        headers=headers,
        html=texts.get("text/html"),
        text=texts.get("text/plain"),
        attachments=tuple(attachments),
    )


def decode_header(value: str) -> str:
    """Return the text of a header in one line. Encoded words that are malformed are returned unchanged."""
    try:
        decoded = str(email.header.make_header(email.header.decode_header(value)))
    except (LookupError, ValueError, email.errors.HeaderParseError):
        decoded = value
    return " ".join(decoded.encode("utf-8", "replace").decode().split())


def _walk_leaves(message: Message) -> Iterator[Message]:
    return (part for part in message.walk() if not part.is_multipart())


def _decode_text(part: Message) -> str:
    content = part.get_payload(decode=True)
    raw = content if isinstance(content, bytes) else b""
    try:
        return raw.decode(part.get_content_charset("utf-8"), "replace")
    except LookupError:  # an unknown charset
        return raw.decode("utf-8", "replace")


def _count_bytes(message: Received) -> int:
    return len(message.source) if isinstance(message, ReceivedMail) else len(message.text)
