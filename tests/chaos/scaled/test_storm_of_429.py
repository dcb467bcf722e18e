"""Every device answers 429: nobody comes back sooner than told, no attempt is spent, everybody gets it in the end."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import cycle

import pytest

from tidings.testing.mock_push import Rule
from tidings.testing.scene import Scene, all_final, notify
from tidings.testing.server import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

Stage = Callable[..., Awaitable[Scene]]
Figures = Callable[[str, object], None]
#: what nobody can mean is at least this
LEAST = 2.0
SECONDS = 3
#: of tries that were answered
BETWEEN_TRIES = """
    SELECT extract(epoch FROM started_at - lag(started_at) OVER (PARTITION BY delivery_id ORDER BY started_at))::float
    FROM attempts WHERE status IS NOT NULL
"""
FAR = "99999999999999999999"


@dataclass(frozen=True)
class Told:
    """What one device answers, and what must follow."""

    retry_after: str | int
    #: seconds that must pass after each answer
    at_least: float
    #: attempts spent in the end
    attempts: int = 1
    #: Unix time before which nothing may come
    not_before: float = 0.0


@pytest.mark.parametrize("people", [15, pytest.param(60, marks=pytest.mark.long)])
async def test_nobody_comes_back_sooner_than_told(stage: Stage, figures: Figures, people: int) -> None:
    scene = await stage(people)
    async with scene.fleet("api", "worker", "worker") as (api, *_):
        expected = _expected(scene)
        await scene.push.control.behave(
            *(
                Rule(device=device, status=429, retry_after=told.retry_after, times=1)
                for device, told in expected.items()
            )
        )
        notification = await notify(api)
        assert await all_final(api, notification, within=120) == {"delivered": people}
    stats = await scene.push.control.stats()
    assert stats.by_status["429"] == people
    refused_at = await _refused_at(scene)
    sooner = {}
    for message in await scene.push.control.messages(limit=people):
        told, came = expected[message.device], message.received_at
        waited = came - refused_at[message.device]
        if waited < told.at_least or came < told.not_before:
            sooner[message.device] = (told, waited)
    figures("came sooner than told", len(sooner))
    assert sooner == {}
    spent = dict(await scene.sql("SELECT user_id, attempts FROM deliveries"))
    assert spent == {device: told.attempts for device, told in expected.items()}
    (await scene.books()).check(scene.people)


@pytest.mark.long
async def test_a_storm_of_half_a_minute(stage: Stage, figures: Figures) -> None:
    """The whole service refuses, for whatever comes, until the storm is over."""
    scene = await stage(2000)
    await scene.push.control.behave(Rule(status=429, retry_after=SECONDS))
    async with scene.fleet("api", "worker", "worker") as (api, *_):
        notification = await notify(api)
        await scene.push.control.wait_for(received=1)
        await asyncio.sleep(30)
        stats = await scene.push.control.stats()
        figures("requests in half a minute, of 2 000 waiting", stats.received)
        assert stats.accepted == 0
        await scene.push.control.behave()
        over = time.monotonic()
        assert await all_final(api, notification, within=180) == {"delivered": 2000}
        figures("seconds from its end until all was sent", round(time.monotonic() - over, 1))
    assert dict(await scene.sql("SELECT attempts, count(*) FROM deliveries GROUP BY 1")) == {1: 2000}
    waits = [row[0] for row in await scene.sql(BETWEEN_TRIES) if row[0] is not None]
    figures("seconds between two tries for one device, at least", round(min(waits), 2))
    assert min(waits) >= SECONDS
    (await scene.books()).check(scene.people)


@pytest.mark.long
async def test_an_absurdly_far_time_is_cut_to_a_day_and_holds_up_nobody_else(stage: Stage, figures: Figures) -> None:
    scene = await stage(200)
    far = scene.people[:3]
    await scene.push.control.behave(*(Rule(device=device, status=429, retry_after=FAR, times=1) for device in far))
    async with scene.fleet("api", "worker") as (api, worker):
        notification = await notify(api)
        await scene.push.control.wait_for(timeout=60, accepted=197)
        await eventually(lambda: _is_waiting(scene, 3))
        rows = await scene.sql("SELECT due_at, attempts FROM deliveries WHERE state = 'pending'")
        waits = [(row[0] - datetime.now(UTC)) / timedelta(hours=1) for row in rows]
        figures("hours until they are tried again", [round(wait, 1) for wait in waits])
        assert all(23.9 < wait < 30.1 for wait in waits)
        assert [row[1] for row in rows] == [0, 0, 0]
        # a day later: the time of the rows is moved, and a new worker does not remember
        assert await worker.stop() == 0
        await scene.sql("UPDATE deliveries SET due_at = now() WHERE state = 'pending'")
        await worker.start()
        assert await all_final(api, notification) == {"delivered": 200}
    (await scene.books()).check(scene.people)


def _expected(scene: Scene) -> Mapping[str, Told]:
    date = (datetime.now(UTC) + timedelta(seconds=6)).replace(microsecond=0)
    past = datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)
    kinds = cycle(
        [
            Told(SECONDS, SECONDS),
            Told(format_datetime(date, usegmt=True), LEAST, not_before=date.timestamp()),
            Told(format_datetime(past, usegmt=True), LEAST),
            Told(-5, LEAST),
            Told(0, LEAST),
        ]
    )
    return dict(zip(scene.people, kinds, strict=False))


async def _refused_at(scene: Scene) -> Mapping[str, float]:
    """Return user → Unix time at which the first try began that was answered with 429."""
    rows = await scene.sql(
        "SELECT user_id, min(started_at) FROM attempts JOIN deliveries ON deliveries.id = delivery_id "
        "WHERE status = 429 GROUP BY user_id"
    )
    return {row[0]: row[1].timestamp() for row in rows}


async def _is_waiting(scene: Scene, number: int) -> bool:
    ((pending,),) = await scene.sql("SELECT count(*) FROM deliveries WHERE state = 'pending' AND lease_until IS NULL")
    return bool(pending == number)
