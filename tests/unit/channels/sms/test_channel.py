"""The SMS channel against providers that accept, refuse, limit, hang and lose replies."""

import json
import socket
from datetime import timedelta
from urllib.parse import parse_qsl

import pytest
from pydantic import SecretStr

from tidings.channels.providers.failover import RECOVERY_PERIOD
from tidings.channels.providers.provider_throttle import PROVIDER_POLICY
from tidings.channels.sms import SmsChannel, SmsSettings, create_sms_channel
from tidings.channels.sms.receipts import ReceiptStatus, parse_twilio_receipt
from tidings.channels.sms.webhook_verification import verify_twilio
from tidings.model.contact_point import ContactPoint
from tidings.model.delivery import OutboundMessage
from tidings.model.outcome import Accepted, InvalidTarget, PermanentFailure, RetryLater, Uncertain
from tidings.model.priority import Priority
from tidings.model.template import Category, RenderedMessage
from tidings.ports.channel import ComposeContext
from tidings.testing.clock import FrozenClock
from tidings.testing.fake_providers import (
    AcceptMessage,
    Behaviour,
    FakeSmsProvider,
    HangConnection,
    LimitRate,
    LoseReply,
    RefuseMessage,
)
from tidings.testing.http_server import HttpServer, Reply

NUMBER = "+16502530000"
SENDER = "+15005550006"
CLOCK = FrozenClock()
NOW = CLOCK.now()


def create_channel(url: str, clock: FrozenClock = CLOCK, **values: object) -> SmsChannel:
    values = {"url": SecretStr(url), "sender": SENDER, "countries": ("US", "DE"), "timeout": 15, **values}
    channel = create_sms_channel(SmsSettings.model_validate(values), clock, jitter=lambda: 0.0)
    assert channel is not None
    return channel


def compose(channel: SmsChannel, text: str = "Code 123", category: str = "LOGIN") -> bytes:
    content = RenderedMessage("Title", "Body", "https://app.example/", "en", fields={"text": text})
    context = ComposeContext("n-1", "d-1", "ana", Category(category, "x"), "k", NOW + timedelta(hours=1), "UTC")
    return channel.compose(content, context)


def make_message(
    channel: SmsChannel, text: str = "Code 123", *, number: str = NUMBER, attempt: int = 1
) -> OutboundMessage:
    target = ContactPoint("c-1", "ana", "sms", number)
    payload = compose(channel, text)
    return OutboundMessage("d-1", "n-1", target, payload, Priority.HIGH, NOW + timedelta(hours=1), attempt, "k")


async def send(channel: SmsChannel, **values: object) -> object:
    try:
        return await channel.send(make_message(channel, **values))  # type: ignore[arg-type]
    finally:
        await channel.close()


async def test_a_message_is_accepted_with_the_providers_id() -> None:
    async with FakeSmsProvider() as provider:
        channel = create_channel(provider.url_with_credentials, callback_url="https://tidings.example/sms")
        outcome = await send(channel, text="Zażółć €{} & +")
    message = provider.messages[0]
    assert outcome == Accepted("accepted by twilio", 201, "twilio", message.message_id)
    assert (message.recipient, message.sender, message.text) == (NUMBER, SENDER, "Zażółć €{} & +")
    assert message.form["ValidityPeriod"] == "3600"
    assert message.form["StatusCallback"] == "https://tidings.example/sms?deliveryId=d-1"


async def test_the_receipt_of_a_message_verifies_and_names_the_delivery() -> None:
    async with FakeSmsProvider() as provider:
        channel = create_channel(provider.url_with_credentials, callback_url="https://tidings.example/sms")
        await send(channel)
    url = provider.messages[0].form["StatusCallback"]
    body = provider.build_receipt(provider.messages[0], "delivered")
    signature = provider.sign(url, dict(parse_qsl(body.decode())))
    fields = verify_twilio(url, body, signature, [provider.secret])
    receipt = parse_twilio_receipt(fields, {"deliveryId": "d-1"}, NOW)
    assert receipt is not None
    assert (receipt.message_id, receipt.status) == (provider.messages[0].message_id, ReceiptStatus.DELIVERED)


@pytest.mark.parametrize("code", [21211, 21614])
async def test_a_number_that_cannot_be_reached_is_not_used_again(code: int) -> None:
    async with FakeSmsProvider() as provider:
        provider.enqueue_behaviours(RefuseMessage(code))
        outcome = await send(create_channel(provider.url_with_credentials))
    assert outcome == InvalidTarget(f"Twilio refused the message with the error {code}", 400)


async def test_c67_an_opted_out_number_is_suppressed_and_no_other_provider_is_asked() -> None:
    async with FakeSmsProvider() as first, FakeSmsProvider() as second:
        first.enqueue_behaviours(RefuseMessage(21610))
        channel = create_channel(first.url_with_credentials, fallback_url=SecretStr(second.url_with_credentials))
        outcome = await send(channel)
    assert outcome == InvalidTarget("the number opted out of messages", 400, "suppress", sender=SENDER)
    assert second.requests == []


