"""Relays that refuse, limit and are busy, against real SMTP servers: no recipient is lost, none gets two messages."""

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
from tests.support.smtp_relays import SmtpRelay, run_relay

from tidings.channels.email.relay import parse_relay
from tidings.channels.email.relay_provider import RelayProvider
from tidings.channels.email.smtp_exchange import Envelope
from tidings.channels.email.smtp_pool import PoolLimits, SmtpPool
from tidings.channels.providers.failover import SendContext
from tidings.channels.providers.router import ProviderRouter
from tidings.model.outcome import Accepted, Outcome, RetryLater
from tidings.testing.clock import START, FrozenClock

EXPIRES_AT = START + timedelta(days=1)
CONTENT = b"Subject: Hi\r\n\r\nHello\r\n"
POOL_SIZE = 5


class Sender:
    """Sends over one relay with a frozen clock, whose waits advance it."""

    def __init__(self, relay: SmtpRelay) -> None:
        self.clock = FrozenClock()
        pool = SmtpPool(
            parse_relay(f"smtp://127.0.0.1:{relay.port}"),
            local_hostname="client.test",
            limits=PoolLimits(size=POOL_SIZE),
        )
        self.provider = RelayProvider(pool, 100, self.clock, lambda: 0.0)
        self.router: ProviderRouter[Envelope] = ProviderRouter(
            "email",
            [self.provider],
            self.clock,
            max_in_flight=100,
            shares_excess=True,
            jitter=lambda: 0.0,
            sleep=self.wait,
        )

    async def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def send(self, address: str, attempt: int = 1) -> Outcome:
        context = SendContext(f"delivery-{address}", attempt, EXPIRES_AT)
        return await self.router.send(Envelope("news@shop.example", address, CONTENT), context)

    async def send_all(self, addresses: list[str]) -> dict[str, Outcome]:
        outcomes = await asyncio.gather(*(self.send(address) for address in addresses))
        return dict(zip(addresses, outcomes, strict=True))

    async def close(self) -> None:
        self.provider.close()
        await asyncio.sleep(0)


def make_addresses(count: int) -> list[str]:
    return [f"user{number}@example.com" for number in range(count)]


@pytest.mark.parametrize("has_pipelining", [True, False], ids=["pipelining", "no pipelining"])
async def test_c57_every_tenth_recipient_refused_with_450_leaves_no_transaction_open(has_pipelining: bool) -> None:
    seen: Counter[str] = Counter()

    def refuse_every_tenth(address: str) -> str | None:
        seen[address] += 1
        return "450 4.2.1 mailbox busy" if seen.total() % 10 == 0 and seen[address] == 1 else None

    async with run_relay(has_pipelining=has_pipelining) as relay:
        relay.replies["RCPT"] = refuse_every_tenth
        sender = Sender(relay)
        waiting = make_addresses(200)
        outcomes = await sender.send_all(waiting)
        refused = [address for address, outcome in outcomes.items() if isinstance(outcome, RetryLater)]
        assert len(refused) == 20
        assert all(isinstance(outcome, Accepted) for outcome in (await sender.send_all(refused)).values())
        await sender.close()
    assert Counter(relay.recipients) == Counter(waiting)
    # the answer to a DATA that was pipelined behind the refused recipient
    expected = {"503 Error: need RCPT command"} if has_pipelining else set()
    assert {reply for reply in relay.sent_replies if reply.startswith("503")} == expected
    assert relay.connections <= POOL_SIZE


async def test_c57_100_concurrent_sends_share_a_pool_of_5_connections() -> None:
    async with run_relay() as relay:
        sender = Sender(relay)
        addresses = make_addresses(100)
        outcomes = await sender.send_all(addresses)
        await sender.close()
    assert all(isinstance(outcome, Accepted) for outcome in outcomes.values())
    assert Counter(relay.recipients) == Counter(addresses)
    assert all(len(envelope.rcpt_tos) == 1 for envelope in relay.accepted)
    assert [reply for reply in relay.sent_replies if reply.startswith("503")] == []
    assert relay.connections <= POOL_SIZE


@pytest.mark.parametrize(
    "reply", ["450 4.7.1 rate limit exceeded", "451 4.7.1 too many messages, slow down", "421 4.7.0 rate limited"]
)
async def test_c58_a_relay_that_asks_for_fewer_messages_gets_them_later_and_each_once(reply: str) -> None:
    async with run_relay() as relay:
        sender = Sender(relay)
        allowed = 10

        def limit(_address: str) -> str | None:
            nonlocal allowed
            allowed -= 1
            return None if allowed >= 0 else reply

        relay.replies["RCPT"] = limit
        addresses = make_addresses(60)
        waiting, rounds = addresses, 0
        while waiting:
            outcomes = await sender.send_all(waiting)
            retries = [outcome for outcome in outcomes.values() if isinstance(outcome, RetryLater)]
            assert not any(retry.counts_as_attempt for retry in retries)
            assert not any(sender.router.open_circuits().values()), "it is slowed down, not taken out"
            waiting = [address for address, outcome in outcomes.items() if not isinstance(outcome, Accepted)]
            allowed, rounds = 10, rounds + 1
            assert rounds < 100
            sender.clock.advance(5)
        await sender.close()
    assert Counter(relay.recipients) == Counter(addresses)
