"""One connection to a relay: sends one message at a time, pipelined where the relay supports it (RFC 2920).

aiosmtplib connects, negotiates TLS and authenticates. Its protocol reads one reply per command, so afterwards the
connection's transport is handed to asyncio streams, which read the replies of a group of commands in order.
"""

import asyncio
import re
import ssl
from collections.abc import Iterable, Sequence
from typing import Final, Self, SupportsIndex, cast

import aiosmtplib
import msgspec

from tidings.channels.email.relay import Relay, TlsMode
from tidings.channels.email.smtp_exchange import Envelope, SmtpExchange, SmtpReply, Stage

#: bytes of one line, and lines of one reply, that are read
_MAX_LINE: Final = 8192
_MAX_REPLY_LINES: Final = 100
#: bytes of a message that is written at once with its last line; a larger one is drained before
_MAX_WRITE: Final = 48_000
_LINE_ENDS: Final = re.compile(rb"\r\n|\r|\n")
_CONTROL_CHARACTERS: Final = re.compile(r"[\x00-\x20\x7f<>]")


class SmtpTimeouts(msgspec.Struct, frozen=True):
    """Deadlines in seconds. A send as a whole ends before the flow abandons it."""

    #: connecting, TLS and login together
    connect: float = 8.0
    #: one command, or one group of pipelined commands
    command: float = 8.0
    #: the reply to the message; a relay may scan the message first
    content: float = 15.0


class ConnectFailed(Exception):
    """No connection could be opened."""

    def __init__(self, exchange: SmtpExchange) -> None:
        super().__init__(exchange.why or str(exchange.reply))
        self.exchange = exchange


class _Disconnected(Exception):
    """The connection ended, or the relay sent something that is no reply."""


class _Reader(asyncio.StreamReader):
    """A reader that counts what it received. Data that nobody asked for is a farewell (421)."""

    received = 0

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        self.received += len(bytes(data))
        super().feed_data(data)


