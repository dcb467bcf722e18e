"""The chat channel against services that accept, refuse, limit, hang and lose replies."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tidings.channels.chat import ChatChannel, ChatSettings, create_chat_channel
from tidings.errors import ConfigError, ValidationFailed
from tidings.model.contact_point import ContactPoint
from tidings.model.delivery import OutboundMessage
from tidings.model.outcome import Accepted, InvalidTarget, Outcome, PermanentFailure, RetryLater, Uncertain
from tidings.model.priority import Priority
from tidings.model.template import Category, RenderedMessage
from tidings.ports.channel import ComposeContext
from tidings.testing.clock import FrozenClock
from tidings.testing.fake_chats import SLACK_TOKEN, Behaviour, FakeChats
from tidings.testing.fake_providers import AcceptMessage, HangConnection, LimitRate, LoseReply
from tidings.testing.http_server import HttpServer, Reply

SLACK = "slack://T12345/B12345/abcdefghijklmnop"
SLACK_BOT = f"slack://{SLACK_TOKEN}/%23alerts"
DISCORD = "discord://123456789012345678/abc-DEF_ghi"
TELEGRAM = "tgram://123456789:AAbbccddeeffgghhiijjkkllmmnnooppqqr/-100123"
ADDRESSES = {"slack webhook": SLACK, "slack bot": SLACK_BOT, "discord": DISCORD, "telegram": TELEGRAM}
each_service = pytest.mark.parametrize("address", ADDRESSES.values(), ids=ADDRESSES)


class Chat:
    """A channel with the fake services behind it, and a clock that sleeping moves."""

    def __init__(self, services: FakeChats) -> None:
        self.services = services
        self.clock = FrozenClock()
        self.slept: list[float] = []
        self.channel = self.create_channel()

    def create_channel(self, **values: object) -> ChatChannel:
        base = dict.fromkeys(("slack_url", "slack_hooks_url", "discord_url", "telegram_url"), self.services.url)
        settings = {"enabled": True, "trusted_hosts": (self.services.server.authority,), **base, **values}
        channel = create_chat_channel(
            ChatSettings.model_validate(settings), self.clock, jitter=lambda: 0.0, sleep=self._sleep
        )
        assert channel is not None
        return channel

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.advance(seconds)

    def compose(self, title: str = "Doors", body: str = "Open at six", **fields: str) -> bytes:
        content = RenderedMessage(title, body, "https://shop.example/e?a=1&b=2", "en", fields=fields)
        expires_at = self.clock.now() + timedelta(hours=1)
        context = ComposeContext("n-1", "d-1", "ana", Category("NEWS", "x"), "k", expires_at, "UTC")
        return self.channel.compose(content, context)

    async def send(
        self, address: str, payload: bytes | None = None, *, attempt: int = 1, delivery_id: str = "d-1"
    ) -> Outcome:
        target = ContactPoint("c-1", "ana", "chat", address)
        expires_at = self.clock.now() + timedelta(hours=1)
        message = OutboundMessage(
            delivery_id, "n-1", target, payload or self.compose(), Priority.HIGH, expires_at, attempt, "k"
        )
        return await self.channel.send(message)


@pytest.fixture
async def chat() -> AsyncIterator[Chat]:
    async with FakeChats() as services:
        chat = Chat(services)
        yield chat
        await chat.channel.close()


@each_service
async def test_c76_a_message_is_sent_when_the_service_confirmed_it(chat: Chat, address: str) -> None:
    outcome = await chat.send(address)
    assert isinstance(outcome, Accepted), outcome
    [message] = chat.services.messages
    assert outcome.provider == message.service
    assert outcome.message_id == (None if address == SLACK else message.message_id)
    assert all(text in message.text for text in ("Doors", "Open at six", "https://shop.example/e?a=1&b=2"))


@each_service
@pytest.mark.parametrize("body", [b"", b"<html>sign in</html>", b"{}", b'{"ok": false}', b"[1]"])
async def test_c76_a_200_without_a_confirmation_is_no_success(chat: Chat, address: str, body: bytes) -> None:
    chat.services.enqueue(Reply(200, body))
    outcome = await chat.send(address)
    assert not isinstance(outcome, Accepted | RetryLater), "and it is not repeated, since it may have been posted"


@each_service
async def test_c76_a_wait_that_the_service_asks_for_spends_no_attempt(chat: Chat, address: str) -> None:
    chat.services.enqueue(LimitRate(7))
    outcome = await chat.send(address, attempt=4)
    assert isinstance(outcome, RetryLater)
    assert (outcome.until - chat.clock.now(), outcome.counts_as_attempt) == (timedelta(seconds=7), False)
    second = await chat.send(address)
    assert isinstance(second, RetryLater), "other messages to the destination wait as well"
    assert not second.counts_as_attempt
    assert len(chat.services.server.requests) == 1
    chat.clock.advance(7)
    assert isinstance(await chat.send(address), Accepted)


async def test_c76_a_limit_of_the_whole_service_holds_every_destination(chat: Chat) -> None:
    chat.services.enqueue(Reply(429, b'{"retry_after": 1.5, "global": true}'))
    await chat.send(DISCORD)
    other = await chat.send("discord://99/other")
    assert other == RetryLater(
        chat.clock.now() + timedelta(seconds=1.5), "discord takes no more messages now", counts_as_attempt=False
    )
    assert isinstance(await chat.send(TELEGRAM), Accepted)


async def test_c76_a_destination_of_slack_gets_one_message_a_second(chat: Chat) -> None:
    begin = chat.clock.now()
    outcomes = [await chat.send(SLACK, delivery_id=f"d-{number}") for number in range(3)]
    assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    assert (chat.slept, chat.clock.now() - begin) == ([1.0, 1.0], timedelta(seconds=2))
    other = await chat.send("slack://T2/B2/other")
    assert isinstance(other, Accepted)
    assert chat.slept == [1.0, 1.0], "another destination does not wait"


async def test_c76_messages_beyond_a_short_wait_come_back_one_after_the_other(chat: Chat) -> None:
    chat.services.enqueue(LimitRate(10))
    await chat.send(SLACK)
    outcomes = [await chat.send(SLACK, delivery_id=f"d-{number}") for number in range(3)]
    waits = [
        (outcome.until - chat.clock.now()).total_seconds() for outcome in outcomes if isinstance(outcome, RetryLater)
    ]
    assert waits == [10, 11, 12]


MENTIONS = "@everyone @here <!channel> <!here|x> <@U024BE7LH> <@&123> <@42> @anna *b* [text](https://evil.example)"


@each_service
async def test_c76_mentions_from_variables_are_neutralised(chat: Chat, address: str) -> None:
    assert isinstance(await chat.send(address, chat.compose(MENTIONS, MENTIONS)), Accepted)
    [message] = chat.services.messages
    assert message.mentions == ()
    assert message.text.count("<!channel>") >= 2, "what is shown is what was meant"
    if message.service == "discord":
        assert r"\[text\]\(https://evil.example\)" in message.payload["content"]
        assert message.payload["allowed_mentions"] == {"parse": []}
    if message.service == "telegram":
        assert "parse_mode" not in message.payload


async def test_an_address_in_a_text_remains_as_it_is(chat: Chat) -> None:
    await chat.send(DISCORD, chat.compose("Mail ana@example.org", "see https://x.example/a_b_c"))
    assert "ana@example.org" in chat.services.messages[0].text
    assert "https://x.example/a_b_c" in chat.services.messages[0].payload["content"]


@each_service
@pytest.mark.parametrize("text", ["é_" * 9_000, "<" * 9_000, "\N{GRINNING FACE}" * 9_000])
async def test_a_long_text_is_cut_to_what_the_service_takes(chat: Chat, address: str, text: str) -> None:
    assert isinstance(await chat.send(address, chat.compose(text, text)), Accepted)
    assert "…" in chat.services.messages[0].text


async def test_a_template_may_have_a_text_of_its_own(chat: Chat) -> None:
    await chat.send(TELEGRAM, chat.compose(text="Only this"))
    assert chat.services.messages[0].text == "Only this\nhttps://shop.example/e?a=1&b=2"
    with pytest.raises(ValidationFailed, match="a chat message needs a text"):
        chat.compose("", " ")


@pytest.mark.parametrize(
    ("address", "reply"),
    [
        (SLACK, Reply(404, b"no_service")),
        (SLACK, Reply(403, b"action_prohibited")),
        (SLACK, Reply(410, b"channel_is_archived")),
        (SLACK_BOT, Reply(200, b'{"ok": false, "error": "channel_not_found"}')),
        (SLACK_BOT, Reply(200, b'{"ok": false, "error": "token_revoked"}')),
        (DISCORD, Reply(404, b'{"message": "Unknown Webhook", "code": 10015}')),
        (DISCORD, Reply(401, b'{"message": "Invalid Webhook Token", "code": 50027}')),
        (TELEGRAM, Reply(403, b'{"ok": false, "description": "Forbidden: bot was blocked by the user"}')),
        (TELEGRAM, Reply(400, b'{"ok": false, "description": "Bad Request: chat not found"}')),
        (TELEGRAM, Reply(401, b'{"ok": false, "description": "Unauthorized"}')),
    ],
)
async def test_a_destination_that_does_not_exist_is_disabled(chat: Chat, address: str, reply: Reply) -> None:
    chat.services.enqueue(reply)
    outcome = await chat.send(address)
    assert isinstance(outcome, InvalidTarget)
    assert (outcome.action, outcome.status) == ("disable", reply.status)


@each_service
async def test_a_message_that_is_refused_is_not_repeated(chat: Chat, address: str) -> None:
    chat.services.enqueue(Reply(400, b'{"ok": false, "error": "invalid_blocks", "description": "x", "message": "x"}'))
    assert isinstance(await chat.send(address), PermanentFailure)


@each_service
@pytest.mark.parametrize("status", [500, 502, 503, 301])
async def test_a_failing_service_is_tried_again(chat: Chat, address: str, status: int) -> None:
    chat.services.set_behaviour(Reply(status))
    outcome = await chat.send(address)
    assert isinstance(outcome, RetryLater)
    assert (outcome.until - chat.clock.now(), outcome.counts_as_attempt) == (timedelta(minutes=1), True)
    chat.clock.advance(60)
    assert isinstance(await chat.send(address, attempt=4), PermanentFailure)


@each_service
async def test_a_lost_reply_is_uncertain(chat: Chat, address: str) -> None:
    chat.services.enqueue(LoseReply())
    assert isinstance(await chat.send(address), Uncertain)
    assert len(chat.services.messages) == 1


async def test_a_service_that_hangs_is_uncertain(chat: Chat) -> None:
    chat.channel = chat.create_channel(timeout=0.2)
    chat.services.enqueue(HangConnection())
    outcome = await chat.send(SLACK)
    assert isinstance(outcome, Uncertain)
    assert "did not answer" in outcome.why


@each_service
async def test_no_outcome_contains_a_secret(chat: Chat, address: str) -> None:
    secret = address.split("/")[-2 if address in (SLACK_BOT, TELEGRAM) else -1]
    replies: list[Behaviour] = [
        Reply(404, b"{}"),
        Reply(400, b"{}"),
        Reply(500),
        LimitRate(1),
        LoseReply(),
        Reply(200, b"x"),
    ]
    for reply in replies:
        chat.services.enqueue(reply)
        chat.clock.advance(60)
        assert secret not in repr(await chat.send(address))


async def test_a_host_that_is_not_trusted_is_not_connected_to(chat: Chat) -> None:
    channel = create_chat_channel(
        ChatSettings(enabled=True, telegram_url="https://localhost:1", trusted_hosts=()), chat.clock
    )
    assert channel is not None
    chat.channel = channel
    outcome = await chat.send(TELEGRAM)
    assert isinstance(outcome, RetryLater)
    assert "no public address" in outcome.why


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a self-signed certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "teams")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("teams") / "teams.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(built.public_bytes(pem) + private)
    return path


@pytest.fixture
async def teams(certificate: Path) -> AsyncIterator[Chat]:
    """A channel with a workflow of Teams."""
    tls = SSLContext(PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    services = FakeChats()
    services.server = HttpServer(services.respond, tls=tls)
    async with services:
        chat = Chat(services)
        base = dict.fromkeys(("slack_url", "slack_hooks_url", "discord_url", "telegram_url"), "https://x.example")
        chat.channel = chat.create_channel(ca_file=certificate, **base)
        yield chat
        await chat.channel.close()


@pytest.mark.parametrize("options", ["", "?pa=yes&route=12"])
async def test_c76_a_workflow_of_teams_takes_a_message(teams: Chat, options: str) -> None:
    address = f"workflows://{teams.services.server.authority}/abc123/sIg-nature{options}"
    assert await teams.send(address, teams.compose(MENTIONS, MENTIONS)) == Accepted(
        "the workflow of Teams took the message", 202, provider="teams"
    )
    [message] = teams.services.messages
    assert message.mentions == ()
    assert "[text](https://evil.example)" in message.text
    [request] = teams.services.server.requests
    assert request.path.endswith("/workflows/abc123/triggers/manual/paths/invoke")
    assert "sig=sIg-nature" in request.target


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(200, b"Webhook message delivery failed with error: Teams returned HTTP error 429"), RetryLater),
        (Reply(204), Uncertain),
        (Reply(404), InvalidTarget),
        (Reply(401), InvalidTarget),
        (Reply(400), PermanentFailure),
        (Reply(429, headers={"Retry-After": "9"}), RetryLater),
    ],
)
async def test_c76_answers_of_teams(teams: Chat, reply: Reply, kind: type) -> None:
    teams.services.enqueue(reply)
    outcome = await teams.send(f"workflows://{teams.services.server.authority}/abc123/sIg")
    assert isinstance(outcome, kind)
    if reply.status == 429:
        assert isinstance(outcome, RetryLater)
        assert (outcome.until - teams.clock.now(), outcome.counts_as_attempt) == (timedelta(seconds=9), False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"telegram_url": "http://bots.internal"}, r"TIDINGS_CHAT__TELEGRAM_URL: must begin with https://"),
        ({"trusted_hosts": ("https://x",)}, r"TIDINGS_CHAT__TRUSTED_HOSTS: "),
        ({"ca_file": Path("/missing.pem")}, r"TIDINGS_CHAT__CA_FILE: cannot read"),
    ],
)
def test_settings_are_checked(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_chat_channel(ChatSettings.model_validate({"enabled": True, **values}), FrozenClock())
    assert create_chat_channel(ChatSettings(), FrozenClock()) is None


async def test_a_service_that_fails_for_all_is_held_back_without_spending_attempts_and_delays_no_other(
    chat: Chat,
) -> None:
    chat.services.set_behaviour(Reply(500))
    channels = [f"slack://T12345/B12345/abcdefghijklmno{letter}" for letter in "abcdef"]
    for address in channels[:5]:
        assert isinstance(await chat.send(address), RetryLater)
    chat.services.set_behaviour(AcceptMessage())
    held = await chat.send(channels[5])
    assert isinstance(held, RetryLater)
    assert (held.why, held.counts_as_attempt) == ("slack is failing", False)
    assert isinstance(await chat.send(TELEGRAM), Accepted)
    states = {status.name: status.state.value for status in chat.channel.list_providers()}
    assert states == {"slack": "out", "telegram": "active"}
    assert chat.channel.open_circuits() == {"slack": True, "telegram": False}
    chat.clock.advance(10)
    assert isinstance(await chat.send(channels[5]), Accepted)
    assert chat.channel.open_circuits() == {"slack": False, "telegram": False}


async def test_one_destination_that_always_fails_holds_back_no_other(chat: Chat) -> None:
    chat.services.set_behaviour(Reply(500))
    for _ in range(10):
        await chat.send(SLACK)
        chat.clock.advance(1)
    chat.services.set_behaviour(AcceptMessage())
    assert isinstance(await chat.send("slack://T12345/B12345/abcdefghijklmnoz"), Accepted)
