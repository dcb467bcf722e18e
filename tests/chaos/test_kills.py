"""SIGKILL at random moments: no user is missed, and duplicates stay within the guaranteed bound."""

import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from tests.support.server import TidingsServer, eventually

from tidings.mockpush import SpawnedMockPush

pytestmark = pytest.mark.asyncio(loop_scope="module")

ServerFactory = Callable[..., Awaitable[TidingsServer]]
RecordMeasurement = Callable[[str, object], None]
BROADCAST = {
    "templateCode": "MESSAGE",
    "audience": {"kind": "everyone"},
    "variables": {"title": "Hello", "body": "Everybody"},
}
IN_FLIGHT, UNFLUSHED = 100, 100
#: duplicates allowed per kill: sends in flight, and outcomes not yet recorded
MAX_DUPLICATES = IN_FLIGHT + UNFLUSHED
#: small pages and batches make both planning and sending long enough to be hit by a kill
SMALL_BATCH_SETTINGS = {
    "TIDINGS_PAGE_SIZE": "50",
    "TIDINGS_BATCH_SIZE": "50",
    "TIDINGS_WORKER_CONCURRENCY": str(IN_FLIGHT),
    "TIDINGS_FLUSH_ROWS": str(UNFLUSHED),
}


@dataclass(frozen=True)
class Case:
    """The parameters of one run."""

    user_count: int
    kills: int
    seed: int
    options: tuple[str, ...] = ()


async def notify(server: TidingsServer, body: Mapping[str, object] = BROADCAST) -> str:
    answer = await server.expect(202, "POST", "/api/notifications", body)
    notification: str = answer.read(dict[str, Any])["id"]
    return notification


async def run(
    case: Case, create_server: ServerFactory, audit: Any, push: SpawnedMockPush, record_measurement: RecordMeasurement
) -> None:
    moments = random.Random(case.seed)
    server = await create_server(case.user_count, *case.options, **SMALL_BATCH_SETTINGS)
    started = time.monotonic()
    async with server:
        notification = await notify(server)
        recoveries = []
        for kill in range(case.kills):
            # timed by progress and not by the clock, so that every kill hits work on any machine
            await _wait_for_received(push, round(case.user_count * (kill + moments.random()) / (case.kills + 1)))
            await server.kill()
            before = (await push.control.stats()).distinct
            killed_at = time.monotonic()
            await server.restart()
            restarted_at = time.monotonic()
            await _wait_for_received(push, before + 1, "distinct")
            recoveries.append((round(restarted_at - killed_at, 2), round(time.monotonic() - restarted_at, 2)))
        progress = await server.wait_until_finished(notification)
        duration = time.monotonic() - started
        assert progress.by_state == {"delivered": case.user_count}
        assert await server.stop() == 0
    result = await audit(server)
    record_measurement("duplicates", result.duplicates)
    record_measurement("restart and first new send, s", recoveries)
    record_measurement("seconds", round(duration, 1))
    result.check(case.user_count)
    assert result.duplicates <= case.kills * MAX_DUPLICATES


async def _wait_for_received(push: SpawnedMockPush, number: int, counter: str = "accepted") -> None:
    await push.control.wait_for(timeout=60, **{counter: number})


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(3000, 2, 1), marks=pytest.mark.extended),
        Case(1500, 1, 2, ("--workers", "2")),
        pytest.param(Case(10_000, 20, 3), marks=pytest.mark.long),
        pytest.param(Case(10_000, 20, 4, ("--workers", "2")), marks=pytest.mark.long),
    ],
    ids=lambda case: f"{case.user_count}-people-{case.kills}-kills{'-'.join(case.options)}",
)
async def test_no_user_is_missed_when_the_server_is_killed_while_it_sends(
    case: Case, create_server: ServerFactory, audit: Any, push: SpawnedMockPush, record_measurement: RecordMeasurement
) -> None:
    await run(case, create_server, audit, push, record_measurement)


async def test_no_user_is_missed_when_the_server_is_killed_while_it_plans(
    create_server: ServerFactory, audit: Any, push: SpawnedMockPush, record_measurement: RecordMeasurement
) -> None:
    user_count, shares = 1000, (0.2, 0.6)
    server = await create_server(user_count, **{**SMALL_BATCH_SETTINGS, "TIDINGS_PAGE_SIZE": "10"})
    async with server:
        notification = await notify(server)
        planned = 0
        for share in shares:
            planned = await _wait_for_planned(server, notification, round(user_count * share))
            await server.kill()
            assert planned < user_count
            await server.restart()
        record_measurement("planned at the last kill", planned)
        progress = await server.wait_until_finished(notification)
        assert progress.by_state == {"delivered": user_count}
        assert await server.stop() == 0
    result = await audit(server)
    record_measurement("duplicates", result.duplicates)
    result.check(user_count)
    assert result.duplicates <= len(shares) * MAX_DUPLICATES


async def _wait_for_planned(server: TidingsServer, notification: str, min_recipients: int) -> int:
    async def recipients_if_enough() -> int | None:
        recipients = (await server.get_progress(notification)).recipients
        return recipients if recipients >= min_recipients else None

    return await eventually(recipients_if_enough, pause=0)


async def test_an_accepted_notification_is_sent_after_an_immediate_kill(
    create_server: ServerFactory, audit: Any
) -> None:
    server = await create_server(200, **SMALL_BATCH_SETTINGS)
    async with server:
        notification = await notify(server)
        await server.kill()
        await server.restart()
        assert (await server.wait_until_finished(notification)).by_state == {"delivered": 200}
    (await audit(server)).check(200)


@pytest.mark.extended
async def test_a_scheduled_notification_survives_a_kill(
    create_server: ServerFactory, audit: Any, push: SpawnedMockPush
) -> None:
    server = await create_server(200, **SMALL_BATCH_SETTINGS)
    async with server:
        notification = await notify(server, {**BROADCAST, "options": {"delay": 3000}})
        await server.kill()
        assert (await push.control.stats()).received == 0
        await server.restart()
        assert (await server.wait_until_finished(notification)).by_state == {"delivered": 200}
    (await audit(server)).check(200)
