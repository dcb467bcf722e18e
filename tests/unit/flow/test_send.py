"""Claimed deliveries go out once each; what must not go out is skipped, what could not is left over."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from tidings.flow.deliver.gate import Gate
from tidings.flow.deliver.renderings import Renderings
from tidings.flow.deliver.send import AFTER_A_BUG, LONGEST_SEND, Job, Sender
from tidings.flow.intake.catalog import Catalog
from tidings.model.delivery import Attempted, Due, Message, Skipped, SkipReason
from tidings.model.notification import Notification
from tidings.model.outcome import Deferred, Delivered, Outcome
from tidings.model.template import Category, Content
from tidings.testing.clock import FrozenClock
from tidings.testing.contracts.samples import NOW, a_due, a_notification
from tidings.wording import MinijinjaWording

NOTIFICATION = replace(a_notification(), variables={"title": "Hello", "body": "World"})


class Wire:
    """A channel that keeps what it is given and answers as told."""

    name = "webpush"

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.answer: Callable[[Message], Outcome] = lambda _message: Delivered(status=201)
        self.most = self.now = 0
        self.open_ = asyncio.Event()
        self.open_.set()

    async def open(self) -> None:
        """Nothing to start."""

    def encode(self, content: Content, *, notification_id: str, delivery_id: str) -> bytes:
        return f"{content.title}: {content.body}".encode()

    async def send(self, message: Message) -> Outcome:
        self.sent.append(message)
        self.now += 1
        self.most = max(self.most, self.now)
        await self.open_.wait()
        self.now -= 1
        return self.answer(message)

    async def close(self) -> None:
        """Nothing to end."""


class Sending:
    def __init__(self, catalog: Catalog, wording: MinijinjaWording, clock: FrozenClock, places: int = 10) -> None:
        self.wire = Wire()
        self.recorded: list[Attempted] = []
        renderings = Renderings(wording, catalog.templates)
        self.sender = Sender({"webpush": self.wire}, renderings, Gate(places), clock, self._record)

    async def _record(self, attempted: Attempted) -> None:
        self.recorded.append(attempted)

    @property
    def outcomes(self) -> list[Outcome | Skipped]:
        return [one.outcome for one in self.recorded]


@pytest.fixture
def sending(catalog: Catalog, wording: MinijinjaWording, clock: FrozenClock) -> Sending:
    return Sending(catalog, wording, clock)


def job(due: Due | None = None, notification: Notification = NOTIFICATION, *, in_audience: bool = True) -> Job:
    return Job(due or a_due(notification), notification, Category("NEWS", "News"), in_audience)


async def test_a_message_carries_words_target_and_attempt(sending: Sending) -> None:
    due = replace(a_due(NOTIFICATION), attempts=2)
    assert await sending.sender.send([job(due)]) == []
    [message] = sending.wire.sent
    assert (message.payload, message.attempt, message.target) == (b"Hello: World", 3, due.target)
    assert (message.expires_at, message.priority) == (NOTIFICATION.expires_at, NOTIFICATION.priority)
    [recorded] = sending.recorded
    assert (recorded.delivery_id, recorded.lease_token, recorded.number) == (due.id, due.lease_token, 3)
    assert (recorded.outcome, recorded.started_at) == (Delivered(status=201), NOW)
    assert due.target is not None
    assert recorded.target_id == due.target.id


async def test_no_more_are_sent_at_once_than_there_are_places(
    catalog: Catalog, wording: MinijinjaWording, clock: FrozenClock
) -> None:
    sending = Sending(catalog, wording, clock, places=3)
    await sending.sender.send([job() for _ in range(20)])
    assert len(sending.recorded) == 20
    assert sending.wire.most <= 3


@pytest.mark.parametrize(
    ("stopped", "reason"),
    [
        (job(in_audience=False), SkipReason.LEFT_AUDIENCE),
        (job(replace(a_due(NOTIFICATION), cancelled=True)), SkipReason.CANCELLED),
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
    poison = replace(a_due(NOTIFICATION), attempts=1)

    def answer(message: Message) -> Outcome:
        if message.delivery_id == poison.id:
            raise KeyError("a bug")
        return Delivered()

    sending.wire.answer = answer
    await sending.sender.send([job(poison), job()])
    assert Deferred(NOW + AFTER_A_BUG * 2, "internal error: KeyError") in sending.outcomes
    assert Delivered() in sending.outcomes


async def test_a_cancelled_notification_is_not_sent_even_when_it_is_claimed_already(sending: Sending) -> None:
    sending.sender.cancelled(NOTIFICATION.id)
    await sending.sender.send([job(), job(notification=replace(NOTIFICATION, id="another"))])
    assert [message.notification_id for message in sending.wire.sent] == ["another"]


async def test_stop_lets_what_is_in_flight_end_and_leaves_the_rest(
    catalog: Catalog, wording: MinijinjaWording, clock: FrozenClock
) -> None:
    sending = Sending(catalog, wording, clock, places=1)
    sending.wire.open_.clear()
    jobs = [job(), job(), job()]
    running = asyncio.create_task(sending.sender.send(jobs))
    await asyncio.wait([running], timeout=0.02)
    sending.sender.stop()
    sending.wire.open_.set()
    left = await running
    assert [one.delivery_id for one in sending.recorded] == [jobs[0].due.id]
    assert {one.due.id for one in left} == {jobs[1].due.id, jobs[2].due.id}


async def test_nothing_is_sent_that_could_outlast_its_lease(sending: Sending, clock: FrozenClock) -> None:
    due = a_due(NOTIFICATION)
    clock.advance(due.lease_until - LONGEST_SEND - NOW)
    await sending.sender.send([job(due)])
    assert len(sending.wire.sent) == 1
    clock.advance(timedelta(seconds=1))
    await sending.sender.send([job(due)])
    assert (len(sending.wire.sent), len(sending.recorded)) == (1, 1)
