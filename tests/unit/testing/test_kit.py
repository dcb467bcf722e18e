"""The test kit: each fake accepts, refuses, limits, hangs and loses the reply; the assertions say what happened."""

import asyncio
import base64
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, cast

import msgspec
import pytest

import tidings.testing as kit
from tidings.channels.sms.settings import SmsSettings, create_sms_channel
from tidings.channels.webhook.signing import generate_secret, sign_message
from tidings.model.contact_point import ContactPoint
from tidings.model.delivery import DeliveryState, OutboundMessage, SkipReason
from tidings.model.notification import Notification
from tidings.model.priority import Priority
from tidings.model.template import Category, RenderedMessage
from tidings.model.trace import DeliveryTrace, SkipTrace
from tidings.ports.channel import ComposeContext
from tidings.testing import (
    AcceptMessage,
    FakeVonageProvider,
    FakeWebhookReceiver,
    FrozenClock,
    HangConnection,
    LimitRate,
    LoseReply,
    RefuseMessage,
    assert_not_notified,
    assert_notified,
)
from tidings.testing.clock import START

PHONE = "+15005550100"


def test_every_name_of_the_kit_can_be_imported() -> None:
    module = importlib.import_module("tidings.testing")
    assert sorted(kit.__all__) == list(kit.__all__)
    for name in kit.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'FakePigeon'"):
        _ = module.FakePigeon


@pytest.mark.parametrize(
    ("behaviour", "outcome", "is_taken"),
    [
        (AcceptMessage(), "delivered", True),
        (RefuseMessage(7), "gone", False),
        (LimitRate(5), "deferred", False),
        (LoseReply(), "uncertain", True),
        (HangConnection(), "uncertain", False),
    ],
)
async def test_the_fake_of_vonage_answers_as_it_is_told(behaviour: Any, outcome: str, is_taken: bool) -> None:
    async with FakeVonageProvider() as provider:
        settings = SmsSettings.model_validate(
            {"url": f"{provider.url_with_credentials}?from=%2B15005550006", "timeout": 0.3}
        )
        clock = FrozenClock()
        channel = create_sms_channel(settings, clock)
        assert channel is not None
        provider.set_behaviour(PHONE, behaviour)
        expires_at = clock.now() + timedelta(hours=1)
        context = ComposeContext("n", "d", "u", Category("X", "X"), "n", expires_at, "UTC")
        payload = channel.compose(RenderedMessage("Doors", "Open", "https://x.example", "en"), context)
        target = ContactPoint("c", "u", "sms", PHONE)
        result = await channel.send(OutboundMessage("d", "n", target, payload, Priority.HIGH, expires_at, 1, "n"))
        await channel.close()
    assert result.label == outcome
    assert [(one.recipient, one.text) for one in provider.messages] == ([(PHONE, "Doors\nOpen")] if is_taken else [])


async def post(receiver: FakeWebhookReceiver, headers: Mapping[str, str], body: bytes) -> bytes:
    """Return the status line of the answer, empty if the connection was closed without one."""
    host, _, port = receiver.authority.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [f"{name}: {value}" for name, value in {**headers, "content-length": str(len(body))}.items()]
    writer.write("\r\n".join(["POST /webhook HTTP/1.1", "host: x", *lines, "", ""]).encode() + body)
    try:
        return await reader.readline()
    finally:
        writer.close()


async def test_the_fake_receiver_of_webhooks_verifies_signatures_and_answers_as_it_is_told() -> None:
    secret, body = generate_secret(), b'{"type": "MESSAGE"}'
    headers = sign_message([base64.b64decode(secret.removeprefix("whsec_"))], "d-1", START, body)
    async with FakeWebhookReceiver() as receiver:
        assert b" 204 " in await post(receiver, headers, body)
        receiver.enqueue_behaviours(RefuseMessage(0, status=410), LimitRate(9), LoseReply())
        assert b" 410 " in await post(receiver, headers, body)
        assert b" 429 " in await post(receiver, headers, body)
        assert await post(receiver, headers, body) == b""
        assert receiver.events == [{"type": "MESSAGE"}, {"type": "MESSAGE"}]
        receiver.assert_signed(secret)
        with pytest.raises(AssertionError, match="d-1 is not signed with this secret"):
            receiver.assert_signed(generate_secret())
        receiver.set_behaviour(HangConnection())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await post(receiver, headers, body)


@dataclass(frozen=True)
class History:
    notification: Notification
    deliveries: Sequence[DeliveryTrace] = ()
    skips: Sequence[SkipTrace] = ()


class Source:
    def __init__(self, *history: History) -> None:
        self.history = list(history)
        self.calls = 0

    async def list_notifications(self, user_id: str, *, limit: int = 20) -> Sequence[History]:
        self.calls += 1
        return self.history


def build(template: str, state: str = "delivered", channel: str = "email", **variables: object) -> History:
    notification = cast(Notification, _FakeNotification(template, variables))
    delivery = cast(DeliveryTrace, _FakeDelivery(channel, DeliveryState(state)))
    return History(notification, [delivery])


class _FakeNotification(msgspec.Struct):
    template_code: str
    variables: Mapping[str, object]


class _FakeDelivery(msgspec.Struct):
    channel: str
    state: DeliveryState


class _FakeSkip(msgspec.Struct):
    channel: str
    reason: SkipReason


async def test_assert_notified_returns_the_newest_match() -> None:
    newest, older = build("ORDER", order=2), build("ORDER", order=1)
    source = Source(newest, older, build("NEWS", channel="sms"))
    assert await assert_notified(source, "ana", template="ORDER") is newest
    assert await assert_notified(source, "ana", variables={"order": 1}) is older
    assert (await assert_notified(source, "ana", channel="sms")).notification.template_code == "NEWS"
    await assert_notified(source, "ana", template="ORDER", times=2)


async def test_assert_notified_waits_until_the_state_is_reached() -> None:
    pending, sent = build("ORDER", "pending"), build("ORDER", "delivered")

    class Later(Source):
        async def list_notifications(self, user_id: str, *, limit: int = 20) -> Sequence[History]:
            found = await super().list_notifications(user_id)
            self.history = [sent]
            return list(found)

    source = Later(pending)
    assert await assert_notified(source, "ana", state="delivered") is sent
    assert source.calls == 2


async def test_a_failed_assertion_lists_what_happened_instead() -> None:
    skipped = replace(
        build("ORDER", order=1), deliveries=(), skips=[cast(SkipTrace, _FakeSkip("email", SkipReason.PREFERENCE_OFF))]
    )
    with pytest.raises(AssertionError) as failed:
        await assert_notified(Source(skipped), "ana", template="ORDER", channel="email", within=0)
    assert str(failed.value) == (
        "ana has 0 notifications that match (template='ORDER', channel='email'), expected one or more; "
        "the newest are:\n"
        "  ORDER {'order': 1} (email skipped: preference_off)"
    )
    with pytest.raises(AssertionError, match="  nothing"):
        await assert_notified(Source(), "ana", within=0)
    with pytest.raises(AssertionError, match="expected 2"):
        await assert_notified(Source(build("ORDER")), "ana", times=2, within=0)


async def test_assert_not_notified_ignores_skips_and_other_channels() -> None:
    await assert_not_notified(Source(replace(build("ORDER"), deliveries=())), "ana")
    await assert_not_notified(Source(build("ORDER", channel="email")), "ana", channel="sms")
    with pytest.raises(AssertionError, match="ana was notified:\n  ORDER"):
        await assert_not_notified(Source(build("ORDER")), "ana")