@pytest.mark.parametrize("behaviour", [HangConnection(), LoseReply()])
async def test_a_message_that_may_have_been_taken_is_uncertain_and_sent_once(behaviour: Behaviour) -> None:
    async with FakeSmsProvider() as first, FakeSmsProvider() as second:
        first.enqueue_behaviours(behaviour)
        channel = create_channel(
            first.url_with_credentials, fallback_url=SecretStr(second.url_with_credentials), timeout=0.5
        )
        outcome = await send(channel)
    assert isinstance(outcome, Uncertain)
    assert outcome.provider == "twilio"
    assert len(first.messages) == isinstance(behaviour, LoseReply)
    assert (len(first.requests), second.requests) == (1, [])


async def test_an_uncertain_message_goes_to_the_fallback_if_its_category_allows_a_duplicate() -> None:
    async with FakeSmsProvider() as first, FakeSmsProvider() as second:
        first.enqueue_behaviours(LoseReply(), LoseReply())
        second.enqueue_behaviours(AcceptMessage(), LimitRate(5))
        channel = create_channel(
            first.url_with_credentials,
            fallback_url=SecretStr(second.url_with_credentials),
            duplicate_ok=("LOGIN",),
        )
        assert isinstance(await channel.send(make_message(channel)), Accepted)
        # the second one did not take it, so the first one still may have
        assert isinstance(await channel.send(make_message(channel)), Uncertain)
        await channel.close()
    assert (len(first.messages), len(second.messages)) == (2, 1)


@pytest.mark.parametrize(
    "behaviour", [RefuseMessage(20003, 401), RefuseMessage(21606), RefuseMessage(0, 500), RefuseMessage(21408)]
)
async def test_a_provider_that_fails_leaves_the_message_to_the_fallback(behaviour: Behaviour) -> None:
    async with FakeSmsProvider() as first, FakeSmsProvider() as second:
        first.enqueue_behaviours(behaviour)
        channel = create_channel(first.url_with_credentials, fallback_url=SecretStr(second.url_with_credentials))
        assert isinstance(await send(channel), Accepted)
    assert (len(first.messages), len(second.messages)) == (0, 1)


async def test_a_provider_that_cannot_be_reached_leaves_the_message_to_the_fallback() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://a:s@127.0.0.1:{closed.getsockname()[1]}"
        async with FakeSmsProvider() as second:
            assert isinstance(
                await send(create_channel(url, fallback_url=SecretStr(second.url_with_credentials))), Accepted
            )
        outcome = await send(create_channel(url))
    # nothing was sent, so no attempt is spent
    why = "could not connect to 127.0.0.1"
    assert isinstance(outcome, RetryLater)
    assert (outcome.why, outcome.counts_as_attempt) == (why, False)
    assert timedelta(seconds=30) <= outcome.until - NOW < timedelta(seconds=31)


async def test_refused_credentials_alert_an_operator() -> None:
    async with FakeSmsProvider() as provider:
        outcome = await send(create_channel(f"http://{provider.account}:wrong@{provider.url.removeprefix('http://')}"))
    assert outcome == PermanentFailure("Twilio refused the message with the error 20003", 401, operator_alert=True)


async def test_errors_of_the_server_are_retried_and_then_final() -> None:
    async with FakeSmsProvider() as provider:
        provider.set_behaviour(NUMBER, RefuseMessage(20500, 500))
        channel = create_channel(provider.url_with_credentials)
        first = await channel.send(make_message(channel, attempt=1))
        last = await channel.send(make_message(channel, attempt=4))
        await channel.close()
    assert first == RetryLater(NOW + timedelta(seconds=5), "Twilio answered 500", 500)
    assert last == PermanentFailure("gave up after 4 attempts: Twilio answered 500", 500)


async def test_a_rate_limit_holds_every_message_without_spending_an_attempt() -> None:
    clock = FrozenClock()
    async with FakeSmsProvider() as provider:
        provider.enqueue_behaviours(LimitRate(60))
        channel = create_channel(provider.url_with_credentials, clock)
        until = clock.now() + timedelta(seconds=60)
        first = await channel.send(make_message(channel))
        held = await channel.send(make_message(channel))
        clock.advance(60)
        sent = await channel.send(make_message(channel))
        await channel.close()
    assert isinstance(first, RetryLater)
    assert (first.why, first.status, first.counts_as_attempt) == ("Twilio answered 429: too many requests", 429, False)
    assert until <= first.until < until + timedelta(seconds=1)
    assert isinstance(held, RetryLater)
    assert (held.why, held.counts_as_attempt) == ("twilio asked for fewer messages", False)
    assert held.until >= until
    assert isinstance(sent, Accepted)
    assert len(provider.requests) == 2


@pytest.mark.parametrize(("seconds", "is_sent_by_fallback"), [(60, False), (7200, True)])
async def test_a_rate_limit_beyond_the_expiry_leaves_the_message_to_the_fallback(
    seconds: int, is_sent_by_fallback: bool
) -> None:
    async with FakeSmsProvider() as first, FakeSmsProvider() as second:
        first.enqueue_behaviours(LimitRate(seconds))
        channel = create_channel(first.url_with_credentials, fallback_url=SecretStr(second.url_with_credentials))
        outcome = await send(channel)
    assert isinstance(outcome, Accepted) is is_sent_by_fallback
    assert len(second.messages) == is_sent_by_fallback


