"""Two who work on the same rows, and calls that are cut short: nobody is lost, nothing is locked."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tidings.model import audience
from tidings.model.notification import Notification, NotificationState
from tidings.model.request import NotifyRequest
from tidings.model.user import User
from tidings.runtime import Runtime
from tidings.settings import Settings

PEOPLE = [f"user-{number:02}" for number in range(30)]


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Runtime, Runtime]]:
    """Two runtimes on one database, as in two processes, with pages of five people."""
    settings = Settings(data_dir=tmp_path, page_size=5)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(Runtime.open(settings))
        second = await stack.enter_async_context(Runtime.open(settings))
        async with first.store.begin() as tx:
            await first.store.users.upsert(tx, [User(user_id) for user_id in PEOPLE], first.clock.now())
        yield first, second


async def _to_everyone(runtime: Runtime) -> Notification:
    hello = {"title": "Hello", "body": "Everybody"}
    return await runtime.pipeline.submit(NotifyRequest("MESSAGE", audience.everyone(), hello))


async def _plan_all(runtime: Runtime, notification: Notification) -> None:
    while await runtime.pipeline.fan_out(notification.id):
        pass


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
