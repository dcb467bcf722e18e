"""A hanging or closed push host does not slow down others, and its deliveries are deferred."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from msgspec import structs

from tidings.flow.catalog import Catalog
from tidings.flow.deliver import slow_sends
from tidings.flow.deliver.concurrency_limiter import SendLimiter
from tidings.flow.deliver.preflight import DeliveryJob
from tidings.flow.deliver.render_cache import RenderCache
from tidings.flow.deliver.sender import DeliverySender
from tidings.model.delivery import AttemptResult, ClaimedDelivery, HoldRecord, OutboundMessage, SkipRecord, Target
from tidings.model.outcome import Accepted, Outcome, RetryLater
from tidings.model.priority import Priority
from tidings.model.template import Category, RenderedMessage
from tidings.ports.channel import ComposeContext
from tidings.rendering.minijinja_renderer import MinijinjaRenderer
from tidings.testing.clock import FrozenClock
from tidings.testing.contracts.samples import NOW, make_claimed_delivery, make_notification

NOTIFICATION = replace(make_notification(), variables={"title": "Hello", "body": "World"})


class FakePushHost:
    """A push host that a test closes."""

    def __init__(self, name: str, share: int = 5) -> None:
        self.name = name
        self.closed = False
        self._share = share

    def share(self, slots: int) -> int:
        return self._share

    def is_closed(self, *, is_full: bool) -> bool:
        return self.closed

    def defer(self, priority: Priority, expires_at: datetime) -> RetryLater:
        return RetryLater(NOW + timedelta(minutes=1), f"{self.name} does not work", counts_as_attempt=False)


class FakeChannel:
    """A channel with two push hosts, one of which hangs."""

    name = "webpush"

    def __init__(self) -> None:
        self.hosts = {name: FakePushHost(name) for name in ("works", "hangs")}
        self.sent: list[OutboundMessage] = []
        self.unblocked = asyncio.Event()

    async def open(self) -> None:
        """Starts nothing."""

    def destination(self, target: Target) -> FakePushHost | None:
        return next((host for name, host in self.hosts.items() if name in target.address), None)

    def compose(self, content: RenderedMessage, _context: ComposeContext) -> bytes:
        return content.title.encode()

    async def send(self, message: OutboundMessage) -> Outcome:
        self.sent.append(message)
        if "hangs" in message.target.address:
            await self.unblocked.wait()
        return Accepted(status=201)

    async def close(self) -> None:
        """Closes nothing."""


class Sending:
    def __init__(self, catalog: Catalog, renderer: MinijinjaRenderer, clock: FrozenClock) -> None:
        self.channel = FakeChannel()
        self.recorded: list[AttemptResult] = []
        render_cache = RenderCache(renderer, catalog)
        self.sender = DeliverySender({"webpush": self.channel}, render_cache, SendLimiter(20), clock, self._record)

    async def _record(self, result: AttemptResult) -> None:
        self.recorded.append(result)

    @property
    def outcomes(self) -> list[Outcome | SkipRecord | HoldRecord]:
        return [result.outcome for result in self.recorded]


@pytest.fixture
def sending(catalog: Catalog, renderer: MinijinjaRenderer, clock: FrozenClock) -> Sending:
    return Sending(catalog, renderer, clock)


def job_to(host: str) -> DeliveryJob:
    due = make_claimed_delivery(NOTIFICATION)
    assert due.target is not None
    due = structs.replace(due, target=structs.replace(due.target, endpoint=f"https://{host}/push/x"))
    return DeliveryJob(due, NOTIFICATION, Category("NEWS", "News"), True, NOW)


async def reload(claimed: Sequence[ClaimedDelivery]) -> Sequence[DeliveryJob]:
    """Never called: the data of the jobs is recent."""
    raise AssertionError(claimed)


async def test_deliveries_to_a_closed_host_are_deferred_without_a_send(sending: Sending) -> None:
    sending.channel.hosts["hangs"].closed = True
    await sending.sender.send([job_to("hangs") for _ in range(50)] + [job_to("works")], reload=reload)
    deferred = RetryLater(NOW + timedelta(minutes=1), "hangs does not work", counts_as_attempt=False)
    assert len(sending.channel.sent) == 1
    assert [outcome for outcome in sending.outcomes if isinstance(outcome, RetryLater)] == [deferred] * 50


async def test_a_hanging_host_uses_only_its_share(sending: Sending) -> None:
    jobs = [job_to(host) for _ in range(100) for host in ("hangs", "works")]
    running = asyncio.create_task(sending.sender.send(jobs, reload=reload))
    await asyncio.wait([running], timeout=0.2)
    assert [type(outcome) for outcome in sending.outcomes] == [Accepted] * 100
    # the check every half second finds the host closed
    sending.channel.hosts["hangs"].closed = True
    await asyncio.wait([running], timeout=1.0)
    assert len([outcome for outcome in sending.outcomes if isinstance(outcome, RetryLater)]) == 95, "five are in flight"
    sending.channel.unblocked.set()
    assert await running == []
    assert len(sending.recorded) == 200


async def test_a_slow_send_cancelled_by_a_stop_is_recorded_as_a_retry(
    sending: Sending, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_sends, "SLOW_AFTER", 0.02)
    monkeypatch.setattr(slow_sends, "_POLL_INTERVAL", 0.01)
    first = asyncio.create_task(sending.sender.send([job_to("hangs")], reload=reload))
    await asyncio.wait([first], timeout=0.1)
    second = asyncio.create_task(sending.sender.send([job_to("hangs")], reload=reload))
    assert await asyncio.wait_for(first, 5) == [], "the second claim waits for this send"
    second.cancel()
    await asyncio.wait([second])
    assert (
        RetryLater(NOW, "the worker stopped before the provider answered", counts_as_attempt=False) in sending.outcomes
    )
