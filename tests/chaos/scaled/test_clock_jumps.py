"""The clock jumps by an hour or a day in the middle of the sending, and is set right again: nobody is lost.

The whole worker in this process, on a clock that the test moves; the push service goes by the same clock, so that
tokens and expiry are judged by it.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tidings.demo import devices
from tidings.model.audience import everyone, users
from tidings.model.delivery import FINAL_STATES
from tidings.model.notification import Notification
from tidings.model.request import NotifyRequest
from tidings.model.user import User
from tidings.runtime import Runtime
from tidings.settings import Role, Settings
from tidings.testing.clock import FrozenClock
from tidings.testing.mock_push import MockPush, MockPushOptions, Rule
from tidings.testing.server import eventually
from tidings.worker import working

pytestmark = pytest.mark.asyncio(loop_scope="session")

PEOPLE = [f"u{number:03}" for number in range(60)]
LATER = PEOPLE[:5]
IN_FLIGHT, UNFLUSHED = 10, 10
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SHORT = [("sqlite", DAY), ("postgresql", HOUR), ("postgresql", -HOUR)]
CASES = [
    pytest.param(dialect, jump, marks=[] if (dialect, jump) in SHORT else pytest.mark.long)
    for dialect in ("sqlite", "postgresql")
    for jump in (HOUR, -HOUR, DAY, -DAY)
]


@pytest.mark.parametrize(("dialect", "jump"), CASES, ids=str)
async def test_nobody_is_lost_when_the_clock_jumps_and_comes_back(
    dialect: str, jump: timedelta, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    database = f"sqlite:///{tmp_path}/tidings.db" if dialect == "sqlite" else request.getfixturevalue("postgres_url")
    clock = FrozenClock(datetime.now(UTC))
    async with MockPush(MockPushOptions(verify_share=0.1), now=lambda: clock.now().timestamp()) as push:
        async with _sending(database, tmp_path, clock, push) as runtime:
            # some wait for a retry when it jumps, others are in flight, the rest waits for its turn
            push.behave(Rule(share=0.3, status=429, retry_after=2, times=1), Rule(delay_ms=30))
            at_once = await runtime.pipeline.submit(_asks())
            due = clock.now() + HOUR / 2
            later = await runtime.pipeline.submit(_asks(later=due))
            await push.wait_for(timeout=30, accepted=10)
            clock.advance(jump)
            # as the timer would: after a jump ahead every lease looks as if it had run out
            await runtime.recovery.sweep()
            await _ticking(clock, runtime, at_once, seconds=5)
            clock.advance(-jump)
            await runtime.recovery.sweep()
            await _ticking(clock, runtime, at_once, seconds=5)
            if jump < HOUR / 2:
                assert not await _counts(runtime, later), "sent before its time"
            else:
                # what was put off while the clock was ahead is due when it gets there again: late, and not lost
                clock.advance(jump)
            await _until_final(clock, runtime, at_once)
            clock.advance(max(timedelta(), due - clock.now()))
            await _until_final(clock, runtime, later)
            assert await _counts(runtime, at_once) == {"delivered": len(PEOPLE)}
            assert await _counts(runtime, later) == {"delivered": len(LATER)}
        receipts = {(device, topic): count for device, topic, count in push.receipts()}
    got = Counter(device for device, _ in receipts)
    assert got == {name: 2 if name in LATER else 1 for name in PEOPLE}
    twice = sum(receipts.values()) - len(receipts)
    print(f"{dialect}, {jump}: duplicates: {twice}, promised ≤ {IN_FLIGHT + UNFLUSHED}")
    assert twice <= IN_FLIGHT + UNFLUSHED


@asynccontextmanager
async def _sending(database: str, tmp_path: Path, clock: FrozenClock, push: MockPush) -> AsyncIterator[Runtime]:
    """Give a runtime whose worker sends to people with a device each."""
    settings = Settings(
        data_dir=tmp_path,
        database=database,
        push_extra_hosts=(push.origin.removeprefix("http://"),),
        vapid_subject="mailto:ops@example.com",
        worker_concurrency=IN_FLIGHT,
        flush_rows=UNFLUSHED,
        batch_size=10,
        database_pool=10,
    ).ensure_secrets()
    async with Runtime.open(settings, clock=clock, role=Role.SERVE) as runtime:
        async with runtime.store.begin() as tx:
            await runtime.store.users.upsert(tx, [User(name) for name in PEOPLE], clock.now())
            simulated = [devices.Simulated(name, name, "Phone") for name in PEOPLE]
            await devices.add(runtime, tx, simulated, origin=push.origin, now=clock.now())
        async with working(runtime):
            yield runtime


def _asks(later: datetime | None = None) -> NotifyRequest:
    words = {"title": "Hello", "body": "Everybody"}
    if later is None:
        return NotifyRequest("MESSAGE", everyone(), words)
    return NotifyRequest("MESSAGE", users(*LATER), words, send_at=later)


async def _ticking(clock: FrozenClock, runtime: Runtime, notification: Notification, *, seconds: int) -> None:
    """Let so much time pass, in steps, unless everything is sent before that."""
    for _ in range(4 * seconds):
        if await _is_final(runtime, notification):
            return
        clock.advance(0.25)
        await asyncio.sleep(0.05)


async def _until_final(clock: FrozenClock, runtime: Runtime, notification: Notification) -> None:
    async def final() -> bool:
        clock.advance(0.25)
        return await _is_final(runtime, notification)

    await eventually(final, within=60, pause=0.05)


async def _is_final(runtime: Runtime, notification: Notification) -> bool:
    counts = await _counts(runtime, notification)
    wanted = len(LATER) if notification.send_at > notification.created_at else len(PEOPLE)
    return sum(counts.values()) == wanted and set(counts) <= FINAL_STATES


async def _counts(runtime: Runtime, notification: Notification) -> dict[str, int]:
    async with runtime.store.read() as tx:
        return dict((await runtime.store.notifications.counts(tx, notification.id)).by_state)