class SmtpConnection:
    """An authenticated connection. Used by one coroutine at a time; after a failure `is_usable` is False."""

    def __init__(
        self,
        transport: asyncio.Transport,
        timeouts: SmtpTimeouts,
        extensions: frozenset[str],
        max_message_bytes: int | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._reader = _Reader(limit=_MAX_LINE, loop=loop)
        protocol = asyncio.StreamReaderProtocol(self._reader, loop=loop)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        self._writer = asyncio.StreamWriter(transport, protocol, self._reader, loop)
        self._transport = transport
        self._timeouts = timeouts
        self._extensions = extensions
        self._max_message_bytes = max_message_bytes
        #: messages sent, with or without success
        self.sent = 0
        self._is_broken = False
        self._stage = Stage.MAIL
        #: whether the relay may have received the end of the message
        self._is_written = False
        #: bytes of replies read so far
        self._read = 0

    @classmethod
    async def open(cls, relay: Relay, timeouts: SmtpTimeouts, local_hostname: str, tls_context: ssl.SSLContext) -> Self:
        """Connect, negotiate TLS, and log in. Raises ConnectFailed."""
        client = aiosmtplib.SMTP(
            hostname=relay.host,
            port=relay.port,
            local_hostname=local_hostname,
            use_tls=relay.tls is TlsMode.IMPLICIT,
            start_tls={TlsMode.REQUIRED: True, TlsMode.OPPORTUNISTIC: None}.get(relay.tls, False),
            tls_context=tls_context,
            timeout=timeouts.connect,
        )
        stage = Stage.CONNECT
        try:
            async with asyncio.timeout(timeouts.connect):
                await client.connect()
                if not client.esmtp_extensions:
                    await client.ehlo()
                if relay.username is not None:
                    stage = Stage.AUTH
                    await _log_in(client, relay.username, relay.password or "")
            transport, extensions = client.transport, dict(client.esmtp_extensions)
            if transport is None or transport.is_closing():
                raise _Disconnected("the relay closed the connection")
        except (aiosmtplib.SMTPException, _Disconnected, OSError, ssl.SSLError, ValueError) as error:
            client.close()
            raise ConnectFailed(_explain_connect_error(error, stage, relay)) from error
        except BaseException:
            client.close()
            raise
        # uvloop's transports have the methods of asyncio.Transport, but not the class
        return cls(
            cast(asyncio.Transport, transport), timeouts, frozenset(extensions), _parse_size(extensions.get("size"))
        )

    @property
    def has_tls(self) -> bool:
        """Whether the connection uses TLS."""
        return self._transport.get_extra_info("ssl_object") is not None

    @property
    def is_usable(self) -> bool:
        """Whether another message can be sent. A relay that closed the connection, or is about to (421), ends it."""
        has_unread = self._reader.received != self._read
        return not (self._is_broken or self._transport.is_closing() or self._reader.at_eof() or has_unread)

    async def send(self, envelope: Envelope, deadline: float) -> SmtpExchange:
        """Send one message, at the latest until `deadline` in event loop time.

        Never raises for what the relay does. When it is cancelled, the connection is closed.
        """
        self.sent += 1
        self._stage = Stage.MAIL
        self._is_written = False
        is_complete = False
        try:
            exchange = self._check_extensions(envelope)
            if exchange is None:
                exchange = await self._send_envelope(envelope, deadline) or await self._send_content(envelope, deadline)
                if not exchange.is_accepted:
                    await self._reset(exchange, deadline)
            is_complete = True
        except TimeoutError:
            why = f"no reply to {self._stage.value} in time"
            return SmtpExchange(self._stage, why=why, is_uncertain=self._is_written)
        except (_Disconnected, OSError) as error:
            why = f"the connection ended during {self._stage.value}: {str(error) or type(error).__name__}"
            return SmtpExchange(self._stage, why=why, is_uncertain=self._is_written, is_disconnected=True)
        finally:
            if not is_complete:
                self.discard()
        return exchange

    def close(self) -> None:
        """Say QUIT without waiting for the reply, and close the connection."""
        if not self._transport.is_closing():
            if not self._is_broken:
                self._writer.write(b"QUIT\r\n")
            self._transport.close()
        self._is_broken = True

    def discard(self) -> None:
        """Close the connection at once. Data that is not sent yet is dropped."""
        self._is_broken = True
        self._transport.abort()

    def _check_extensions(self, envelope: Envelope) -> SmtpExchange | None:
        """Return the refusal that the relay would send, None if it can take the message."""
        if envelope.is_international and "smtputf8" not in self._extensions:
            return SmtpExchange(
                Stage.RCPT, SmtpReply(550, "5.6.7 the relay does not support addresses that are not ASCII")
            )
        if self._max_message_bytes and len(envelope.content) > self._max_message_bytes:
            text = f"5.3.4 the message has {len(envelope.content)} bytes, the relay accepts {self._max_message_bytes}"
            return SmtpExchange(Stage.MAIL, SmtpReply(552, text))
        return None

    async def _send_envelope(self, envelope: Envelope, deadline: float) -> SmtpExchange | None:
        """Send MAIL, RCPT and DATA. Return the first refusal, None if the relay waits for the message."""
        parameters = f" SIZE={len(envelope.content)}" if "size" in self._extensions else ""
        parameters += " SMTPUTF8" if envelope.is_international else ""
        commands = [
            (Stage.MAIL, f"MAIL FROM:<{_check_address(envelope.mail_from)}>{parameters}"),
            (Stage.RCPT, f"RCPT TO:<{_check_address(envelope.rcpt_to)}>"),
            (Stage.DATA, "DATA"),
        ]
        if "pipelining" not in self._extensions:
            for stage, command in commands:
                self._stage = stage
                self._writer.write(f"{command}\r\n".encode())
                async with self._limit(self._timeouts.command, deadline):
                    await self._writer.drain()
                    reply = await self._read_reply()
                if not _is_expected(stage, reply):
                    return SmtpExchange(stage, reply)
            return None
        self._writer.write("".join(f"{command}\r\n" for _, command in commands).encode())
        async with self._limit(self._timeouts.command, deadline):
            await self._writer.drain()
            return await self._read_group([stage for stage, _ in commands])

    async def _read_group(self, stages: Sequence[Stage]) -> SmtpExchange | None:
        """Read the replies of pipelined commands, also after a refusal (RFC 2920 §3.1). Return the first refusal."""
        refusal: SmtpExchange | None = None
        for self._stage in stages:
            try:
                reply = await self._read_reply()
            except _Disconnected:
                if refusal is None:
                    raise
                # the relay refused one command and closed the connection
                self.discard()
                return refusal
            if refusal is None and not _is_expected(self._stage, reply):
                refusal = SmtpExchange(self._stage, reply)
        if refusal is not None and reply.code == 354:
            # the relay waits for a message although it refused the recipient: an empty one ends the wait
            self._writer.write(b".\r\n")
            await self._read_reply()
        return refusal

    async def _send_content(self, envelope: Envelope, deadline: float) -> SmtpExchange:
        self._stage = Stage.CONTENT
        content = envelope.content if envelope.is_canonical else _encode_content(envelope.content)
        async with self._limit(self._timeouts.content, deadline):
            if len(content) > _MAX_WRITE:
                self._writer.write(content)
                content = b""
            await self._writer.drain()
            # the relay cannot have accepted the message without its last line (RFC 5321 §4.1.1.4)
            self._is_written = True
            self._writer.write(content + b".\r\n")
            return SmtpExchange(Stage.CONTENT, await self._read_reply())

    async def _reset(self, exchange: SmtpExchange, deadline: float) -> None:
        """Abort the transaction after a refusal, so that the next message starts a new one."""
        if self._is_broken or (exchange.reply is not None and exchange.reply.code == 421):
            self.discard()
            return
        self._writer.write(b"RSET\r\n")
        try:
            async with self._limit(self._timeouts.command, deadline):
                reply = await self._read_reply()
        except (TimeoutError, _Disconnected, OSError):
            # the refusal is known; only the connection is lost
            self.discard()
            return
        if not reply.is_positive:
            self.discard()

    async def _read_reply(self) -> SmtpReply:
        lines: list[str] = []
        code = 0
        for _ in range(_MAX_REPLY_LINES):
            try:
                line = await self._reader.readuntil(b"\n")
            except asyncio.IncompleteReadError as error:
                raise _Disconnected("the relay closed the connection") from error
            except asyncio.LimitOverrunError as error:
                raise _Disconnected("the relay sent a line that is too long") from error
            self._read += len(line)
            if not line[:3].isdigit() or line[3:4] not in (b" ", b"-", b"\r", b"\n"):
                raise _Disconnected("the relay sent a line that is no SMTP reply")
            code = int(line[:3])
            lines.append(line[4:].decode("utf-8", "replace").strip())
            if line[3:4] != b"-":
                return SmtpReply(code, "\n".join(lines))
        raise _Disconnected("the relay sent a reply of too many lines")

    def _limit(self, seconds: float, deadline: float) -> asyncio.Timeout:
        return asyncio.timeout_at(min(asyncio.get_running_loop().time() + seconds, deadline))


def _encode_content(content: bytes) -> bytes:
    """Return a message with CRLF line ends, the last line included, and doubled leading dots (RFC 5321 §4.5.2).

    To look at every line of a message takes 60 µs, so it is not done for those that `mime` wrote.
    """
    content = _LINE_ENDS.sub(b"\r\n", content).replace(b"\n.", b"\n..")
    if content.startswith(b"."):
        content = b"." + content
    return content if content.endswith(b"\r\n") else content + b"\r\n"


async def _log_in(client: aiosmtplib.SMTP, username: str, password: str) -> None:
    """Log in with one method. Trying the others after a wrong password could lock the account."""
    methods = {"plain": client.auth_plain, "login": client.auth_login, "cram-md5": client.auth_crammd5}
    for name, log_in in methods.items():
        if name in client.supported_auth_methods:
            await log_in(username, password)
            return
    raise _Disconnected("the relay offers no login with PLAIN, LOGIN or CRAM-MD5")


def _is_expected(stage: Stage, reply: SmtpReply) -> bool:
    return reply.code == 354 if stage is Stage.DATA else 200 <= reply.code < 300


def _check_address(address: str) -> str:
    """Return an address that ends no command early."""
    if _CONTROL_CHARACTERS.search(address):
        raise _Disconnected("the address contains a space, an angle bracket or a control character")
    return address


def _parse_size(value: str | None) -> int | None:
    """Return the largest message of the SIZE extension (RFC 1870 §3), None if there is no limit."""
    return int(value) or None if value and value.isdecimal() else None


def _explain_connect_error(error: Exception, stage: Stage, relay: Relay) -> SmtpExchange:
    match error:
        case aiosmtplib.SMTPResponseException(code=code, message=message) if 200 <= code < 600:
            return SmtpExchange(stage, SmtpReply(code, message))
        case ssl.SSLCertVerificationError(verify_message=why):
            return SmtpExchange(stage, why=f"the certificate of {relay.name} is not valid: {why}")
        case TimeoutError():
            return SmtpExchange(stage, why=f"{relay.name} did not answer in time")
    cause = error.__cause__ if isinstance(error.__cause__, ssl.SSLError) else error
    return SmtpExchange(stage, why=f"cannot connect to {relay.name}: {cause}")
