"""The checks of `tidings doctor`: each relay is connected to and logged in to, and the DKIM key is read."""

import asyncio
import base64
from collections.abc import Sequence
from typing import Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from tidings.channels.email.addresses import to_ascii_domain
from tidings.channels.email.channel import parse_relays
from tidings.channels.email.dkim_signer import SETTING as DKIM_SETTING
from tidings.channels.email.dkim_signer import DkimSigner
from tidings.channels.email.relay import Relay, TlsMode
from tidings.channels.email.settings import SHORT_NAME, EmailSettings
from tidings.channels.email.smtp_connection import ConnectFailed, SmtpConnection, SmtpTimeouts
from tidings.model.check import CheckResult

#: less than the limit for all checks of a channel
_TIMEOUTS: Final = SmtpTimeouts(connect=4.0)
#: bits that mail providers expect of a DKIM key (RFC 8301 §3.2)
_RECOMMENDED_KEY_BITS: Final = 2048


async def check_email(settings: EmailSettings) -> Sequence[CheckResult]:
    """Check the relays at the same time, and the DKIM key. No message is sent. Raises ConfigError."""
    relays = parse_relays(settings)
    domain = to_ascii_domain(settings.sender_address).rpartition("@")[2]
    results = await asyncio.gather(*(_check_relay(relay, settings.hostname or domain) for relay in relays))
    return [*results, *_check_dkim(settings, domain)]


async def _check_relay(relay: Relay, local_hostname: str) -> CheckResult:
    check = f"relay {relay.name}"
    try:
        connection = await SmtpConnection.open(relay, _TIMEOUTS, local_hostname, relay.create_tls_context())
    except ConnectFailed as failed:
        why = f"{failed.exchange.stage.value}: {failed}"
        return CheckResult("problem", check, f"{why}; correct {SHORT_NAME}, or start the relay")
    has_tls = connection.has_tls
    connection.close()
    # transports close in the next iteration of the loop
    await asyncio.sleep(0)
    login = f"logged in as {relay.username}" if relay.username is not None else "without a login"
    if has_tls:
        return CheckResult("ok", check, f"connected with TLS, {login}")
    if relay.tls is TlsMode.OFF or relay.is_loopback:
        return CheckResult("ok", check, f"connected without TLS, {login}")
    message = f"connected without TLS, {login}: the relay offers none, and others can read the messages"
    return CheckResult("warning", check, message)


def _check_dkim(settings: EmailSettings, domain: str) -> list[CheckResult]:
    """Read the key, and show the DNS record that it needs. Nothing is looked up. Raises ConfigError."""
    if settings.dkim_key_file is None:
        return []
    DkimSigner(settings.dkim_key_file, settings.dkim_selector, domain)
    key = load_pem_private_key(settings.dkim_key_file.read_bytes(), password=None)
    assert isinstance(key, RSAPrivateKey), "checked by DkimSigner"
    if key.key_size < _RECOMMENDED_KEY_BITS:
        message = f"the key has {key.key_size} bits; create one of {_RECOMMENDED_KEY_BITS}"
        return [CheckResult("warning", DKIM_SETTING, message)]
    public = base64.b64encode(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
    name = f"{settings.dkim_selector}._domainkey.{domain}"
    return [CheckResult("ok", DKIM_SETTING, f"signs; publish the TXT record {name}: v=DKIM1; k=rsa; p={public}")]
