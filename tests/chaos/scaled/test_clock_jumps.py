"""Clock jumps by an hour or a day in the middle of a broadcast, later corrected: no user is missed.

The worker runs in this process, on a clock that the test moves. The push service uses the same clock to verify tokens
and expiry.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.server import eventually

from tidings.config.settings import Role, Settings
from tidings.container import AppContainer
from tidings.demo import devices
from tidings.mockpush import MockPush, MockPushOptions, ResponseRule
from tidings.model.audience import everyone, users
from tidings.model.delivery import FINAL_STATES
from tidings.model.notification import Notification
from tidings.model.request import NotifyRequest
from tidings.model.user import User
from tidings.testing.clock import FrozenClock
from tidings.worker import start_worker

pytestmark = pytest.mark.asyncio(loop_scope="session")

USER_IDS = [f"u{number:03}" for number in range(60)]
SCHEDULED_USER_IDS = USER_IDS[:5]
IN_FLIGHT, UNFLUSHED = 10, 10
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
#: case → test tier; the other cases are in the long tier
TIERS = {
    ("sqlite", DAY): [],
    ("postgresql", HOUR): [pytest.mark.extended],
    ("postgresql", -HOUR): [pytest.mark.extended],
}
CASES = [
    pytest.param(dialect, jump, marks=TIERS.get((dialect, jump), pytest.mark.long))
    for dialect in ("sqlite", "postgresql")
    for jump in (HOUR, -HOUR, DAY, -DAY)
]


@pytest.mark.parametrize(("dialect", "jump"), CASES, ids=str)
async def test_no_user_is_missed_when_the_clock_jumps_and_is_corrected(
    dialect: str, jump: timedelta, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    database = f"sqlite:///{tmp_path}/tidings.db" if dialect == "sqlite" else request.getfixturevalue("postgres_url")
    clock = FrozenClock(datetime.now(UTC))
    async with MockPush(MockPushOptions(verify_share=0.1), now=lambda: clock.now().timestamp()) as push:
        async with _run_sending_worker(database, tmp_path, clock, push) as container:
            # at the jump some deliveries wait for a retry, others are in flight, the rest are pending
            push.set_rules(ResponseRule(share=0.3, status=429, retry_after=2, times=1), ResponseRule(delay_ms=30))
            at_once = await container.pipeline.submit(_build_request())
            due = clock.now() + HOUR / 2
            later = await container.pipeline.submit(_build_request(send_at=due))
            await push.wait_for(timeout=30, accepted=10)
            clock.advance(jump)
            # as the background task does: after a jump ahead every lease looks expired
            await container.reconciler.reap_expired_leases()
            await _advance_until_final(clock, container, at_once, seconds=5)
            clock.advance(-jump)
            await container.reconciler.reap_expired_leases()
            await _advance_until_final(clock, container, at_once, seconds=5)
            if jump < HOUR / 2:
                assert not await _count_by_state(container, later), "sent before it was due"
            else:
                # deliveries deferred while the clock was ahead become due when it gets there again: late, but not lost
                clock.advance(jump)
            await _wait_until_final(clock, container, at_once)
            clock.advance(max(timedelta(), due - clock.now()))
            await _wait_until_final(clock, container, later)
            assert await _count_by_state(container, at_once) == {"delivered": len(USER_IDS)}
            assert await _count_by_state(container, later) == {"delivered": len(SCHEDULED_USER_IDS)}
        receipts = {(device, topic): count for device, topic, count in push.receipts()}
    got = Counter(device for device, _ in receipts)
    assert got == {name: 2 if name in SCHEDULED_USER_IDS else 1 for name in USER_IDS}
    twice = sum(receipts.values()) - len(receipts)
    print(f"{dialect}, {jump}: duplicates: {twice}, promised ≤ {IN_FLIGHT + UNFLUSHED}")
    assert twice <= IN_FLIGHT + UNFLUSHED


@asynccontextmanager
async def _run_sending_worker(
    database: str, tmp_path: Path, clock: FrozenClock, push: MockPush
) -> AsyncIterator[AppContainer]:
    """Yield a container whose worker sends to users with one device each."""
    settings = Settings(
        data_dir=tmp_path,
        database=database,
        worker_concurrency=IN_FLIGHT,
        flush_rows=UNFLUSHED,
        batch_size=10,
        database_pool=10,
    ).ensure_secrets()
    settings = settings.with_channel_values({"TIDINGS_PUSH_EXTRA_HOSTS": push.origin.removeprefix("http://")})
    async with AppContainer.open(settings, clock=clock, role=Role.SERVE) as container:
        async with container.store.transaction() as tx:
            await container.store.users.upsert(tx, [User(name) for name in USER_IDS], clock.now())
            simulated = [devices.DemoDevice(name, name, "Phone") for name in USER_IDS]
            await devices.subscribe_devices(container, tx, simulated, origin=push.origin, now=clock.now())
        async with start_worker(container):
            yield container


def _build_request(send_at: datetime | None = None) -> NotifyRequest:
    words = {"title": "Hello", "body": "Everybody"}
    if send_at is None:
        return NotifyRequest("MESSAGE", everyone(), words)
    return NotifyRequest("MESSAGE", users(*SCHEDULED_USER_IDS), words, send_at=send_at)


async def _advance_until_final(
    clock: FrozenClock, container: AppContainer, notification: Notification, *, seconds: int
) -> None:
    """Advance the clock in steps until everything is sent, by at most the given duration."""
    for _ in range(4 * seconds):
        if await _is_final(container, notification):
            return
        clock.advance(0.25)
        await asyncio.sleep(0.05)


async def _wait_until_final(clock: FrozenClock, container: AppContainer, notification: Notification) -> None:
    async def final() -> bool:
        clock.advance(0.25)
        return await _is_final(container, notification)

    await eventually(final, within=60, pause=0.05)


async def _is_final(container: AppContainer, notification: Notification) -> bool:
    counts = await _count_by_state(container, notification)
    wanted = len(SCHEDULED_USER_IDS) if notification.send_at > notification.created_at else len(USER_IDS)
    return sum(counts.values()) == wanted and set(counts) <= FINAL_STATES


async def _count_by_state(container: AppContainer, notification: Notification) -> dict[str, int]:
    async with container.store.read_snapshot() as tx:
        return dict((await container.store.notifications.get_counts(tx, notification.id)).by_state)
