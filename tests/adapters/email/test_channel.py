"""The e-mail channel from a rendered message to a relay."""

import asyncio
import base64
import email
import email.policy
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from tests.support.smtp_relays import run_relay

from tidings.channels.email.channel import EmailChannel, create_email_channel
from tidings.channels.email.settings import EmailSettings
from tidings.model.contact_point import ContactPoint
from tidings.model.delivery import OutboundMessage
from tidings.model.outcome import Accepted, InvalidTarget, PermanentFailure, RetryLater
from tidings.model.priority import Priority
from tidings.model.template import Category, RenderedMessage
from tidings.ports.channel import ComposeContext, HasDestinations
from tidings.testing.clock import START, FrozenClock

CONTENT = RenderedMessage("Jazz starts later", "It begins at 20:00.", "https://lumen.example/e/42", "en")
CONTEXT = ComposeContext("n-1", "d-1", "ann", Category("news", "News"), "n-1", START + timedelta(days=1), "UTC")


@asynccontextmanager
async def open_channel(port: int, **settings: Any) -> AsyncIterator[EmailChannel]:
    channel = create_email_channel(
        EmailSettings(smtp_urls=(f"smtp://127.0.0.1:{port}",), sender="Lumen <news@lumen.example>", **settings),
        FrozenClock(),
        public_url="https://tidings.example",
        secret_key="s" * 32,
    )
    assert channel is not None
    await channel.open()
    try:
        yield channel
    finally:
        await channel.close()


def make_message(channel: EmailChannel, address: str = "ann@example.com", **changes: Any) -> OutboundMessage:
    target: Any = ContactPoint("c-1", "ann", "email", address)
    fields: dict[str, Any] = {
        "delivery_id": "d-1",
        "notification_id": "n-1",
        "target": target,
        "payload": channel.compose(CONTENT, CONTEXT),
        "priority": Priority.NORMAL,
        "expires_at": START + timedelta(days=1),
        "attempt": 1,
        "collapse_key": "n-1",
    }
    return OutboundMessage(**(fields | changes))


async def test_a_message_reaches_its_recipient() -> None:
    async with run_relay() as relay, open_channel(relay.port, bounce_address="bounces@lumen.example") as channel:
        outcome = await channel.send(make_message(channel, "Ann@bücher.example"))
    assert isinstance(outcome, Accepted)
    assert outcome.message_id == "Q1"
    (envelope,) = relay.accepted
    assert (envelope.mail_from, envelope.rcpt_tos) == ("bounces@lumen.example", ["Ann@xn--bcher-kva.example"])
    assert isinstance(envelope.content, bytes)
    message = email.message_from_bytes(envelope.content, policy=email.policy.default)
    assert (message["To"], message["From"]) == ("Ann@xn--bcher-kva.example", "Lumen <news@lumen.example>")
    assert message["Message-ID"] == "<d-1@lumen.example>"
    assert {session.host_name for session in relay.sessions} == {"lumen.example"}


async def test_two_addresses_of_a_user_get_one_transaction_each() -> None:
    async with run_relay() as relay, open_channel(relay.port) as channel:
        for address in ("ann@example.com", "ann@work.example"):
            assert isinstance(await channel.send(make_message(channel, address)), Accepted)
    assert [envelope.rcpt_tos for envelope in relay.accepted] == [["ann@example.com"], ["ann@work.example"]]


@pytest.mark.parametrize("address", ["ann", "ann@example.com\r\nRCPT TO:<eve@evil.example>", "ann@localhost"])
async def test_an_invalid_address_is_never_sent_to(address: str) -> None:
    async with run_relay() as relay, open_channel(relay.port) as channel:
        assert isinstance(await channel.send(make_message(channel, address)), InvalidTarget)
    assert relay.connections == 0


async def test_an_expired_message_is_not_sent() -> None:
    async with run_relay() as relay, open_channel(relay.port) as channel:
        outcome = await channel.send(make_message(channel, expires_at=START))
    assert isinstance(outcome, PermanentFailure)
    assert outcome.is_expired
    assert relay.connections == 0


async def test_an_address_that_is_not_ascii_needs_a_relay_that_supports_it() -> None:
    async with run_relay() as relay, open_channel(relay.port) as channel:
        outcome = await channel.send(make_message(channel, "änn@example.com"))
    assert isinstance(outcome, PermanentFailure)
    assert "ASCII" in outcome.why


async def test_closing_waits_for_sends_in_flight() -> None:
    async with run_relay() as relay, open_channel(relay.port) as channel:
        sending = [asyncio.create_task(channel.send(make_message(channel))) for _ in range(5)]
        await asyncio.sleep(0)
        await channel.close()
        assert all(isinstance(task.result(), Accepted) for task in sending)


async def test_a_dkim_signature_covers_the_unsubscribe_headers(tmp_path: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    (tmp_path / "dkim.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    async with (
        run_relay() as relay,
        open_channel(relay.port, dkim_key_file=tmp_path / "dkim.pem", dkim_selector="s1") as channel,
    ):
        assert isinstance(await channel.send(make_message(channel)), Accepted)
    content = relay.accepted[0].content
    assert isinstance(content, bytes)
    record = b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)
    lookups: list[bytes] = []

    def find_record(name: bytes, timeout: float = 5) -> bytes:
        lookups.append(name)
        return record

    verify: Callable[..., bool] = dkim.verify
    assert verify(content, dnsfunc=find_record)
    assert lookups == [b"s1._domainkey.lumen.example."]
    assert not verify(content.replace(b"One-Click", b"Two-Click"), dnsfunc=find_record)
    assert not verify(content.replace(b"To: ann@", b"To: eve@"), dnsfunc=find_record)


async def test_hanging_relays_leave_send_slots_to_other_channels() -> None:
    async with run_relay() as relay, open_channel(relay.port, connections=10) as channel:
        assert isinstance(channel, HasDestinations)
        destination = channel.destination(make_message(channel).target)
        assert destination is not None
        assert (destination.share(200), destination.share(8), destination.share(1)) == (20, 6, 1)
        assert not destination.is_closed(is_full=True)
        relay.replies["MAIL"] = lambda _argument: "550 5.7.1 sender refused"
        assert isinstance(await channel.send(make_message(channel)), RetryLater)
        assert destination.is_closed(is_full=False)
        assert not destination.defer(Priority.NORMAL, START + timedelta(days=1)).counts_as_attempt
