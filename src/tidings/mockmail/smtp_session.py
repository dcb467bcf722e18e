"""One SMTP session of the mock mail service (RFC 5321), with pipelining (RFC 2920) and any login (RFC 4954)."""

import asyncio
import re
from collections.abc import Callable

import msgspec

from tidings.mockmail.behaviour import Behaviour, MailRule

#: bytes of a message, a line, and recipients of a message
MAX_MESSAGE = 10 << 20
MAX_LINE = 1 << 16
MAX_RECIPIENTS = 100
_EXTENSIONS = ("PIPELINING", f"SIZE {MAX_MESSAGE}", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "AUTH PLAIN LOGIN")
_PATH = re.compile(r"(?:FROM|TO):\s*<([^<>]*)>", re.IGNORECASE)


class MailTransaction(msgspec.Struct):
    """The envelope of one message."""

    mail_from: str
    recipients: list[str] = msgspec.field(default_factory=list)
    #: rules that apply to the message itself
    rules: list[MailRule] = msgspec.field(default_factory=list)


class _Ended(Exception):
    """The session is over."""


#: stores a message and returns its number
Accept = Callable[[MailTransaction, bytes], int]


class SmtpSession:
    """Serves one connection."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        behaviour: Behaviour[MailRule],
        accept: Accept,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._behaviour = behaviour
        self._accept = accept
        self._transaction: MailTransaction | None = None

    async def run(self) -> None:
        """Serve until the client quits or disconnects."""
        self._reply("220 mock-mail ESMTP")
        try:
            while True:
                await self._writer.drain()
                line = await self._read_line()
                await self._handle(line.decode("utf-8", "replace").strip())
        except (_Ended, ConnectionError, asyncio.IncompleteReadError):
            return
        except (asyncio.LimitOverrunError, ValueError):
            self._reply("500 5.5.2 line too long")
        finally:
            if not self._writer.is_closing():
                self._writer.close()

    async def _handle(self, line: str) -> None:
        verb, _, argument = line.partition(" ")
        match verb.upper():
            case "EHLO":
                self._reset("250-mock-mail", *(f"250-{one}" for one in _EXTENSIONS[:-1]), f"250 {_EXTENSIONS[-1]}")
            case "HELO":
                self._reset("250 mock-mail")
            case "RSET":
                self._reset("250 2.0.0 OK")
            case "NOOP":
                self._reply("250 2.0.0 OK")
            case "AUTH":
                await self._log_in(argument)
            case "MAIL":
                self._begin(argument)
            case "RCPT":
                await self._add_recipient(argument)
            case "DATA":
                await self._receive()
            case "QUIT":
                self._reply("221 2.0.0 Bye")
                raise _Ended
            case _:
                self._reply("502 5.5.1 command not implemented")

    async def _log_in(self, argument: str) -> None:
        """Accept any user and password. What the client sends is not kept."""
        mechanism, _, initial = argument.partition(" ")
        missing = {"PLAIN": 0 if initial else 1, "LOGIN": 1 if initial else 2}.get(mechanism.upper())
        if missing is None:
            self._reply("504 5.5.4 only PLAIN and LOGIN")
            return
        for _ in range(missing):
            self._reply("334 ")
            await self._writer.drain()
            await self._read_line()
        self._reply("235 2.7.0 logged in")

    def _begin(self, argument: str) -> None:
        path = _PATH.match(argument)
        if path is None:
            self._reply("501 5.5.4 MAIL FROM:<address>")
        elif self._transaction is not None:
            self._reply("503 5.5.1 a message is already being sent")
        else:
            self._transaction = MailTransaction(path[1])
            self._reply("250 2.1.0 OK")

    async def _add_recipient(self, argument: str) -> None:
        path, transaction = _PATH.match(argument), self._transaction
        if transaction is None or path is None or not path[1]:
            self._reply("503 5.5.1 MAIL first" if transaction is None else "501 5.5.4 RCPT TO:<address>")
            return
        if len(transaction.recipients) >= MAX_RECIPIENTS:
            self._reply("452 4.5.3 too many recipients")
            return
        rule = self._behaviour.find(path[1])
        if rule is not None and rule.stage == "rcpt" and rule.reply is not None:
            await self._wait(rule)
            self._reply(rule.reply)
            return
        if rule is not None:
            transaction.rules.append(rule)
        transaction.recipients.append(path[1])
        self._reply("250 2.1.5 OK")

    async def _receive(self) -> None:
        transaction = self._transaction
        if transaction is None or not transaction.recipients:
            self._reply("503 5.5.1 RCPT first" if transaction is None else "554 5.5.1 no valid recipients")
            return
        self._reply("354 end with a line that has a dot only")
        await self._writer.drain()
        content = await self._read_message()
        self._transaction = None
        if content is None:
            self._reply(f"552 5.3.4 the message is larger than {MAX_MESSAGE} bytes")
            return
        for rule in transaction.rules:
            await self._wait(rule)
            if rule.hang:
                # ends when the client disconnects
                await self._reader.read()
                raise _Ended
            if rule.reply is not None:
                self._reply(rule.reply)
                return
        number = self._accept(transaction, content)
        if any(rule.lost for rule in transaction.rules):
            self._writer.transport.abort()
            raise _Ended
        self._reply(f"250 2.0.0 Ok: queued as M{number}")

    async def _read_message(self) -> bytes | None:
        """Return the message without transparency dots (RFC 5321 §4.5.2), None if it is too large."""
        lines: list[bytes] = []
        size = 0
        while (line := await self._read_line()) != b".\r\n":
            size += len(line)
            if size <= MAX_MESSAGE:
                lines.append(line[1:] if line.startswith(b".") else line)
        return b"".join(lines) if size <= MAX_MESSAGE else None

    async def _read_line(self) -> bytes:
        return await self._reader.readuntil(b"\n")

    async def _wait(self, rule: MailRule) -> None:
        if rule.delay_ms:
            await self._writer.drain()
            await asyncio.sleep(rule.delay_ms / 1000)

    def _reset(self, *replies: str) -> None:
        self._transaction = None
        self._reply(*replies)

    def _reply(self, *lines: str) -> None:
        self._writer.write("".join(f"{line}\r\n" for line in lines).encode())
