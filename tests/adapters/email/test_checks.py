"""The checks of relays and of the DKIM key, against real servers."""

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)
from tests.support.smtp_relays import run_relay, write_certificate

from tidings.channels.email.checks import check_email
from tidings.channels.email.settings import EmailSettings
from tidings.errors import ConfigError
from tidings.testing.ports import free_port

SENDER = "Shop <news@shop.example>"


async def test_each_relay_is_connected_to_and_logged_in_to(tmp_path: Path) -> None:
    async with run_relay() as plain, run_relay(tls=write_certificate(tmp_path), logins={"ana": "secret"}) as secure:
        free = free_port()
        urls = (
            f"smtp://127.0.0.1:{plain.port}",
            f"smtp://ana:secret@127.0.0.1:{secure.port}?tls=unverified",
            f"smtp://127.0.0.1:{free}",
        )
        found = await check_email(EmailSettings(smtp_urls=urls, sender=SENDER))
    assert [(one.level, one.check) for one in found] == [
        ("ok", f"relay 127.0.0.1:{plain.port}"),
        ("ok", f"relay 127.0.0.1:{secure.port}"),
        ("problem", f"relay 127.0.0.1:{free}"),
    ]
    assert found[0].message == "connected without TLS, without a login"
    assert found[1].message == "connected with TLS, logged in as ana"
    assert "correct TIDINGS_SMTP_URL, or start the relay" in found[2].message
    assert plain.accepted == secure.accepted == [], "no message is sent"


async def test_a_refused_login_is_a_problem_that_does_not_show_the_password(tmp_path: Path) -> None:
    async with run_relay(tls=write_certificate(tmp_path), logins={"ana": "secret"}) as relay:
        url = f"smtp://ana:wrong-password@127.0.0.1:{relay.port}?tls=unverified"
        [found] = await check_email(EmailSettings(smtp_urls=(url,), sender=SENDER))
    assert found.level == "problem"
    assert found.message.startswith("AUTH: 535")
    assert "wrong-password" not in found.message


async def test_an_invalid_certificate_is_a_problem(tmp_path: Path) -> None:
    async with run_relay(tls=write_certificate(tmp_path)) as relay:
        [found] = await check_email(EmailSettings(smtp_urls=(f"smtp://127.0.0.1:{relay.port}",), sender=SENDER))
    assert (found.level, "certificate" in found.message) == ("problem", True)


def write_key(folder: Path, bits: int) -> tuple[Path, rsa.RSAPrivateKey]:
    key = rsa.generate_private_key(65537, bits)
    path = folder / "dkim.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path, key


async def check_key(path: Path) -> tuple[str, str]:
    async with run_relay() as relay:
        url = f"smtp://127.0.0.1:{relay.port}"
        settings = EmailSettings(smtp_urls=(url,), sender=SENDER, dkim_key_file=path, dkim_selector="s1")
        found = [one for one in await check_email(settings) if one.check == "TIDINGS_EMAIL__DKIM_KEY_FILE"]
    return found[0].level, found[0].message


async def test_the_dns_record_of_the_dkim_key_is_shown(tmp_path: Path) -> None:
    path, key = write_key(tmp_path, 2048)
    level, message = await check_key(path)
    assert (level, "s1._domainkey.shop.example: v=DKIM1; k=rsa; p=" in message) == ("ok", True)
    published = load_der_public_key(base64.b64decode(message.rpartition("p=")[2]))
    own = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert published.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == own


async def test_a_short_or_unreadable_dkim_key_is_reported(tmp_path: Path) -> None:
    path, _ = write_key(tmp_path, 1024)
    assert await check_key(path) == ("warning", "the key has 1024 bits; create one of 2048")
    path.write_text("no key")
    with pytest.raises(ConfigError, match="cannot read an RSA key"):
        await check_key(path)
