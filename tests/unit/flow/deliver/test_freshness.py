"""No send begins with old data."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tidings.flow.deliver.freshness import MAX_STALENESS
from tidings.model.delivery import ClaimedDelivery
from tidings.model.preference import Preference
from tidings.ports.store import Transaction
from tidings.testing.contracts.samples import make_subscription

if TYPE_CHECKING:
    from tests.unit.conftest import Process

USERS = [f"user-{number:02}" for number in range(15)]
#: nine sends are in flight; ten slots, of which one is reserved for urgent sends
LAST = USERS[-1]


async def _erase(process: Process, tx: Transaction) -> None:
    await process.store.users.erase(tx, LAST)


async def _unsubscribe(process: Process, tx: Transaction) -> None:
    assert await process.store.subscriptions.remove(tx, LAST, make_subscription(LAST, LAST).endpoint)


async def _opt_out(process: Process, tx: Transaction) -> None:
    await process.store.users.set_preferences(tx, LAST, [Preference("NEWS", "webpush", False)])


async def _move(process: Process, tx: Transaction) -> None:
    moved = make_subscription(USERS[0], LAST)
    result, _ = await process.store.subscriptions.register(tx, moved, replaces=None, now=process.clock.now())
    assert result.value == "moved"


async def _start(process: Process) -> asyncio.Task[None]:
    """Start sending to all users over a blocked channel."""
    await process.add_users(*USERS)
    await process.plan(await process.submit(*USERS))
    process.channel.unblocked.clear()
    task = asyncio.create_task(process.process_queue())
    async with asyncio.timeout(5):
        while len(process.channel.sent) < 9:
            await asyncio.sleep(0.005)
    return task


@pytest.mark.parametrize("change", [_erase, _unsubscribe, _opt_out, _move], ids=lambda change: change.__name__)
async def test_a_change_during_slow_sends_takes_effect(
    process: Process, change: Callable[[Process, Transaction], object]
) -> None:
    task = await _start(process)
    async with process.store.transaction() as tx:
        await change(process, tx)  # type: ignore[misc]  # each is a coroutine function
    process.clock.advance(MAX_STALENESS + timedelta(milliseconds=1))
    process.channel.unblocked.set()
    await task
    assert {message.target.address for message in process.channel.sent} == {
        make_subscription(name, name).endpoint for name in USERS if name != LAST
    }


async def test_recent_data_is_not_read_again_and_old_data_once_for_all(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    reload = process.store.deliveries.reload

    async def count(tx: Transaction, claimed: Sequence[ClaimedDelivery]) -> Sequence[ClaimedDelivery]:
        reads.append(len(claimed))
        return await reload(tx, claimed)

    monkeypatch.setattr(process.store.deliveries, "reload", count)
    task = await _start(process)
    process.clock.advance(MAX_STALENESS)
    process.channel.unblocked.set()
    await task
    assert reads == []
    process.channel.sent.clear()
    await process.plan(await process.submit(*USERS))
    process.channel.unblocked.clear()
    task = asyncio.create_task(process.process_queue())
    async with asyncio.timeout(5):
        while len(process.channel.sent) < 9:
            await asyncio.sleep(0.005)
    process.clock.advance(MAX_STALENESS + timedelta(seconds=1))
    process.channel.unblocked.set()
    await task
    assert len(reads) == 1
    assert len(process.channel.sent) == len(USERS)
