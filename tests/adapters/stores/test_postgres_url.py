"""PostgreSQL URLs have the meaning that libpq gives them, and sessions are configured as documented."""

import asyncio
import datetime as dt
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sqlalchemy import text

from tidings.errors import BackendError, ConfigError
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.postgres import ConnectionParameters, create_engines
from tidings.stores.engine.transaction import connection_of
from tidings.stores.store import SqlStore
from tidings.testing.postgres import PostgresServer


@asynccontextmanager
async def open_store(url: str) -> AsyncIterator[SqlStore]:
    store = SqlStore(*create_engines(url, pool_size=2), FieldCipher("a secret for the tests"), {})
    yield store
    await store.close()


async def show_setting(url: str, setting: str) -> str:
    async with open_store(url) as store, store.read_snapshot() as tx:
        return str(await connection_of(tx).scalar(text(f"SHOW {setting}")))


FORMS: dict[str, Callable[[PostgresServer, str], str]] = {
    "postgres": lambda pg, name: f"postgres://postgres@127.0.0.1:{pg.port}/{name}",
    "socket": lambda pg, name: f"postgresql:///{name}?host={pg.socket_folder}&port={pg.port}&user=postgres",
    "socket in the host": lambda pg, name: (
        f"postgresql://postgres@{str(pg.socket_folder).replace('/', '%2F')}:{pg.port}/{name}"
    ),
    "several hosts": lambda pg, name: f"postgresql://postgres@127.0.0.1:1,127.0.0.1:{pg.port}/{name}",
    "parameters": lambda pg, name: f"postgresql://?host=127.0.0.1&port={pg.port}&user=postgres&dbname={name}",
    "libpq's own": lambda pg, name: (
        f"{pg.url(name)}?connect_timeout=3&keepalives=1&keepalives_idle=7&keepalives_interval=2&keepalives_count=4"
        "&tcp_user_timeout=9000&gssencmode=disable&channel_binding=prefer&sslmode=prefer&client_encoding=utf8"
    ),
}


@pytest.mark.parametrize("form", FORMS)
async def test_every_form_of_the_url_connects(postgres: PostgresServer, form: str) -> None:
    name = postgres.create_database().rpartition("/")[2]
    async with open_store(FORMS[form](postgres, name)) as store, store.read_snapshot() as tx:
        assert await connection_of(tx).scalar(text("SELECT current_database()")) == name


async def test_a_session_has_our_timeouts_and_application_name(postgres_url: str) -> None:
    for setting, value in (
        ("application_name", "tidings"),
        ("statement_timeout", "30s"),
        ("lock_timeout", "10s"),
        ("idle_in_transaction_session_timeout", "30s"),
        ("tcp_keepalives_idle", "20"),
        ("tcp_user_timeout", "30000"),
        ("jit", "off"),
    ):
        assert await show_setting(postgres_url, setting) == value


async def test_parameters_of_the_url_take_precedence(postgres_url: str) -> None:
    assert await show_setting(f"{postgres_url}?application_name=api", "application_name") == "api"
    assert await show_setting(f"{postgres_url}?fallback_application_name=api", "application_name") == "api"
    assert await show_setting(f"{postgres_url}?statement_timeout=5s", "statement_timeout") == "5s"
    assert await show_setting(f"{postgres_url}?options=-c%20work_mem%3D9MB", "work_mem") == "9MB"


async def test_behind_pgbouncer_no_statement_is_prepared_and_no_setting_changed(postgres_url: str) -> None:
    """In transaction mode, PgBouncer may run any statement on any server connection."""
    async with open_store(f"{postgres_url}?pgbouncer=true") as store:
        for _ in range(2):
            async with store.read_snapshot() as tx:
                assert await connection_of(tx).scalar(text("SELECT 1")) == 1
                names = await connection_of(tx).scalars(text("SELECT name FROM pg_prepared_statements"))
                assert len(names.all()) <= 1, "except for the statement of this query"
        assert await show_setting(f"{postgres_url}?pgbouncer=true", "statement_timeout") == "0"
        # known to PgBouncer, and needed to tell our sessions from those of other programs
        assert await show_setting(f"{postgres_url}?pgbouncer=true", "application_name") == "tidings"


@pytest.mark.parametrize(
    "parameters", ["connect_timeout=soon", "keepalives_idle=x", "sslmode=perhaps", "target_session_attrs=any-at-all"]
)
async def test_an_invalid_url_names_the_setting(postgres_url: str, parameters: str) -> None:
    with pytest.raises(ConfigError, match="TIDINGS_DATABASE"):
        async with open_store(f"{postgres_url}?{parameters}") as store:
            await store.ping()


async def test_keepalives_detect_an_unreachable_host(postgres_url: str) -> None:
    connection: Any = await ConnectionParameters.parse(f"{postgres_url}?keepalives_idle=7").connect()
    plug = connection._transport.get_extra_info("socket")
    assert plug.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert plug.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7
    assert plug.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
    await connection.close()


async def test_the_password_may_be_in_a_passfile(postgres_url: str, tmp_path: Path) -> None:
    """The server requires no password; the file is read without an error."""
    passwords = tmp_path / "passwords"
    passwords.write_text("*:*:*:postgres:secret\n")
    passwords.chmod(0o600)
    async with open_store(f"{postgres_url}?passfile={passwords}") as store:
        await store.ping()


def _certificate(folder: Path) -> tuple[Path, Path]:
    """Write a self-signed certificate for `localhost`, and its key."""
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return folder / "ca.pem", folder / "key.pem"


class TlsProxy:
    """A TLS proxy in front of a server without TLS.

    The client sends an 8-byte SSLRequest, receives `S`, and continues in TLS (PostgreSQL documentation, 54.2.11).
    """

    def __init__(self, port: int, certificate: tuple[Path, Path]) -> None:
        self._port = port
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(*certificate)
        self.encrypted = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(8)
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            if first == b"\x00\x00\x00\x08\x04\xd2\x16\x2f":
                writer.write(b"S")
                await writer.start_tls(self._context)
                self.encrypted += 1
            else:
                server_writer.write(first)
            await asyncio.gather(_relay(reader, server_writer), _relay(server_reader, writer))
        except (ConnectionError, ssl.SSLError):
            writer.close()
        finally:
            server_writer.close()


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


async def test_tls_is_used_and_the_certificate_verified_as_configured(postgres: PostgresServer, tmp_path: Path) -> None:
    mine, (other, _) = _certificate(tmp_path / "shown"), _certificate(tmp_path / "stranger")
    front, ca = TlsProxy(postgres.port, mine), mine[0]
    listening = await asyncio.start_server(front, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    address, named = (
        f"postgresql://postgres@127.0.0.1:{port}/postgres",
        f"postgresql://postgres@localhost:{port}/postgres",
    )
    for url, expected in (
        (f"{address}?sslmode=disable", 0),
        (f"{address}?sslmode=require", 1),
        (f"{address}?sslmode=verify-ca&sslrootcert={ca}", 1),
        (f"{named}?sslmode=verify-full&sslrootcert={ca}", 1),
    ):
        before = front.encrypted
        async with open_store(url) as store:
            await store.ping()
        assert front.encrypted - before == expected, url
    # the certificate is for another name, and its authority is unknown
    for url in (
        f"{address}?sslmode=verify-full&sslrootcert={ca}",
        f"{named}?sslmode=verify-full&sslrootcert={other}",
    ):
        async with open_store(url) as store:
            with pytest.raises(BackendError, match=r"(?i)certificate"):
                await store.ping()
    listening.close()
    await listening.wait_closed()
