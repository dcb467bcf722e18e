"""Claimed deliveries are sent once each, skipped, or returned."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from tidings.flow.catalog import Catalog
from tidings.flow.deliver.concurrency_limiter import SendLimiter
from tidings.flow.deliver.freshness import MAX_STALENESS
from tidings.flow.deliver.preflight import DeliveryJob
from tidings.flow.deliver.render_cache import RenderCache
from tidings.flow.deliver.sender import INTERNAL_ERROR_BACKOFF, SEND_TIMEOUT, DeliverySender
from tidings.model.delivery import AttemptResult, ClaimedDelivery, HoldRecord, OutboundMessage, SkipReason, SkipRecord
from tidings.model.notification import Notification, StopReason
from tidings.model.outcome import Accepted, Outcome, RetryLater
from tidings.model.template import Category
from tidings.rendering.minijinja_renderer import MinijinjaRenderer
from tidings.testing.clock import FrozenClock
from tidings.testing.contracts.samples import NOW, make_claimed_delivery, make_notification
from tidings.testing.polling import eventually

if TYPE_CHECKING:
    from tests.unit.conftest import FakeChannel

NOTIFICATION = replace(make_notification(), variables={"title": "Hello", "body": "World"})


class Sending:
    def __init__(self, channel: FakeChannel, catalog: Catalog, renderer: MinijinjaRenderer, clock: FrozenClock) -> None:
        self.channel = channel
        self.recorded: list[AttemptResult] = []
        self.flush_requests = 0
        self._render_cache = RenderCache(renderer, catalog)
        self._clock = clock
        self.sender = self.with_slots(10)

    def with_slots(self, slots: int) -> DeliverySender:
        self.sender = DeliverySender(
            {"webpush": self.channel},
            self._render_cache,
            SendLimiter(slots),
            self._clock,
            self._record,
            self._request_flush,
        )
        return self.sender

    def _request_flush(self) -> None:
        self.flush_requests += 1

    async def _record(self, result: AttemptResult) -> None:
        self.recorded.append(result)

    @property
    def outcomes(self) -> list[Outcome | SkipRecord | HoldRecord]:
        return [result.outcome for result in self.recorded]


@pytest.fixture
def sending(channel: FakeChannel, catalog: Catalog, renderer: MinijinjaRenderer, clock: FrozenClock) -> Sending:
    return Sending(channel, catalog, renderer, clock)


def job(
    due: ClaimedDelivery | None = None, notification: Notification = NOTIFICATION, *, in_audience: bool = True
) -> DeliveryJob:
    delivery = due or make_claimed_delivery(notification)
    return DeliveryJob(delivery, notification, Category("NEWS", "News"), in_audience, NOW)


async def reload(claimed: Sequence[ClaimedDelivery]) -> Sequence[DeliveryJob]:
    """Read deliveries again: nothing has changed."""
    return [job(delivery) for delivery in claimed]


async def test_a_message_has_content_target_and_attempt_number(sending: Sending) -> None:
    due = structs.replace(make_claimed_delivery(NOTIFICATION), attempts=2)
    assert await sending.sender.send([job(due)], reload=reload) == []
    [message] = sending.channel.sent
    assert (message.payload, message.attempt, message.target) == (b"Hello: World", 3, due.target)
    assert (message.expires_at, message.priority) == (NOTIFICATION.expires_at, NOTIFICATION.priority)
    [recorded] = sending.recorded
    assert (recorded.delivery_id, recorded.lease_token, recorded.number) == (due.id, due.lease_token, 3)
    assert (recorded.outcome, recorded.started_at) == (Accepted(status=201), NOW)
    assert due.target is not None
    assert recorded.target_id == due.target.id


async def test_no_more_are_sent_at_once_than_there_are_places(sending: Sending) -> None:
    await sending.with_slots(3).send([job() for _ in range(20)], reload=reload)
    assert len(sending.recorded) == 20
    assert sending.channel.max_in_flight <= 3


async def test_sends_into_the_own_database_take_no_slots_of_providers(sending: Sending) -> None:
    sending.channel.max_local_sends = 12  # type: ignore[attr-defined]  # makes it a `HasLocalSends`
    sender = sending.with_slots(3)
    sending.channel.unblocked.clear()
    sends = asyncio.create_task(sender.send([job() for _ in range(20)], reload=reload))  # noqa: RUF006  # awaited below

    async def is_full() -> bool:
        # one slot is reserved for urgent messages
        return sending.channel.in_flight == 11

    await eventually(is_full, within=30)
    assert sender.in_flight == 11
    sending.channel.unblocked.set()
    assert await sends == []
    assert (len(sending.recorded), sending.channel.max_in_flight, sender.in_flight) == (20, 11, 0)


@pytest.mark.parametrize(
    ("stopped", "reason", "detail"),
    [
        (job(in_audience=False), SkipReason.LEFT_AUDIENCE, {}),
        (job(structs.replace(make_claimed_delivery(NOTIFICATION), is_cancelled=True)), SkipReason.CANCELLED, {}),
        (
            job(notification=replace(NOTIFICATION, variables={})),
            SkipReason.RENDER_FAILED,
            {"template": "NEWS", "error": "variables: template NEWS needs body, title"},
        ),
        (
            job(notification=replace(NOTIFICATION, template_code="GONE")),
            SkipReason.RENDER_FAILED,
            {
                "template": "GONE",
                "error": "templateCode: no template 'GONE'; known are CONTACT_POINT_DISABLED, DIGEST, DUTY, "
                "EVENT_CANCELLATION, EVENT_MANUAL, EVENT_REMINDER, EVENT_STATUS_CHANGE, EVENT_TIME_CHANGE, "
                "EVENT_VENUE_CHANGE, MESSAGE, NEWS, NEW_EVENT",
            },
        ),
    ],
)
async def test_ineligible_deliveries_are_skipped_with_a_reason_and_the_rest_is_sent(
    sending: Sending, stopped: DeliveryJob, reason: SkipReason, detail: dict[str, object]
) -> None:
    await sending.sender.send([stopped, job(notification=replace(NOTIFICATION, id="another"))], reload=reload)
    assert len(sending.channel.sent) == 1
    assert SkipRecord(stopped.notification.id, "ana", "webpush", reason, detail) in sending.outcomes
    assert Accepted(status=201) in sending.outcomes


async def test_a_bug_in_a_channel_defers_its_message_only(sending: Sending) -> None:
    poison = structs.replace(make_claimed_delivery(NOTIFICATION), attempts=1)

    def answer(message: OutboundMessage) -> Outcome:
        if message.delivery_id == poison.id:
            raise KeyError("a bug")
        return Accepted()

    sending.channel.respond = answer
    await sending.sender.send([job(poison), job()], reload=reload)
    assert RetryLater(NOW + INTERNAL_ERROR_BACKOFF * 2, "internal error: KeyError") in sending.outcomes
    assert Accepted() in sending.outcomes


async def test_no_send_starts_after_a_stop_even_if_a_library_swallows_cancellation(
    sending: Sending, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def swallow_cancellation(message: OutboundMessage) -> Outcome:
        sending.channel.sent.append(message)
        with suppress(asyncio.CancelledError):
            begun.set()
            await asyncio.Event().wait()
        return Accepted(status=201)

    monkeypatch.setattr(sending.channel, "send", swallow_cancellation)
    batch = asyncio.create_task(sending.with_slots(1).send([job(), job()], reload=reload))
    await begun.wait()
    batch.cancel()
    done, _ = await asyncio.wait([batch], timeout=10)
    assert done, "the next send has begun"
    assert batch.cancelled()
    assert len(sending.channel.sent) == 1
    assert sending.outcomes == [Accepted(status=201)], "what was answered is recorded"


async def test_claimed_deliveries_of_a_cancelled_notification_are_not_sent(sending: Sending) -> None:
    sending.sender.mark_stopped(NOTIFICATION.id, StopReason())
    await sending.sender.send([job(), job(notification=replace(NOTIFICATION, id="another"))], reload=reload)
    assert [message.notification_id for message in sending.channel.sent] == ["another"]


async def test_stop_completes_sends_in_flight_and_returns_the_rest(sending: Sending) -> None:
    sending.with_slots(1)
    sending.channel.unblocked.clear()
    jobs = [job(), job(), job()]
    running = asyncio.create_task(sending.sender.send(jobs, reload=reload))
    await asyncio.wait([running], timeout=0.02)
    sending.sender.stop()
    sending.channel.unblocked.set()
    left = await running
    assert [one.delivery_id for one in sending.recorded] == [jobs[0].delivery.id]
    assert {one.delivery.id for one in left} == {jobs[1].delivery.id, jobs[2].delivery.id}


async def test_sends_that_wait_for_a_slot_at_a_stop_are_returned(sending: Sending) -> None:
    sending.with_slots(1)
    sending.channel.unblocked.clear()
    first, second = job(), job()
    calls = [asyncio.create_task(sending.sender.send([one], reload=reload)) for one in (first, second)]
    await asyncio.wait(calls, timeout=0.02)
    sending.sender.stop()
    sending.channel.unblocked.set()
    assert await asyncio.gather(*calls) == [[], [second]]
    assert [one.delivery_id for one in sending.recorded] == [first.delivery.id]


async def test_no_send_may_outlast_its_lease(sending: Sending, clock: FrozenClock) -> None:
    due = make_claimed_delivery(NOTIFICATION)
    clock.advance(due.lease_until - SEND_TIMEOUT - NOW)
    await sending.sender.send([job(due)], reload=reload)
    assert len(sending.channel.sent) == 1
    later = clock.advance(timedelta(seconds=1))
    await sending.sender.send([job(due)], reload=reload)
    assert len(sending.channel.sent) == 1
    deferred = RetryLater(later, "waited too long for a free send slot", counts_as_attempt=False)
    assert sending.outcomes[1:] == [deferred], "an expired lease would count as a worker crash"


async def test_a_delivery_that_expires_while_waiting_for_a_slot_is_not_sent(
    sending: Sending, clock: FrozenClock
) -> None:
    brief = replace(NOTIFICATION, expires_at=NOW + timedelta(seconds=10))
    sending.with_slots(1)

    def respond(_message: OutboundMessage) -> Outcome:
        clock.advance(timedelta(seconds=10))
        return Accepted()

    sending.channel.respond = respond
    # jobs of one destination start in order
    await sending.sender.send([job(), job(notification=brief)], reload=reload)
    assert len(sending.channel.sent) == 1
    inputs = {"expiresAt": brief.expires_at.isoformat()}
    assert SkipRecord(brief.id, "ana", "webpush", SkipReason.EXPIRED, inputs) in sending.outcomes


async def test_a_cancellation_just_before_the_send_prevents_it(sending: Sending) -> None:
    async def reload_while_cancelled(claimed: Sequence[ClaimedDelivery]) -> Sequence[DeliveryJob]:
        sending.sender.mark_stopped(NOTIFICATION.id, StopReason())
        return await reload(claimed)

    aged = structs.replace(job(), read_at=NOW - MAX_STALENESS * 2)
    await sending.sender.send([aged], reload=reload_while_cancelled)
    assert sending.channel.sent == []
    assert sending.outcomes == [SkipRecord(NOTIFICATION.id, "ana", "webpush", SkipReason.CANCELLED)]


async def test_a_waiter_for_outcomes_can_request_a_flush(sending: Sending) -> None:
    sending.sender.flush_now()
    assert sending.flush_requests == 1
