"""Several relays in order, against real SMTP servers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from tests.support.smtp_relays import greet, run_relay, run_script

from tidings.channels.email.relay import parse_relay
from tidings.channels.email.relay_provider import RelayProvider
from tidings.channels.email.smtp_connection import SmtpTimeouts
from tidings.channels.email.smtp_exchange import Envelope
from tidings.channels.email.smtp_pool import SmtpPool
from tidings.channels.providers.failover import SendContext
from tidings.channels.providers.router import ProviderRouter
from tidings.model.outcome import Accepted, InvalidTarget, Outcome, PermanentFailure, RetryLater, Uncertain
from tidings.model.priority import Priority
from tidings.testing.clock import START, FrozenClock

EXPIRES_AT = START + timedelta(days=1)
CONTENT = b"Subject: Hi\r\n\r\nHello\r\n"


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@asynccontextmanager
async def open_router(
    clock: FrozenClock, *ports: int, content: float = 15.0
) -> AsyncIterator[ProviderRouter[Envelope]]:
    timeouts = SmtpTimeouts(content=content)
    providers = [
        RelayProvider(
            SmtpPool(parse_relay(f"smtp://127.0.0.1:{port}"), local_hostname="client.test", timeouts=timeouts),
            0 if position else 100,
            clock,
            lambda: 0.0,
        )
        for position, port in enumerate(ports)
    ]

    async def wait(seconds: float) -> None:
        clock.advance(seconds)

    try:
        yield ProviderRouter(
            "email", providers, clock, max_in_flight=40, shares_excess=True, jitter=lambda: 0.0, sleep=wait
        )
    finally:
        for provider in providers:
            provider.close()
        await asyncio.sleep(0)


async def send(
    router: ProviderRouter[Envelope], to: str = "ann@example.com", attempt: int = 1, *, duplicate_ok: bool = False
) -> Outcome:
    context = SendContext(f"delivery-{to}", attempt, EXPIRES_AT, duplicate_ok)
    return await router.send(Envelope("news@shop.example", to, CONTENT), context)


async def find_closed_port() -> int:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ("MAIL", "451 4.3.0 out of order"),
        ("RCPT", "554 5.7.1 Relay access denied"),
        ("RCPT", "450 4.7.1 too many messages, slow down"),
        ("DATA", "421 4.3.2 shutting down"),
    ],
)
async def test_a_refusal_about_the_relay_goes_to_the_next_one(clock: FrozenClock, command: str, reply: str) -> None:
    async with run_relay() as first, run_relay() as second, open_router(clock, first.port, second.port) as router:
        first.replies[command] = lambda _argument: reply
        outcome = await send(router)
    assert isinstance(outcome, Accepted)
    assert outcome.provider == f"127.0.0.1:{second.port}"
    assert outcome.message_id == "Q1"
    assert (first.recipients, second.recipients) == ([], ["ann@example.com"])


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("550 5.1.1 no such user", InvalidTarget),
        ("550 5.7.1 policy", PermanentFailure),
        ("450 4.2.1 mailbox busy", RetryLater),
    ],
)
async def test_a_refusal_about_the_recipient_never_reaches_another_relay(
    clock: FrozenClock, reply: str, kind: type
) -> None:
    async with run_relay() as first, run_relay() as second, open_router(clock, first.port, second.port) as router:
        first.replies["RCPT"] = lambda address: reply if address.startswith("ann") else None
        assert isinstance(await send(router), kind)
        assert isinstance(await send(router, "bob@example.com"), Accepted)
    assert second.transactions == 0
    assert first.recipients == ["bob@example.com"]


async def test_a_relay_without_a_connection_is_skipped_after_some_failures_and_returns(clock: FrozenClock) -> None:
    closed = await find_closed_port()
    async with run_relay() as second, open_router(clock, closed, second.port) as router:
        for _ in range(6):
            assert isinstance(await send(router), Accepted)
        assert router.open_circuits() == {f"127.0.0.1:{closed}": True, f"127.0.0.1:{second.port}": False}
        async with run_relay(port=closed) as first:
            clock.advance(6)
            assert isinstance(await send(router, "bob@example.com"), Accepted)
            assert first.recipients == ["bob@example.com"], "one message is the probe"
        assert not any(router.open_circuits().values())


async def test_a_time_out_after_the_message_is_uncertain_and_is_not_sent_again(clock: FrozenClock) -> None:
    async def hang_after_message(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, "PIPELINING")
        await reader.readuntil(b"DATA\r\n")
        writer.write(b"250 OK\r\n250 OK\r\n354 Go\r\n")
        await reader.readuntil(b"\r\n.\r\n")
        await reader.read()

    async with (
        run_script(hang_after_message) as port,
        run_relay() as second,
        open_router(clock, port, second.port, content=0.2) as router,
    ):
        outcome = await send(router)
    assert isinstance(outcome, Uncertain)
    assert outcome.provider == f"127.0.0.1:{port}"
    assert second.transactions == 0


async def test_a_failure_of_all_relays_spends_no_attempt(clock: FrozenClock) -> None:
    ports = [await find_closed_port(), await find_closed_port()]
    async with open_router(clock, *ports) as router:
        for _ in range(12):
            outcome = await send(router, attempt=4)
            assert isinstance(outcome, RetryLater)
            assert not outcome.counts_as_attempt
            assert outcome.until > clock.now()


async def test_a_message_too_large_for_every_relay_is_refused(clock: FrozenClock) -> None:
    async with run_relay(data_size_limit=10) as first, run_relay(data_size_limit=10) as second:
        async with open_router(clock, first.port, second.port) as router:
            assert isinstance(await send(router), PermanentFailure)
        assert not any(router.open_circuits().values())


async def test_a_throttled_relay_slows_down_and_nobody_gets_two_messages(clock: FrozenClock) -> None:
    async with run_relay() as relay, open_router(clock, relay.port) as router:
        taken: list[str] = []

        def refuse_often(address: str) -> str | None:
            if len(taken) % 10 == 9:
                taken.append("")
                return "421 4.7.0 rate limit"
            taken.append(address)
            return None

        relay.replies["RCPT"] = refuse_often
        waiting = [f"user{number}@example.com" for number in range(60)]
        while waiting:
            address = waiting.pop(0)
            if not isinstance(await send(router, address), Accepted):
                waiting.append(address)
                clock.advance(20)
    assert sorted(relay.recipients) == sorted(f"user{number}@example.com" for number in range(60))


async def test_deferred_messages_return_one_after_the_other_and_before_they_expire(clock: FrozenClock) -> None:
    closed = await find_closed_port()
    async with open_router(clock, closed) as router:
        retries = [router.defer(Priority.NORMAL, EXPIRES_AT).until for _ in range(400)]
        assert len(set(retries)) == 400
        assert max(retries) - min(retries) < timedelta(seconds=3)
        assert (
            clock.now()
            < router.defer(Priority.NORMAL, clock.now() + timedelta(seconds=8)).until
            < clock.now() + timedelta(seconds=8)
        )
