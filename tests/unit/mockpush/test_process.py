"""The service as a process: start, HTTP interface, stop."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tidings.errors import ConfigError, TidingsError, ValidationFailed
from tidings.mockpush import MockPush, MockPushClient, MockPushOptions, ResponseRule, spawn
from tidings.mockpush.base64url import encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.unit.mockpush.conftest import HttpClient, Sender

COMMAND = [sys.executable, "-m", "tidings.mockpush"]


async def test_a_spawned_service_is_controlled_over_http(
    connect: Callable[[str], Awaitable[HttpClient]], sender: Sender
) -> None:
    async with spawn(MockPushOptions(keep=5)) as service:
        own, client, control = type(sender)(service.origin), await connect(service.origin), service.control
        for topic in ("t1", "t1", "t2"):
            assert (await client.send(own.push(Topic=topic))).status == 201
        stats = await control.wait_for(distinct=2)
        assert (stats.received, stats.accepted, stats.distinct, stats.duplicates, stats.verified) == (3, 3, 2, 1, 3)
        assert stats.by_status == {"201": 3}
        assert stats.first_at is not None
        assert stats.last_at is not None
        assert stats.first_at < stats.last_at
        assert sorted(await control.receipts()) == [("u1-1", "t1", 2), ("u1-1", "t2", 1)]
        messages = await control.messages(device="u1-1", after=2)
        assert [(m.number, m.topic) for m in messages] == [(3, "t2")]
        assert messages[0].payload is not None
        assert messages[0].received_at == stats.last_at
        assert (await control.subscription("u1-1"))["endpoint"] == f"{service.origin}/push/u1-1"
        await control.set_rules(ResponseRule(status=429, retry_after=2))
        assert (await client.send(own.push())).headers["retry-after"] == "2"
        with pytest.raises(ValidationFailed, match="share"):
            await control.set_rules(ResponseRule(share=2.0))
        with pytest.raises(TimeoutError):
            await control.wait_for(distinct=3, timeout=0.01)
        await control.bind("u1-1", encode(type(sender)(service.origin).public_key))
        await control.set_rules()
        assert (await client.send(own.push())).reason == "vapid_key_mismatch"
        await control.reset()
        assert (await control.stats()).received == 0
        assert (await client.send(own.push())).status == 201
    with pytest.raises(TidingsError):
        await MockPushClient(service.origin).stats()


async def test_receipts_of_many_messages_are_streamed_whole() -> None:
    async with MockPush() as push:
        for number in range(20_000):
            push._receipt_log.record_accepted(f"u{number}", "t" * 32, b"", 0.0, verified=False)
        assert len(await MockPushClient(push.origin).receipts()) == 20_000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(number: signal.Signals) -> None:
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["origin"].startswith("http://127.0.0.1:")
        process.send_signal(number)
        assert process.wait(10) == 0
        assert process.stderr.read() == b""


def test_the_service_ends_with_its_parent() -> None:
    command = [*COMMAND, "--until-stdin-closes", "--fast"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        process.stdin.close()
        assert process.wait(10) == 0


def test_a_port_in_use_is_reported() -> None:
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["origin"].rpartition(":")[2]
        second = subprocess.run([*COMMAND, "--port", port], capture_output=True, timeout=20, check=False)
        process.terminate()
    assert second.returncode == 1
    assert second.stderr.startswith(b"error: port: 127.0.0.1")


def test_the_command_line_is_checked() -> None:
    done = subprocess.run([*COMMAND, "--verify-share", "2"], capture_output=True, timeout=20, check=False)
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (MockPushOptions(vapid_keys=("AA",)), "vapid-key"),
        (MockPushOptions(vapid_keys=("=",)), "vapid-key"),
        (MockPushOptions(host="192.0.2.1"), "port"),
        (MockPushOptions(tls_key=Path("key.pem")), "tls-cert"),
    ],
)
async def test_wrong_options_are_named(options: MockPushOptions, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        async with MockPush(options):
            raise AssertionError("must not start")


async def test_the_service_supports_tls(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make_certificate(certificate, key)
    trusting = ssl.create_default_context(cafile=certificate)
    async with spawn(MockPushOptions(tls_cert=certificate, tls_key=key), tls=trusting) as service:
        assert service.origin.startswith("https://127.0.0.1:")
        assert (await service.control.stats()).received == 0


def make_certificate(certificate: Path, key: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(signed.public_bytes(Encoding.PEM))
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
