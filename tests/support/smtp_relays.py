"""SMTP servers for tests: a complete one (aiosmtpd) whose replies can be changed, and one that follows a script."""

import asyncio
import datetime as dt
import ipaddress
import ssl
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import AnyStr

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

#: one step of a scripted relay
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class SmtpRelay:
    """An SMTP server that keeps what it accepts. Override a reply with `replies`."""

    def __init__(self, *, has_pipelining: bool = True) -> None:
        self.port = 0
        self.has_pipelining = has_pipelining
        #: command → (arguments) → reply, None = the normal one
        self.replies: dict[str, Callable[[str], str | None]] = {}
        self.accepted: list[Envelope] = []
        self.ehlos = self.connections = self.transactions = 0
        #: True: connections are refused, and those with a new message are dropped
        self.is_down = False
        #: every reply, the last lines only
        self.sent_replies: list[str] = []
        self.sessions: list[Session] = []
        self.transports: list[asyncio.Transport] = []

    @property
    def recipients(self) -> list[str]:
        return [address for envelope in self.accepted for address in envelope.rcpt_tos]

    async def handle_EHLO(  # noqa: N802  # aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        self.ehlos += 1
        session.host_name = hostname
        self.sessions.append(session)
        return [responses[0], *(["250-PIPELINING"] if self.has_pipelining else []), *responses[1:]]

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.transactions += 1
        if self.is_down:
            assert isinstance(server.transport, asyncio.Transport)
            server.transport.abort()
        if (reply := self._reply("MAIL", address)) is not None:
            return reply
        envelope.mail_from = address
        return "250 2.1.0 OK"

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if (reply := self._reply("RCPT", address)) is not None:
            return reply
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if (reply := self._reply("DATA", envelope.rcpt_tos[0])) is not None:
            return reply
        self.accepted.append(envelope)
        return f"250 2.0.0 Ok: queued as Q{len(self.accepted)}"

    def _reply(self, command: str, argument: str) -> str | None:
        override = self.replies.get(command)
        return override(argument) if override is not None else None


class _CountingSmtp(SMTP):
    """Counts connections and keeps the transports, so that a test can close them."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        relay = self.event_handler
        if transport not in relay.transports:
            relay.connections += 1
            relay.transports.append(transport)
        super().connection_made(transport)
        if relay.is_down:
            relay.transports[-1].abort()

    async def push(self, status: AnyStr) -> None:
        text = status.decode() if isinstance(status, bytes) else status
        self.event_handler.sent_replies.append(text.splitlines()[-1])
        await super().push(status)


@asynccontextmanager
async def run_relay(
    *,
    has_pipelining: bool = True,
    tls: ssl.SSLContext | None = None,
    logins: Mapping[str, str] | None = None,
    data_size_limit: int = 33_554_432,
    port: int = 0,
) -> AsyncIterator[SmtpRelay]:
    """Run a relay on a port; 0 = a free one. `tls` offers STARTTLS; `logins` (user → password) requires a login."""
    relay = SmtpRelay(has_pipelining=has_pipelining)

    def authenticate(
        server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: LoginPassword
    ) -> AuthResult:
        known = (logins or {}).get(data.login.decode())
        is_correct = known is not None and known.encode() == data.password
        # handled=False: aiosmtpd sends the reply
        return AuthResult(success=is_correct, handled=False)

    def create_protocol() -> SMTP:
        with warnings.catch_warnings():
            # aiosmtpd warns of logins without TLS
            warnings.simplefilter("ignore", UserWarning)
            return _CountingSmtp(
                relay,
                hostname="relay.test",
                tls_context=tls,
                require_starttls=tls is not None,
                auth_required=logins is not None,
                auth_require_tls=tls is not None,
                authenticator=authenticate if logins is not None else None,
                data_size_limit=data_size_limit,
                loop=asyncio.get_running_loop(),
            )

    server = await asyncio.get_running_loop().create_server(create_protocol, "127.0.0.1", port)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        for transport in relay.transports:
            transport.close()
        await server.wait_closed()
        # aiosmtpd's session tasks end with their transports
        await asyncio.sleep(0)


@asynccontextmanager
async def run_script(*scripts: Script) -> AsyncIterator[int]:
    """Run a server whose first connection follows the first script, and so on. Yields the port."""
    remaining = list(scripts)
    errors: list[BaseException] = []
    clients: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        clients[task] = writer
        try:
            await (remaining.pop(0) if len(remaining) > 1 else remaining[0])(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except AssertionError as error:
            errors.append(error)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in clients.values():
            writer.transport.abort()
        await asyncio.gather(*clients)
        await server.wait_closed()
    assert errors == []


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *extensions: str) -> None:
    """Greet a client and answer its EHLO."""
    writer.write(b"220 relay.test ESMTP\r\n")
    assert (await reader.readline()).startswith(b"EHLO ")
    lines = ["relay.test", *extensions]
    marks = ["-"] * (len(lines) - 1) + [" "]
    writer.write("".join(f"250{mark}{line}\r\n" for mark, line in zip(marks, lines, strict=True)).encode())


def write_certificate(folder: Path, host: str = "127.0.0.1") -> ssl.SSLContext:
    """Return a server's TLS context with a self-signed certificate, written to `folder`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context
