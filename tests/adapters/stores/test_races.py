"""Races between two processes, and cancelled calls: no recipient is lost, no row stays locked, cancellations hold."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tidings.channels.webpush.server_keys import get_channel
from tidings.config.settings import Settings
from tidings.container import AppContainer
from tidings.flow.deliver.concurrency_limiter import SendLimiter
from tidings.flow.deliver.sender import DeliverySender
from tidings.model import audience
from tidings.model.delivery import AttemptResult, OutboundMessage
from tidings.model.ids import new_id
from tidings.model.notification import Notification, NotificationState
from tidings.model.outcome import Accepted, Outcome
from tidings.model.request import NotifyRequest
from tidings.model.subscription import PushSubscription
from tidings.model.template import RenderedMessage
from tidings.model.user import User
from tidings.ports.channel import ComposeContext

PEOPLE = [f"user-{number:02}" for number in range(30)]


@pytest.fixture(params=["sqlite", "postgresql"])
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[AppContainer, AppContainer]]:
    """Two containers on one database, as in two processes, with pages of five users."""
    settings = Settings(data_dir=tmp_path, page_size=5)
    if request.param == "postgresql":
        settings = Settings(data_dir=tmp_path, page_size=5, database=request.getfixturevalue("postgres_url"))
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(AppContainer.open(settings))
        second = await stack.enter_async_context(AppContainer.open(settings))
        async with first.store.transaction() as tx:
            await first.store.users.upsert(tx, [User(user_id) for user_id in PEOPLE], first.clock.now())
        yield first, second


async def _to_everyone(runtime: AppContainer) -> Notification:
    hello = {"title": "Hello", "body": "Everybody"}
    return await runtime.pipeline.submit(NotifyRequest("MESSAGE", audience.everyone(), hello))


async def _to_each(runtime: AppContainer) -> list[Notification]:
    requests = [
        NotifyRequest("MESSAGE", audience.users(user_id), {"title": "Hello", "body": user_id}) for user_id in PEOPLE
    ]
    async with runtime.store.transaction() as tx:
        results = await runtime.pipeline.accept_many(tx, requests)
    return [one for one in results if isinstance(one, Notification)]


async def _plan_completely(runtime: AppContainer, *notifications: Notification) -> None:
    wanted = [one.id for one in notifications]
    while wanted:
        wanted = [task.ref for task in await runtime.pipeline.fan_out.plan_next_pages(wanted)]


async def _end(runtime: AppContainer, notification: Notification) -> Notification:
    async with runtime.store.read_snapshot() as tx:
        found = await runtime.store.notifications.get(tx, notification.id)
    assert found is not None
    return found


async def test_a_process_continues_after_a_page_planned_by_another(
    pair: tuple[AppContainer, AppContainer],
) -> None:
    first, second = pair
    notification = await _to_everyone(first)
    assert await first.pipeline.fan_out.plan_next_pages([notification.id]), "the first process caches its progress"
    assert await second.pipeline.fan_out.plan_next_pages([notification.id]), "the second process advances the cursor"
    await _plan_completely(first, notification)
    planned = await _end(first, notification)
    assert (planned.state, planned.recipients) == (NotificationState.FANNED_OUT, len(PEOPLE))


async def test_two_concurrent_planners_plan_each_recipient_once(pair: tuple[AppContainer, AppContainer]) -> None:
    notification = await _to_everyone(pair[0])
    await asyncio.gather(*(_plan_completely(runtime, notification) for runtime in pair))
    planned = await _end(pair[0], notification)
    assert (planned.state, planned.recipients, planned.skipped) == (
        NotificationState.FANNED_OUT,
        len(PEOPLE),
        len(PEOPLE),
    )


async def test_two_concurrent_planners_plan_each_small_notification_once(
    pair: tuple[AppContainer, AppContainer],
) -> None:
    notifications = await _to_each(pair[0])
    shuffled = random.sample(notifications, len(notifications))
    await asyncio.gather(_plan_completely(pair[0], *notifications), _plan_completely(pair[1], *shuffled))
    planned = [await _end(pair[0], one) for one in notifications]
    assert {one.state for one in planned} == {NotificationState.FANNED_OUT}
    assert [(one.recipients, one.skipped) for one in planned] == [(1, 1)] * len(notifications)


@pytest.mark.parametrize("patience", [number * 0.0002 for number in range(15)])
async def test_a_cancelled_call_leaves_no_row_locked(pair: tuple[AppContainer, AppContainer], patience: float) -> None:
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


async def test_a_worker_learns_of_cancellations_by_another_process(pair: tuple[AppContainer, AppContainer]) -> None:
    working, other = pair
    cancelled_ids: list[str] = []
    working.pipeline.cancellations.on_stopped(lambda stopped_id, _reason: cancelled_ids.append(stopped_id))
    kept, gone = await _to_everyone(working), await _to_everyone(working)
    await other.pipeline.cancel(gone.id)
    await working.pipeline.cancellations.refresh([kept.id, gone.id])
    assert cancelled_ids == [gone.id]


class SlowChannel:
    """A channel that records messages. A send takes a moment, or blocks at half-time until released."""

    name = "webpush"

    def __init__(self) -> None:
        self.sent: list[OutboundMessage] = []
        self.goes_on = asyncio.Event()

    async def open(self) -> None:
        """Nothing to start."""

    def compose(self, content: RenderedMessage, _context: ComposeContext) -> bytes:
        return content.title.encode()

    async def send(self, message: OutboundMessage) -> Outcome:
        self.sent.append(message)
        await asyncio.sleep(0.002)
        if len(self.sent) > len(PEOPLE) // 2:
            await self.goes_on.wait()
        return Accepted()

    async def close(self) -> None:
        """Nothing to end."""


async def _give_devices(runtime: AppContainer) -> None:
    [key, *_] = get_channel(runtime.channels).key_ring.active_ids
    async with runtime.store.transaction() as tx:
        for user_id in PEOPLE:
            now = runtime.clock.now()
            device = PushSubscription(
                new_id(now), user_id, f"https://push.example/{user_id}", b"\x04" * 65, b"a" * 16, key
            )
            await runtime.store.subscriptions.register(tx, device, replaces=None, now=now)


@pytest.mark.parametrize("round_", range(8))
async def test_after_a_confirmed_cancellation_no_worker_starts_another_send(
    pair: tuple[AppContainer, AppContainer], round_: int
) -> None:
    working, other = pair
    await _give_devices(working)
    channel = SlowChannel()

    async def recorded(attempted: AttemptResult) -> None:
        await working.pipeline.record([attempted])

    sender = DeliverySender({"webpush": channel}, working.render_cache, SendLimiter(3), working.clock, recorded)
    working.pipeline.cancellations.on_stopped(sender.mark_stopped)
    working.pipeline.cancellations.on_stopped(lambda _id, _reason: channel.goes_on.set())
    notification = await _to_everyone(working)
    await _plan_completely(working, notification)
    async with working.store.read_snapshot() as tx:
        batches = [task.ref for task in await working.store.deliveries.list_pending_batches(tx, after=None, limit=100)]

    async def listen() -> None:
        while True:
            await working.pipeline.cancellations.refresh(sender.held_notification_ids)
            await asyncio.sleep(0.02)

    async def cancel() -> int:
        await asyncio.sleep(round_ * 0.002)
        await other.pipeline.cancel(notification.id)
        return len(channel.sent)

    listening = asyncio.create_task(listen())
    sent_at_confirmation, *_ = await asyncio.gather(
        cancel(), *(working.pipeline.delivery_runner.deliver([batch], sender) for batch in batches)
    )
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    assert len(channel.sent) == sent_at_confirmation
    async with working.store.read_snapshot() as tx:
        counts = await working.store.notifications.get_counts(tx, notification.id)
    assert counts.by_state.get("delivered", 0) == sent_at_confirmation
    assert sum(counts.by_state.values()) == len(PEOPLE)
    assert set(counts.by_state) <= {"delivered", "cancelled"}
