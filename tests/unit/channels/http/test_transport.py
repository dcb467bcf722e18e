"""The HTTP transport against a real server: what was certainly not sent, and what may have been processed."""

import asyncio
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tidings.channels.http.exchange import HttpResponse, NoResponse, NotSent
from tidings.channels.http.origin import Origin
from tidings.channels.http.ssrf_guard import AddressRefused
from tidings.channels.http.transport import HttpTransport, TransportLimits
from tidings.errors import ConfigError
from tidings.testing.http_server import Answer, Disconnect, Hang, HttpServer, ReceivedRequest, Reply

QUICK = TransportLimits(connect_timeout=1.0, total_timeout=0.5)


async def test_a_response_has_status_headers_and_body() -> None:
    async with HttpServer(lambda _: Reply(201, b"made", {"Retry-After": "7"})) as server:
        transport = HttpTransport()
        origin = Origin("http", "127.0.0.1", server.port, is_trusted=True)
        for _ in range(2):
            response = await transport.post(origin, f"{server.url}/in?a=b%20c", {"x-own": "1"}, b"body")
            assert response == HttpResponse(201, {"retry-after": "7"}, b"made")
        await transport.close()
    request = server.requests[0]
    assert (request.method, request.target, request.body) == ("POST", "/in?a=b%20c", b"body")
    assert (request.headers["x-own"], request.headers["content-length"]) == ("1", "4")


async def test_a_long_body_is_cut() -> None:
    async with HttpServer(lambda _: Reply(200, b"x" * 1_000_000)) as server:
        transport = HttpTransport()
        origin = Origin("http", "127.0.0.1", server.port, is_trusted=True)
        response = await transport.post(origin, server.url, {}, b"")
        await transport.close()
    assert isinstance(response, HttpResponse)
    assert response.body == b"x" * 65_536


@pytest.mark.parametrize("answer", [Hang(), Disconnect()])
async def test_a_request_without_a_response_may_have_been_processed(answer: Answer) -> None:
    async with HttpServer(lambda _: answer) as server:
        transport = HttpTransport(limits=QUICK)
        origin = Origin("http", "127.0.0.1", server.port, is_trusted=True)
        response = await transport.post(origin, f"{server.url}/secret-path", {}, b"body")
        await transport.close()
    assert isinstance(response, NoResponse)
    assert "secret-path" not in response.why
    assert len(server.requests) == 1


async def test_a_refused_connection_was_certainly_not_processed() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        transport = HttpTransport(limits=QUICK)
        origin = Origin("http", "127.0.0.1", port, is_trusted=True)
        assert await transport.post(origin, f"http://127.0.0.1:{port}/", {}, b"") == NotSent(
            "could not connect to 127.0.0.1"
        )
        await transport.close()


async def test_a_connection_that_is_not_accepted_was_certainly_not_processed() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(3)]
        for client in waiting:
            # more connections than the backlog holds: the next one waits
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        transport = HttpTransport(limits=TransportLimits(connect_timeout=0.2, total_timeout=30))
        origin = Origin("http", "127.0.0.1", port, is_trusted=True)
        response = await transport.post(origin, f"http://127.0.0.1:{port}/", {}, b"")
        await transport.close()
        for client in waiting:
            client.close()
    assert response == NotSent("could not connect to 127.0.0.1")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "10.0.0.1", "::1"])
async def test_a_private_address_is_not_connected_to(host: str) -> None:
    async with HttpServer(lambda _: Reply()) as server:
        transport = HttpTransport()
        authority = f"[{host}]" if ":" in host else host
        url = f"http://{authority}:{server.port}/"
        response = await transport.post(Origin("http", host, server.port), url, {}, b"")
        await transport.close()
    assert isinstance(response, NotSent)
    assert "has no public address" in response.why
    assert server.requests == []


async def test_a_name_that_changes_to_a_private_address_is_refused() -> None:
    addresses = iter([("127.0.0.1",)])

    async def resolve_once(_: Origin) -> tuple[str, ...]:
        try:
            return next(addresses)
        except StopIteration:
            raise AddressRefused("hooks.test has no public address") from None

    async with HttpServer(lambda _: Reply()) as server:
        transport = HttpTransport(limits=TransportLimits(max_client_age=0), resolver=resolve_once)
        origin = Origin("http", "hooks.test", server.port)
        first = await transport.post(origin, f"http://hooks.test:{server.port}/", {}, b"")
        second = await transport.post(origin, f"http://hooks.test:{server.port}/", {}, b"")
        await transport.close()
    assert isinstance(first, HttpResponse)
    assert second == NotSent("hooks.test has no public address")
    assert len(server.requests) == 1


async def test_concurrent_requests_keep_their_client_until_they_end() -> None:
    async with HttpServer(lambda _: Reply()) as server:
        transport = HttpTransport(limits=TransportLimits(max_client_age=0, max_origins=1))
        origin = Origin("http", "127.0.0.1", server.port, is_trusted=True)
        responses = await asyncio.gather(*(transport.post(origin, server.url, {}, b"") for _ in range(20)))
        await transport.close()
    assert responses == [HttpResponse(200)] * 20


async def test_closing_waits_for_the_requests_in_flight() -> None:
    received, may_answer = asyncio.Event(), asyncio.Event()

    async def answer(_: ReceivedRequest) -> Answer:
        received.set()
        await may_answer.wait()
        return Reply(200)

    async with HttpServer(answer) as server:
        transport = HttpTransport()
        origin = Origin("http", "127.0.0.1", server.port, is_trusted=True)
        request = asyncio.create_task(transport.post(origin, server.url, {}, b""))
        await received.wait()
        closing = asyncio.create_task(transport.close())
        await asyncio.sleep(0)
        assert not closing.done()
        may_answer.set()
        assert await request == HttpResponse(200)
        await closing


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a self-signed certificate for hooks.test and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hooks.test")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hooks.test")]), critical=False)
        .sign(key, SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "hooks.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(signed.public_bytes(Encoding.PEM) + private)
    return path


async def resolve_to_loopback(_: Origin) -> tuple[str, ...]:
    return ("127.0.0.1",)


@pytest.mark.parametrize(("host", "is_sent"), [("hooks.test", True), ("other.test", False)])
async def test_the_certificate_must_be_trusted_and_name_the_host(certificate: Path, host: str, is_sent: bool) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    async with HttpServer(lambda _: Reply(200), tls=tls) as server:
        origin, url = Origin("https", host, server.port), f"https://{host}:{server.port}/"
        trusting = HttpTransport(ca_pem=certificate.read_bytes(), resolver=resolve_to_loopback)
        default = HttpTransport(resolver=resolve_to_loopback)
        assert await trusting.post(origin, url, {}, b"") == (
            HttpResponse(200) if is_sent else NotSent("could not connect to other.test")
        )
        assert isinstance(await default.post(origin, url, {}, b""), NotSent)
        await trusting.close()
        await default.close()
    assert len(server.requests) == is_sent


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with HttpServer(lambda _: Reply(502)) as proxy, HttpServer(lambda _: Reply(200)) as server:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        transport = HttpTransport()
        origin = Origin("http", "127.0.0.1", server.port, is_trusted=True)
        assert await transport.post(origin, server.url, {}, b"") == HttpResponse(200)
        await transport.close()
    assert proxy.requests == []


def test_an_invalid_certificate_names_the_setting() -> None:
    with pytest.raises(ConfigError, match=r"^CA: is not a PEM file"):
        HttpTransport(ca_pem=b"no certificate", ca_setting="CA")