async def test_a_provider_that_keeps_failing_is_taken_out_and_probed_with_one_message() -> None:
    clock = FrozenClock()
    async with FakeSmsProvider() as first, FakeSmsProvider() as second:
        first.set_behaviour(NUMBER, RefuseMessage(20500, 500))
        channel = create_channel(first.url_with_credentials, clock, fallback_url=SecretStr(second.url_with_credentials))
        for _ in range(15):
            assert isinstance(await channel.send(make_message(channel)), Accepted)
        assert (len(first.requests), len(second.messages)) == (PROVIDER_POLICY.failure_threshold, 15)
        clock.advance(10)
        for _ in range(3):
            assert isinstance(await channel.send(make_message(channel)), Accepted)
        assert len(first.requests) == PROVIDER_POLICY.failure_threshold + 1
        first.set_behaviour(NUMBER, AcceptMessage())
        clock.advance(20)
        assert isinstance(await channel.send(make_message(channel)), Accepted)
        clock.advance(RECOVERY_PERIOD.total_seconds())
        for _ in range(2):
            assert isinstance(await channel.send(make_message(channel)), Accepted)
        await channel.close()
    assert (len(first.messages), len(second.messages)) == (3, 18)


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"sid": 7}'])
async def test_a_success_without_the_id_of_a_message_is_uncertain(body: bytes) -> None:
    async with HttpServer(lambda _: Reply(200, body)) as server:
        outcome = await send(create_channel(f"http://a:s@{server.authority}"))
    assert isinstance(outcome, Uncertain)


@pytest.mark.parametrize("number", ["+447400123456", "+19002530000", "+18765550123"])
async def test_numbers_of_other_countries_are_refused_before_a_provider_is_asked(number: str) -> None:
    async with FakeSmsProvider() as provider:
        channel = create_channel(provider.url_with_credentials)
        outcome = await send(channel, number=number)
    assert isinstance(outcome, PermanentFailure)
    assert provider.requests == []


async def test_a_target_without_a_number_is_not_used_again() -> None:
    async with FakeSmsProvider() as provider:
        assert isinstance(await send(create_channel(provider.url_with_credentials), number="ana"), InvalidTarget)
    assert provider.requests == []


async def test_outcomes_do_not_contain_the_number_or_the_secret() -> None:
    async with FakeSmsProvider() as provider:
        provider.enqueue_behaviours(RefuseMessage(21211, text=f"The number {NUMBER} is not valid"))
        outcome = await send(create_channel(provider.url_with_credentials))
    assert NUMBER not in str(outcome)
    assert provider.secret not in str(outcome)


def vonage(*parts: dict[str, str]) -> Reply:
    return Reply(200, json.dumps({"message-count": str(len(parts)), "messages": parts}).encode())


async def test_a_message_through_vonage() -> None:
    async with HttpServer(lambda _: vonage({"status": "0", "message-id": "0A", "to": "1650"})) as server:
        url = f"vonage+http://key:secret@{server.authority}"
        outcome = await send(create_channel(url, callback_url="https://tidings.example/v"), text="Zażółć")
    assert outcome == Accepted("accepted by vonage", 200, "vonage", "0A")
    assert server.requests[0].path == "/sms/json"
    assert server.requests[0].form == {
        "api_key": "key",
        "api_secret": "secret",
        "from": "15005550006",
        "to": "16502530000",
        "text": "Zażółć",
        "type": "unicode",
        "ttl": "3600000",
        "client-ref": "d-1",
        "callback": "https://tidings.example/v",
    }


async def test_c49_the_number_of_messages_that_vonage_made_of_one_is_kept() -> None:
    reply = vonage(*({"status": "0", "message-id": name} for name in ("0A", "0B", "0C")))
    async with HttpServer(lambda _: reply) as server:
        outcome = await send(create_channel(f"vonage+http://key:secret@{server.authority}", sender="Jazz"))
    assert outcome == Accepted("accepted by vonage", 200, "vonage", "0A", 3)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (vonage({"status": "1"}), RetryLater),
        (vonage({"status": "5"}), RetryLater),
        (Reply(503), RetryLater),
        (Reply(429), RetryLater),
        (vonage({"status": "4"}), PermanentFailure),
        (vonage({"status": "12"}), PermanentFailure),
        (Reply(401), PermanentFailure),
        (vonage({"status": "33"}), InvalidTarget),
        (vonage({"status": "0", "message-id": "A"}, {"status": "1"}), PermanentFailure),
        (vonage(), Uncertain),
        (vonage({"message-id": "A"}), Uncertain),
        (Reply(200, b"<html>"), Uncertain),
        (Reply(504), Uncertain),
    ],
)
async def test_the_answers_of_vonage(reply: Reply, expected: type[object]) -> None:
    async with HttpServer(lambda _: reply) as server:
        outcome = await send(create_channel(f"vonage+http://key:secret@{server.authority}"))
    assert isinstance(outcome, expected)
