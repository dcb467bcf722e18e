"""A host that hangs or is held back takes nothing from the others, and its deliveries come again later."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from msgspec import structs

from tidings.flow.deliver import stragglers
from tidings.flow.deliver.gate import Gate
from tidings.flow.deliver.renderings import Renderings
from tidings.flow.deliver.send import Job, Sender
from tidings.flow.intake.catalog import Catalog
from tidings.model.delivery import Attempted, Message, Skipped
from tidings.model.outcome import Deferred, Delivered, Outcome
from tidings.model.priority import Priority
from tidings.model.subscription import PushSubscription
from tidings.model.template import Category, Content
from tidings.testing.clock import FrozenClock
from tidings.testing.contracts.samples import NOW, a_due, a_notification
from tidings.wording import MinijinjaWording

NOTIFICATION = replace(a_notification(), variables={"title": "Hello", "body": "World"})


class Far:
    """A push host that closes when told."""

    def __init__(self, name: str, share: int = 5) -> None:
        self.name = name
        self.closed = False
        self._share = share

    def share(self, places: int) -> int:
        return self._share

    def is_closed(self, *, full: bool) -> bool:
        return self.closed

    def not_now(self, priority: Priority, expires_at: datetime) -> Deferred:
        return Deferred(NOW + timedelta(minutes=1), f"{self.name} does not work", spends_attempt=False)


class Roads:
    """A channel that knows the hosts of its targets; one of them hangs."""

    name = "webpush"

    def __init__(self) -> None:
        self.hosts = {name: Far(name) for name in ("works", "hangs")}
        self.sent: list[Message] = []
        self.answer_at_last = asyncio.Event()

    async def open(self) -> None:
        """Nothing to start."""

    def destination(self, target: PushSubscription) -> Far | None:
        return next((host for name, host in self.hosts.items() if name in target.endpoint), None)

    def encode(self, content: Content, *, notification_id: str, delivery_id: str) -> bytes:
        return content.title.encode()

    async def send(self, message: Message) -> Outcome:
        self.sent.append(message)
        if "hangs" in message.target.endpoint:
            await self.answer_at_last.wait()
        return Delivered(status=201)

    async def close(self) -> None:
        """Nothing to end."""


class Sending:
    def __init__(self, catalog: Catalog, wording: MinijinjaWording, clock: FrozenClock) -> None:
        self.roads = Roads()
        self.recorded: list[Attempted] = []
        renderings = Renderings(wording, catalog.templates)
        self.sender = Sender({"webpush": self.roads}, renderings, Gate(20), clock, self._record)

    async def _record(self, attempted: Attempted) -> None:
        self.recorded.append(attempted)

    @property
    def outcomes(self) -> list[Outcome | Skipped]:
        return [one.outcome for one in self.recorded]


@pytest.fixture
def sending(catalog: Catalog, wording: MinijinjaWording, clock: FrozenClock) -> Sending:
    return Sending(catalog, wording, clock)


def job_to(host: str) -> Job:
    due = a_due(NOTIFICATION)
    assert due.target is not None
    due = structs.replace(due, target=structs.replace(due.target, endpoint=f"https://{host}/push/x"))
    return Job(due, NOTIFICATION, Category("NEWS", "News"), True)


async def test_what_goes_to_a_closed_host_is_deferred_without_a_place_or_a_message(sending: Sending) -> None:
    sending.roads.hosts["hangs"].closed = True
    await sending.sender.send([job_to("hangs") for _ in range(50)] + [job_to("works")])
    told = Deferred(NOW + timedelta(minutes=1), "hangs does not work", spends_attempt=False)
    assert len(sending.roads.sent) == 1
    assert [one for one in sending.outcomes if isinstance(one, Deferred)] == [told] * 50


async def test_a_host_that_hangs_holds_its_share_and_all_others_go(sending: Sending) -> None:
    jobs = [job_to(host) for _ in range(100) for host in ("hangs", "works")]
    running = asyncio.create_task(sending.sender.send(jobs))
    await asyncio.wait([running], timeout=0.2)
    assert [type(one) for one in sending.outcomes] == [Delivered] * 100
    # the look that comes every half second finds it closed
    sending.roads.hosts["hangs"].closed = True
    await asyncio.wait([running], timeout=1.0)
    assert len([one for one in sending.outcomes if isinstance(one, Deferred)]) == 95, "five are in flight"
    sending.roads.answer_at_last.set()
    assert await running == []
    assert len(sending.recorded) == 200


async def test_what_is_broken_off_by_a_stop_after_its_claim_ended_is_recorded_as_not_sent(
    sending: Sending, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stragglers, "PATIENCE", 0.02)
    monkeypatch.setattr(stragglers, "_LOOK", 0.01)
    first = asyncio.create_task(sending.sender.send([job_to("hangs")]))
    await asyncio.wait([first], timeout=0.1)
    second = asyncio.create_task(sending.sender.send([job_to("hangs")]))
    assert await asyncio.wait_for(first, 5) == [], "the other claim waits for it now"
    second.cancel()
    await asyncio.wait([second])
    assert Deferred(NOW, "the worker stopped before the answer came", spends_attempt=False) in sending.outcomes
