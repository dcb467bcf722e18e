"""The daily caps of SMS under concurrency, on both databases, with a fake provider on a real socket."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from tidings.channels.sms import SmsChannel, SmsSettings, create_sms_channel
from tidings.channels.sms.numbers import parse_number
from tidings.channels.sms.spending import SPEND_KEY, SpendingLimits
from tidings.channels.sms.spending_guard import Reservation, SpendingGuard
from tidings.errors import BackendError
from tidings.model.alert import AlertName
from tidings.model.contact_point import ContactPoint
from tidings.model.delivery import OutboundMessage
from tidings.model.outcome import Accepted, Outcome, PermanentFailure, RetryLater
from tidings.model.priority import Priority
from tidings.model.template import Category, RenderedMessage
from tidings.observability.alerts import AlertRegistry
from tidings.ports.channel import ComposeContext
from tidings.ports.quotas import QuotaAmount
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.postgres import create_engines
from tidings.stores.store import SqlStore
from tidings.testing.clock import START, FrozenClock
from tidings.testing.fake_providers import FakeSmsProvider, LoseReply, RefuseMessage

PREMIUM = "+4490987{:05}"
DAY = START.astimezone(UTC).date()
CAP = 25


def create_channel(
    store: SqlStore, provider: FakeSmsProvider, alerts: AlertRegistry | None = None, **values: object
) -> SmsChannel:
    settings = SmsSettings.model_validate(
        {
            "url": SecretStr(provider.url_with_credentials),
            "sender": "+447400123456",
            "countries": ("GB", "US"),
            "allow_premium": True,
            **values,
        }
    )
    channel = create_sms_channel(settings, FrozenClock(), alerts, store=store, jitter=lambda: 0.0)
    assert channel is not None
    return channel


def make_message(channel: SmsChannel, number: str, delivery: int = 0) -> OutboundMessage:
    content = RenderedMessage("Title", "Body", "https://app.example/", "en", fields={"text": "Code 123"})
    expires_at = START + timedelta(hours=1)
    context = ComposeContext("n-1", f"d-{delivery}", "ana", Category("LOGIN", "x"), "k", expires_at, "UTC")
    target = ContactPoint(f"c-{delivery}", "ana", "sms", number)
    payload = channel.compose(content, context)
    return OutboundMessage(f"d-{delivery}", "n-1", target, payload, Priority.HIGH, expires_at, 1, "k")


async def send(channel: SmsChannel, number: str, delivery: int = 0) -> Outcome:
    return await channel.send(make_message(channel, number, delivery))


class SpendingCaps:
    """Provide a fixture `store`."""

    async def test_c71_of_1000_concurrent_sends_to_a_premium_prefix_the_cap_is_sent(self, store: SqlStore) -> None:
        alerts = AlertRegistry(FrozenClock())
        async with FakeSmsProvider() as provider:
            channel = create_channel(store, provider, alerts, prefix_caps=(f"+44909={CAP}",))
            outcomes = await asyncio.gather(*(send(channel, PREMIUM.format(i), i) for i in range(1000)))
            await channel.close()
        assert Counter(type(outcome) for outcome in outcomes) == {Accepted: CAP, PermanentFailure: 1000 - CAP}
        assert len(provider.requests) == CAP
        refusals = {outcome.why for outcome in outcomes if isinstance(outcome, PermanentFailure)}
        assert refusals == {
            f"the daily cap of {CAP} segments to +44909 is used up (TIDINGS_SMS__PREFIX_CAPS); "
            f"counted anew from {DAY + timedelta(days=1)} 00:00 UTC"
        }
        [alert] = alerts.list_active()
        assert (alert.name, alert.subject) == (AlertName.SPENDING_CAP_REACHED, "sms +44909")

    async def test_c71_processes_that_count_at_the_same_time_stay_within_the_cap(self, store: SqlStore) -> None:
        limits = SpendingLimits({"+44909": CAP})
        guards = [SpendingGuard(store, FrozenClock(), limits) for _ in range(8)]
        number = parse_number(PREMIUM.format(0))
        results = await asyncio.gather(*(guards[i % 8].reserve(number, 1) for i in range(200)))
        assert Counter(type(result) for result in results) == {Reservation: CAP, PermanentFailure: 200 - CAP}
        async with store.read_snapshot() as tx:
            assert await store.quotas.list_sums(tx, DAY) == {"sms +44909": CAP}

    async def test_c71_a_message_counts_against_all_caps_or_none(self, store: SqlStore) -> None:
        async with FakeSmsProvider() as provider:
            caps: dict[str, Any] = {"prefix_caps": ("+44909=100",), "prices": ("*=0.10",), "daily_spend": "0.30"}
            channel = create_channel(store, provider, **caps)
            outcomes = [await send(channel, PREMIUM.format(i), i) for i in range(5)]
            await channel.close()
        assert [type(outcome) for outcome in outcomes] == [Accepted] * 3 + [PermanentFailure] * 2
        assert outcomes[-1].why.startswith("the daily spend cap of 0.3 is used up (TIDINGS_SMS__DAILY_SPEND)")
        async with store.read_snapshot() as tx:
            assert await store.quotas.list_sums(tx, DAY) == {"sms +44909": 3, SPEND_KEY: 300_000}

    async def test_c71_what_no_provider_took_does_not_count(self, store: SqlStore) -> None:
        async with FakeSmsProvider() as provider:
            channel = create_channel(store, provider, prefix_caps=("+44=2",), timeout=2)
            provider.enqueue_behaviours(RefuseMessage(20500, 500), RefuseMessage(21211), LoseReply())
            outcomes = [await send(channel, PREMIUM.format(i), i) for i in range(5)]
            await channel.close()
        names = [type(outcome).__name__ for outcome in outcomes]
        assert names == ["RetryLater", "InvalidTarget", "Uncertain", "Accepted", "PermanentFailure"]

    async def test_c71_a_country_that_is_not_allowed_counts_nothing_and_is_not_asked(self, store: SqlStore) -> None:
        async with FakeSmsProvider() as provider:
            channel = create_channel(store, provider, prefix_caps=("*=5",))
            outcome = await send(channel, "+491701234567")
            await channel.close()
        assert isinstance(outcome, PermanentFailure)
        assert outcome.why.startswith("the country of the number (DE) is not allowed")
        assert provider.requests == []
        async with store.read_snapshot() as tx:
            assert await store.quotas.list_sums(tx, DAY) == {}

    async def test_a_database_that_does_not_answer_delays_the_message(
        self, store: SqlStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(*_: object) -> None:
            raise BackendError("it is down", backend="database")

        monkeypatch.setattr(store.quotas, "consume", fail)
        async with FakeSmsProvider() as provider:
            channel = create_channel(store, provider, prefix_caps=("+44=2",))
            outcome = await send(channel, PREMIUM.format(0))
            await channel.close()
        assert isinstance(outcome, RetryLater)
        assert not outcome.counts_as_attempt
        assert provider.requests == []

    async def test_each_day_is_counted_anew_and_old_days_are_deleted(self, store: SqlStore) -> None:
        use, tomorrow = QuotaAmount("k", 2, 3), DAY + timedelta(days=1)
        async with store.transaction() as tx:
            assert await store.quotas.consume(tx, [use], DAY) is None
            assert await store.quotas.consume(tx, [use], DAY) == "k"
            assert await store.quotas.consume(tx, [use], tomorrow) is None
            assert await store.quotas.purge(tx, tomorrow) == 1
            assert await store.quotas.list_sums(tx, DAY) == {}
            assert await store.quotas.list_sums(tx, tomorrow) == {"k": 2}


class TestSpendingCapsOnSqlite(SpendingCaps):
    """Uses the fixture `store` of the root conftest."""


class TestSpendingCapsOnPostgres(SpendingCaps):
    """Uses a store with a connection per concurrent caller."""

    @pytest.fixture
    async def store(self, upgraded_url: str) -> AsyncIterator[SqlStore]:
        opened = SqlStore(*create_engines(upgraded_url, pool_size=20), FieldCipher("a secret for the tests"), {})
        yield opened
        await opened.close()
