"""Two who work on the same rows, and calls that are cut short: nobody is lost, nothing is locked, no is a no."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tidings.flow.deliver.gate import Gate
from tidings.flow.deliver.send import Sender
from tidings.model import audience
from tidings.model.delivery import Attempted, Message
from tidings.model.ids import new_id
from tidings.model.notification import Notification, NotificationState
from tidings.model.outcome import Delivered, Outcome
from tidings.model.request import NotifyRequest
from tidings.model.subscription import PushSubscription
from tidings.model.template import Content
from tidings.model.user import User
from tidings.runtime import Runtime
from tidings.settings import Settings

PEOPLE = [f"user-{number:02}" for number in range(30)]


@pytest.fixture(params=["sqlite", "postgresql"])
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Runtime, Runtime]]:
    """Two runtimes on one database, as in two processes, with pages of five people."""
    settings = Settings(data_dir=tmp_path, page_size=5)
    if request.param == "postgresql":
        settings = Settings(data_dir=tmp_path, page_size=5, database=request.getfixturevalue("postgres_url"))
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(Runtime.open(settings))
        second = await stack.enter_async_context(Runtime.open(settings))
        async with first.store.begin() as tx:
            await first.store.users.upsert(tx, [User(user_id) for user_id in PEOPLE], first.clock.now())
        yield first, second


async def _to_everyone(runtime: Runtime) -> Notification:
    hello = {"title": "Hello", "body": "Everybody"}
    return await runtime.pipeline.submit(NotifyRequest("MESSAGE", audience.everyone(), hello))


async def _to_each(runtime: Runtime) -> list[Notification]:
    asked = [
        NotifyRequest("MESSAGE", audience.users(user_id), {"title": "Hello", "body": user_id}) for user_id in PEOPLE
    ]
    async with runtime.store.begin() as tx:
        made = await runtime.pipeline.accept_many(tx, asked)
    return [one for one in made if isinstance(one, Notification)]


async def _plan_all(runtime: Runtime, *notifications: Notification) -> None:
    wanted = [one.id for one in notifications]
    while wanted:
        wanted = [task.ref for task in await runtime.pipeline.fan_out_many(wanted)]


async def _end(runtime: Runtime, notification: Notification) -> Notification:
    async with runtime.store.read() as tx:
        found = await runtime.store.notifications.get(tx, notification.id)
    assert found is not None
    return found


async def test_who_finds_that_another_planned_the_page_goes_on_from_there(pair: tuple[Runtime, Runtime]) -> None:
    first, second = pair
    notification = await _to_everyone(first)
    assert await first.pipeline.fan_out(notification.id), "the first remembers where it stands"
    assert await second.pipeline.fan_out(notification.id), "and the second moves on behind its back"
    await _plan_all(first, notification)
    planned = await _end(first, notification)
    assert (planned.state, planned.recipients) == (NotificationState.FANNED_OUT, len(PEOPLE))


async def test_two_who_plan_at_the_same_time_plan_each_person_once(pair: tuple[Runtime, Runtime]) -> None:
    notification = await _to_everyone(pair[0])
    await asyncio.gather(*(_plan_all(runtime, notification) for runtime in pair))
    planned = await _end(pair[0], notification)
    assert (planned.state, planned.recipients, planned.skipped) == (
        NotificationState.FANNED_OUT,
        len(PEOPLE),
        len(PEOPLE),
    )


async def test_two_who_plan_the_same_small_ones_plan_each_once(pair: tuple[Runtime, Runtime]) -> None:
    told = await _to_each(pair[0])
    shuffled = random.sample(told, len(told))
    await asyncio.gather(_plan_all(pair[0], *told), _plan_all(pair[1], *shuffled))
    planned = [await _end(pair[0], one) for one in told]
    assert {one.state for one in planned} == {NotificationState.FANNED_OUT}
    assert [(one.recipients, one.skipped) for one in planned] == [(1, 1)] * len(told)


@pytest.mark.parametrize("patience", [number * 0.0002 for number in range(15)])
async def test_a_call_that_is_cut_short_leaves_nothing_locked(pair: tuple[Runtime, Runtime], patience: float) -> None:
    first, second = pair
    for _ in range(4):
        try:
            async with asyncio.timeout(patience):
                await _to_everyone(first)
        except TimeoutError:
            pass
        async with asyncio.timeout(5):
            await _to_everyone(first)
            await _to_everyone(second)


async def test_a_worker_learns_what_another_process_cancelled(pair: tuple[Runtime, Runtime]) -> None:
    working, other = pair
    told: list[str] = []
    working.pipeline.on_cancel(told.append)
    kept, gone = await _to_everyone(working), await _to_everyone(working)
    await other.pipeline.cancel(gone.id)
    await working.pipeline.learn_cancellations([kept.id, gone.id])
    assert told == [gone.id]


class Wire:
    """A channel that keeps what it was given and takes a moment, or at half-time as long as it is told."""

    name = "webpush"

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.goes_on = asyncio.Event()

    async def open(self) -> None:
        """Nothing to start."""

    def encode(self, content: Content, *, notification_id: str, delivery_id: str) -> bytes:
        return content.title.encode()

    async def send(self, message: Message) -> Outcome:
        self.sent.append(message)
        await asyncio.sleep(0.002)
        if len(self.sent) > len(PEOPLE) // 2:
            await self.goes_on.wait()
        return Delivered()

    async def close(self) -> None:
        """Nothing to end."""


async def _give_devices(runtime: Runtime) -> None:
    [key, *_] = runtime.push.ids
    async with runtime.store.begin() as tx:
        for user_id in PEOPLE:
            now = runtime.clock.now()
            device = PushSubscription(
                new_id(now), user_id, f"https://push.example/{user_id}", b"\x04" * 65, b"a" * 16, key
            )
            await runtime.store.subscriptions.register(tx, device, replaces=None, now=now)


@pytest.mark.parametrize("round_", range(8))
async def test_once_a_cancellation_is_confirmed_no_worker_starts_another_send(
    pair: tuple[Runtime, Runtime], round_: int
) -> None:
    working, other = pair
    await _give_devices(working)
    wire = Wire()

    async def recorded(attempted: Attempted) -> None:
        await working.pipeline.record([attempted])

    sender = Sender({"webpush": wire}, working.renderings, Gate(3), working.clock, recorded)
    working.pipeline.on_cancel(sender.cancelled)
    working.pipeline.on_cancel(lambda _id: wire.goes_on.set())
    notification = await _to_everyone(working)
    await _plan_all(working, notification)
    async with working.store.read() as tx:
        batches = [task.ref for task in await working.store.deliveries.waiting_batches(tx, after=None, limit=100)]

    async def listen() -> None:
        while True:
            await working.pipeline.learn_cancellations(sender.held)
            await asyncio.sleep(0.02)

    async def cancel() -> int:
        await asyncio.sleep(round_ * 0.002)
        await other.pipeline.cancel(notification.id)
        return len(wire.sent)

    listening = asyncio.create_task(listen())
    by_then, *_ = await asyncio.gather(cancel(), *(working.pipeline.deliver([batch], sender) for batch in batches))
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    assert len(wire.sent) == by_then
    async with working.store.read() as tx:
        counts = await working.store.notifications.counts(tx, notification.id)
    assert counts.by_state.get("delivered", 0) == by_then
    assert sum(counts.by_state.values()) == len(PEOPLE)
    assert set(counts.by_state) <= {"delivered", "cancelled"}
