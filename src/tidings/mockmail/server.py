"""The mock mail service: an SMTP server, an SMS API, and pages that show what they received."""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tidings.errors import ConfigError
from tidings.mockmail.behaviour import Behaviour, MailRule, SmsRule
from tidings.mockmail.mailbox import Mailbox, ReceivedMail, ReceivedSms
from tidings.mockmail.routes import MailRoutes
from tidings.mockmail.smtp_session import MAX_LINE, MailTransaction, SmtpSession
from tidings.mockpush.connection import Connection
from tidings.mockpush.stop_signal import stop_on_signal

#: credentials in `sms_url`; the service accepts any
_SMS_ACCOUNT = "AC" + "0" * 32
_SMS_SENDER = "+15005550006"


@dataclass(frozen=True, slots=True)
class MockMailOptions:
    """Options of the service. The defaults use free loopback ports."""

    host: str = "127.0.0.1"
    #: 0 = any free port
    smtp_port: int = 0
    http_port: int = 0
    #: messages that are kept
    keep: int = 1000
    #: SMTP connections at a time
    max_connections: int = 500
    #: stop when standard input closes: with a pipe from the parent, the service never outlives it
    until_stdin_closes: bool = False


@dataclass(frozen=True, slots=True)
class MockMailAddress:
    """Where the service listens, as printed when it is ready."""

    #: base URL of the pages
    url: str
    #: for `TIDINGS_SMTP_URL`
    smtp_url: str
    #: for `TIDINGS_SMS_URL`
    sms_url: str


class MockMail:
    """The service in this process: `async with MockMail() as mail: … mail.list_mails("ana@example.org")`."""

    address: MockMailAddress

    def __init__(self, options: MockMailOptions | None = None, *, now: Callable[[], float] = time.time) -> None:
        """Arguments: options; now — Unix time in seconds, for the time at which a message was received."""
        self._options = options or MockMailOptions()
        self._now = now
        self._mailbox = Mailbox(self._options.keep)
        self._mail_behaviour: Behaviour[MailRule] = Behaviour()
        self._sms_behaviour: Behaviour[SmsRule] = Behaviour()
        self._sessions: set[asyncio.Task[None]] = set()
        self._connections: set[Connection] = set()

    async def __aenter__(self) -> Self:
        """Start listening. Raises ConfigError if an address is in use."""
        options = self._options
        self._smtp = await _listen(
            "smtp-port",
            options.host,
            options.smtp_port,
            lambda host, port: asyncio.start_server(self._serve_smtp, host, port, limit=MAX_LINE, backlog=256),
        )
        host = f"[{options.host}]" if ":" in options.host else options.host
        smtp_port = self._smtp.sockets[0].getsockname()[1]
        loop = asyncio.get_running_loop()
        try:
            self._http = await _listen(
                "http-port",
                options.host,
                options.http_port,
                lambda host, port: loop.create_server(
                    lambda: Connection(self._routes.respond, self._connections), host, port, start_serving=False
                ),
            )
        except ConfigError:
            self._smtp.close()
            raise
        authority = f"{host}:{self._http.sockets[0].getsockname()[1]}"
        sender = _SMS_SENDER.replace("+", "%2B")
        self.address = MockMailAddress(
            f"http://{authority}",
            f"smtp://{host}:{smtp_port}",
            f"http://{_SMS_ACCOUNT}:mock@{authority}?from={sender}",
        )
        self._routes = MailRoutes(
            self._mailbox,
            self._mail_behaviour,
            self._sms_behaviour,
            self._accept_sms,
            smtp_url=self.address.smtp_url,
            sms_url=self.address.sms_url,
        )
        await self._http.start_serving()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._smtp.close()
        self._http.close()
        for task in tuple(self._sessions):
            task.cancel()
        await asyncio.gather(*self._sessions, return_exceptions=True)
        for connection in tuple(self._connections):
            await connection.stop()

    # --- interface for tests in the same process

    @property
    def received(self) -> int:
        """How many messages were accepted, those that are not kept included."""
        return self._mailbox.last_number

    def list_mails(self, to: str | None = None) -> Sequence[ReceivedMail]:
        """Return the kept mails to an address, or all, oldest first."""
        found = self._mailbox.list_newest(to=to, limit=self._options.keep)
        return [one for one in reversed(found) if isinstance(one, ReceivedMail)]

    def list_texts(self, to: str | None = None) -> Sequence[ReceivedSms]:
        """Return the kept SMS to a number, or all, oldest first."""
        found = self._mailbox.list_newest(to=to, limit=self._options.keep)
        return [one for one in reversed(found) if isinstance(one, ReceivedSms)]

    async def wait_for(self, count: int, to: str | None = None, *, timeout: float = 10.0) -> None:  # noqa: ASYNC109  # part of the kit
        """Return once `count` messages to an address or a number, or in total, are kept.

        Arguments: timeout — seconds. Raises TimeoutError.
        """
        async with asyncio.timeout(timeout):
            while len(self._mailbox.list_newest(to=to, limit=count)) < count:
                await self._mailbox.wait()

    def set_rules(self, *rules: MailRule | SmsRule) -> None:
        """Replace the rules for mails and SMS; without rules every message is accepted."""
        self._mail_behaviour.set_rules([rule for rule in rules if isinstance(rule, MailRule)])
        self._sms_behaviour.set_rules([rule for rule in rules if isinstance(rule, SmsRule)])

    def clear(self) -> None:
        """Delete all messages."""
        self._mailbox.clear()

    # --- sessions

    def _serve_smtp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._sessions) >= self._options.max_connections:
            writer.write(b"421 4.7.0 too many connections\r\n")
            writer.close()
            return
        task = asyncio.create_task(SmtpSession(reader, writer, self._mail_behaviour, self._accept_mail).run())
        self._sessions.add(task)
        task.add_done_callback(self._sessions.discard)

    def _accept_mail(self, transaction: MailTransaction, content: bytes) -> int:
        number = self._mailbox.take_number()
        recipients = tuple(transaction.recipients)
        self._mailbox.add(ReceivedMail(number, self._now(), transaction.mail_from, recipients, content))
        return number

    def _accept_sms(self, sender: str, recipient: str, text: str) -> str:
        number = self._mailbox.take_number()
        message_id = f"SM{number:032x}"
        self._mailbox.add(ReceivedSms(number, self._now(), message_id, sender, recipient, text))
        return message_id


async def _listen(
    option: str, host: str, port: int, start: Callable[[str, int], Awaitable[asyncio.Server]]
) -> asyncio.Server:
    try:
        return await start(host, port)
    except OSError as error:
        message = f"{host}:{port} cannot be used: {error.strerror or error}; choose another port, or 0 for any"
        raise ConfigError(option, message) from None


def print_address(address: MockMailAddress) -> None:
    """Print where the service listens as one JSON line."""
    names = {"url": address.url, "smtpUrl": address.smtp_url, "smsUrl": address.sms_url}
    sys.stdout.write(json.dumps(names) + "\n")
    sys.stdout.flush()


async def serve(options: MockMailOptions, on_ready: Callable[[MockMailAddress], None] = print_address) -> None:
    """Run the service until SIGTERM, SIGINT or, with `until_stdin_closes`, the end of standard input.

    Arguments: on_ready — called once connections are accepted. Raises ConfigError.
    """
    with stop_on_signal(until_stdin_closes=options.until_stdin_closes) as stop:
        async with MockMail(options) as mail:
            on_ready(mail.address)
            await stop.wait()
