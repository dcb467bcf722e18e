"""Claimed deliveries go out once each; what must not go out is skipped, what could not is left over."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from tidings.flow.deliver.gate import Gate
from tidings.flow.deliver.renderings import Renderings
from tidings.flow.deliver.send import AFTER_A_BUG, LONGEST_SEND, Job, Sender
from tidings.flow.intake.catalog import Catalog
from tidings.model.delivery import Attempted, Due, Message, Skipped, SkipReason
from tidings.model.notification import Notification
from tidings.model.outcome import Deferred, Delivered, Outcome
from tidings.model.template import Category
from tidings.testing.clock import FrozenClock
from tidings.testing.contracts.samples import NOW, a_due, a_notification
from tidings.wording import MinijinjaWording

if TYPE_CHECKING:
    from tests.unit.flow.conftest import Wire

NOTIFICATION = replace(a_notification(), variables={"title": "Hello", "body": "World"})


class Sending:
    def __init__(self, wire: Wire, catalog: Catalog, wording: MinijinjaWording, clock: FrozenClock) -> None:
        self.wire = wire
        self.recorded: list[Attempted] = []
        self.hurried = 0
        self._renderings = Renderings(wording, catalog.templates)
        self._clock = clock
        self.sender = self.with_places(10)

    def with_places(self, places: int) -> Sender:
        self.sender = Sender(
            {"webpush": self.wire}, self._renderings, Gate(places), self._clock, self._record, self._hurry
        )
        return self.sender

    def _hurry(self) -> None:
        self.hurried += 1

    async def _record(self, attempted: Attempted) -> None:
        self.recorded.append(attempted)

    @property
    def outcomes(self) -> list[Outcome | Skipped]:
        return [one.outcome for one in self.recorded]


@pytest.fixture
def sending(wire: Wire, catalog: Catalog, wording: MinijinjaWording, clock: FrozenClock) -> Sending:
    return Sending(wire, catalog, wording, clock)


def job(due: Due | None = None, notification: Notification = NOTIFICATION, *, in_audience: bool = True) -> Job:
    return Job(due or a_due(notification), notification, Category("NEWS", "News"), in_audience)


async def test_a_message_carries_words_target_and_attempt(sending: Sending) -> None:
    due = structs.replace(a_due(NOTIFICATION), attempts=2)
    assert await sending.sender.send([job(due)]) == []
    [message] = sending.wire.sent
    assert (message.payload, message.attempt, message.target) == (b"Hello: World", 3, due.target)
    assert (message.expires_at, message.priority) == (NOTIFICATION.expires_at, NOTIFICATION.priority)
    [recorded] = sending.recorded
    assert (recorded.delivery_id, recorded.lease_token, recorded.number) == (due.id, due.lease_token, 3)
    assert (recorded.outcome, recorded.started_at) == (Delivered(status=201), NOW)
    assert due.target is not None
    assert recorded.target_id == due.target.id


async def test_no_more_are_sent_at_once_than_there_are_places(sending: Sending) -> None:
    await sending.with_places(3).send([job() for _ in range(20)])
    assert len(sending.recorded) == 20
    assert sending.wire.most <= 3


@pytest.mark.parametrize(
    ("stopped", "reason"),
    [
        (job(in_audience=False), SkipReason.LEFT_AUDIENCE),
        (job(structs.replace(a_due(NOTIFICATION), cancelled=True)), SkipReason.CANCELLED),
        (job(notification=replace(NOTIFICATION, variables={})), SkipReason.RENDER_FAILED),
        (job(notification=replace(NOTIFICATION, template_code="GONE")), SkipReason.RENDER_FAILED),
    ],
)
async def test_what_must_not_go_out_is_skipped_with_its_reason_and_the_rest_goes(
    sending: Sending, stopped: Job, reason: SkipReason
) -> None:
    await sending.sender.send([stopped, job(notification=replace(NOTIFICATION, id="another"))])
    assert len(sending.wire.sent) == 1
    assert Skipped(stopped.notification.id, "ana", "webpush", reason) in sending.outcomes
    assert Delivered(status=201) in sending.outcomes


async def test_a_bug_in_a_channel_defers_its_message_and_holds_up_no_other(sending: Sending) -> None:
    poison = structs.replace(a_due(NOTIFICATION), attempts=1)

    def answer(message: Message) -> Outcome:
        if message.delivery_id == poison.id:
            raise KeyError("a bug")
        return Delivered()

    sending.wire.answer = answer
    await sending.sender.send([job(poison), job()])
    assert Deferred(NOW + AFTER_A_BUG * 2, "internal error: KeyError") in sending.outcomes
    assert Delivered() in sending.outcomes


async def test_when_it_is_stopped_nothing_more_begins_even_if_a_library_swallows_that(
    sending: Sending, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def answers_all_the_same(message: Message) -> Outcome:
        sending.wire.sent.append(message)
        with suppress(asyncio.CancelledError):
            begun.set()
            await asyncio.Event().wait()
        return Delivered(status=201)

    monkeypatch.setattr(sending.wire, "send", answers_all_the_same)
    batch = asyncio.create_task(sending.with_places(1).send([job(), job()]))
    await begun.wait()
    batch.cancel()
    done, _ = await asyncio.wait([batch], timeout=10)
    assert done, "the next send has begun"
    assert batch.cancelled()
    assert len(sending.wire.sent) == 1
    assert sending.outcomes == [Delivered(status=201)], "what was answered is recorded"


async def test_a_cancelled_notification_is_not_sent_even_when_it_is_claimed_already(sending: Sending) -> None:
    sending.sender.cancelled(NOTIFICATION.id)
    await sending.sender.send([job(), job(notification=replace(NOTIFICATION, id="another"))])
    assert [message.notification_id for message in sending.wire.sent] == ["another"]


async def test_stop_lets_what_is_in_flight_end_and_leaves_the_rest(sending: Sending) -> None:
    sending.with_places(1)
    sending.wire.open_.clear()
    jobs = [job(), job(), job()]
    running = asyncio.create_task(sending.sender.send(jobs))
    await asyncio.wait([running], timeout=0.02)
    sending.sender.stop()
    sending.wire.open_.set()
    left = await running
    assert [one.delivery_id for one in sending.recorded] == [jobs[0].due.id]
    assert {one.due.id for one in left} == {jobs[1].due.id, jobs[2].due.id}


async def test_what_waits_for_its_place_at_a_stop_is_left_too(sending: Sending) -> None:
    sending.with_places(1)
    sending.wire.open_.clear()
    first, second = job(), job()
    calls = [asyncio.create_task(sending.sender.send([one])) for one in (first, second)]
    await asyncio.wait(calls, timeout=0.02)
    sending.sender.stop()
    sending.wire.open_.set()
    assert await asyncio.gather(*calls) == [[], [second]]
    assert [one.delivery_id for one in sending.recorded] == [first.due.id]


async def test_nothing_is_sent_that_could_outlast_its_lease(sending: Sending, clock: FrozenClock) -> None:
    due = a_due(NOTIFICATION)
    clock.advance(due.lease_until - LONGEST_SEND - NOW)
    await sending.sender.send([job(due)])
    assert len(sending.wire.sent) == 1
    later = clock.advance(timedelta(seconds=1))
    await sending.sender.send([job(due)])
    assert len(sending.wire.sent) == 1
    told = Deferred(later, "waited too long for its turn", spends_attempt=False)
    assert sending.outcomes[1:] == [told], "left to its lease, it would look as if a worker had died with it"


async def test_what_expires_while_it_waits_for_its_place_is_not_sent(sending: Sending, clock: FrozenClock) -> None:
    brief = replace(NOTIFICATION, expires_at=NOW + timedelta(seconds=10))

    async def slowly() -> None:
        clock.advance(timedelta(seconds=10))

    await sending.sender.send([job(notification=brief)], informed=slowly)
    assert sending.wire.sent == []
    assert [type(one) for one in sending.outcomes] == [Skipped]
    assert Skipped(brief.id, "ana", "webpush", SkipReason.EXPIRED) in sending.outcomes


async def test_what_is_heard_to_be_cancelled_right_before_the_send_is_not_sent(sending: Sending) -> None:
    async def hearing() -> None:
        sending.sender.cancelled(NOTIFICATION.id)

    await sending.sender.send([job()], informed=hearing)
    assert sending.wire.sent == []
    assert sending.outcomes == [Skipped(NOTIFICATION.id, "ana", "webpush", SkipReason.CANCELLED)]


async def test_whoever_waits_for_an_outcome_can_hurry(sending: Sending) -> None:
    sending.sender.hurry()
    assert sending.hurried == 1
