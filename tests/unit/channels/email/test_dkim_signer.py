"""DKIM signatures of composed messages, verified with the public key of the DNS record."""

import base64
import re
from datetime import timedelta
from pathlib import Path

import dkim
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tidings.channels.email.composer import EmailComposer, EmailPayload
from tidings.channels.email.dkim_signer import DkimSigner
from tidings.channels.email.settings import EmailSettings
from tidings.model.template import Category, RenderedMessage
from tidings.ports.channel import ComposeContext
from tidings.testing.clock import START, FrozenClock


@pytest.fixture(scope="module")
def key() -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


@pytest.fixture
def signed(key: RSAPrivateKey, tmp_path: Path) -> bytes:
    """A message of an optional category, as it is sent."""
    path = tmp_path / "key.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    settings = EmailSettings(sender="Lumen <news@lumen.example>")
    composer = EmailComposer(settings, public_url="https://t.example", secret_key="s" * 32, clock=FrozenClock())
    context = ComposeContext("n-1", "d-1", "ann", Category("NEWS", "News"), "n-1", START + timedelta(days=1), "UTC")
    content = RenderedMessage("Jazz", ".starts later\n.\nat 20:00", "https://lumen.example/", "en")
    payload = msgspec.msgpack.decode(composer.compose(content, context), type=EmailPayload)
    return DkimSigner(path, "s1", "lumen.example").sign(b"To: ann@example.org\r\n" + payload.content)


def verify(key: RSAPrivateKey, message: bytes) -> bool:
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    record = b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)

    def look_up(name: bytes, timeout: float = 5) -> bytes:  # called with it
        assert name == b"s1._domainkey.lumen.example."
        return record

    is_valid: bool = dkim.verify(message, dnsfunc=look_up)
    return is_valid


def test_c51_both_headers_of_one_click_unsubscription_are_signed(key: RSAPrivateKey, signed: bytes) -> None:
    assert verify(key, signed)
    head = signed[: signed.index(b"\r\nTo: ")].replace(b"\r\n ", b"").decode()
    found = re.search(r"\bh=([^;]+);", head)
    assert found is not None
    assert {"list-unsubscribe", "list-unsubscribe-post"} <= {name.strip() for name in found[1].split(":")}
    for header in (b"List-Unsubscribe: <https://", b"List-Unsubscribe-Post: List"):
        assert header in signed
        assert not verify(key, signed.replace(header, header + b"x"))


def test_c57_a_signed_message_has_no_line_that_begins_with_a_dot(signed: bytes) -> None:
    assert not [line for line in signed.split(b"\r\n") if line.startswith(b".") or b"\n" in line or b"\r" in line]
