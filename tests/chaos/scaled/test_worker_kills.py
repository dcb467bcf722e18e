"""Workers are killed in the middle of their batches: nobody is lost, and what is sent twice stays within the bound."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from tidings.testing.fleet import Member
from tidings.testing.mock_push import Rule
from tidings.testing.scene import Scene, all_final, notify
from tidings.testing.server import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

Stage = Callable[..., Awaitable[Scene]]
Figures = Callable[[str, object], None]
IN_FLIGHT, UNFLUSHED = 50, 50
#: of one kill
TWICE_AT_MOST = IN_FLIGHT + UNFLUSHED

#: where a worker ends, in the order of its steps
PLACES = [
    "tidings.flow.fan_out:FanOut.step:before",
    "tidings.stores.deliveries:SqlDeliveries.add:after",
    "tidings.flow.fan_out:FanOut.step:after",
    "tidings.stores.claims:Claims.claim:before",
    "tidings.stores.claims:Claims.claim:after",
    "tidings.flow.claiming:Claiming.deliver:before",
    "tidings.channels.webpush.channel:WebPushChannel.send:before",
    "tidings.channels.webpush.channel:WebPushChannel.send:after",
    "tidings.flow.pipeline:Pipeline.record:before",
    "tidings.flow.pipeline:Pipeline.record:after",
    "tidings.queues.fallback:FallbackQueue.done:before",
    "tidings.queues.fallback:FallbackQueue.done:after",
]


@dataclass(frozen=True)
class Case:
    """One run."""

    people: int
    kills: int
    seed: int


async def run(case: Case, scene: Scene, figures: Figures, **more: str) -> float:
    """Kill one of two workers again and again, by the progress of the sending. Returns how long the end took, in s."""
    moments = random.Random(case.seed)
    # an answer takes a moment, so that every blow hits sends in flight
    await scene.push.control.behave(Rule(delay_ms=20))
    async with scene.fleet("api", "worker", "worker", **more) as (api, *workers):
        notification = await notify(api)
        for kill in range(case.kills):
            await _sent(scene, round(case.people * (kill + moments.random()) / (case.kills + 1)), workers)
            victim = moments.choice(workers)
            await victim.kill()
            if kill < case.kills - 1:
                await victim.start()
        last = time.monotonic()
        # the last one stays dead: the other takes over what it had
        assert await all_final(api, notification, within=150) == {"delivered": case.people}
        after = time.monotonic() - last
        for worker in workers:
            assert not worker.running or await worker.stop() == 0
    books = await scene.books()
    figures("duplicates", f"{books.duplicates}, promised ≤ {case.kills * TWICE_AT_MOST}")
    figures("seconds from the last kill to the end", round(after, 1))
    books.check(scene.people, at_most_twice=case.kills * TWICE_AT_MOST)
    return after


async def _sent(scene: Scene, number: int, workers: list[Member]) -> None:
    """Return once so many messages were taken, or the workers stand still because the rest is held by dead ones."""
    seen: list[int] = []

    async def enough() -> bool:
        seen.append((await scene.push.control.stats()).accepted)
        stands_still = len(seen) > 40 and len(set(seen[-40:])) == 1
        return seen[-1] >= number or stands_still

    await eventually(enough, within=120, pause=0.05)


async def test_a_worker_that_is_killed_is_stood_in_for(stage: Stage, faster: dict[str, str], figures: Figures) -> None:
    await run(Case(600, 2, 1), await stage(600), figures, **faster)


@pytest.mark.long
async def test_nobody_is_lost_in_twenty_kills(stage: Stage, figures: Figures) -> None:
    after = await run(Case(10_000, 20, 2), await stage(10_000), figures)
    # a lease of 60 s, and a sweep
    assert after < 60 + 15 + 30


@pytest.mark.long
async def test_what_a_dead_worker_had_comes_back_within_seventy_seconds(stage: Stage, figures: Figures) -> None:
    scene = await stage(1000)
    await scene.push.control.behave(Rule(delay_ms=20))
    async with scene.fleet("api", "worker", "worker", TIDINGS_LEASE_SECONDS="30") as (api, victim, _):
        notification = await notify(api)
        await scene.taken(300)
        await victim.kill()
        killed = time.monotonic()
        assert await all_final(api, notification) == {"delivered": 1000}
        took = time.monotonic() - killed
        figures("seconds until all was sent", round(took, 1))
        assert took < 70
    (await scene.books()).check(scene.people, at_most_twice=TWICE_AT_MOST)


@pytest.mark.long
async def test_both_workers_at_once_and_the_queue_with_them(
    stage: Stage, faster: dict[str, str], figures: Figures
) -> None:
    scene = await stage(1000)
    await scene.push.control.behave(Rule(delay_ms=20))
    async with scene.fleet("api", "worker", "worker", **faster) as (api, *workers):
        notification = await notify(api)
        await scene.taken(300)
        await asyncio.gather(*(worker.kill() for worker in workers))
        scene.valkey.kill()
        scene.valkey.start()
        await asyncio.gather(*(worker.start() for worker in workers))
        assert await all_final(api, notification) == {"delivered": 1000}
    books = await scene.books()
    figures("duplicates", f"{books.duplicates}, promised ≤ {2 * TWICE_AT_MOST}")
    books.check(scene.people, at_most_twice=2 * TWICE_AT_MOST)


@pytest.mark.long
@pytest.mark.parametrize("place", PLACES)
async def test_a_worker_that_dies_at_any_step_is_stood_in_for(
    stage: Stage, faster: dict[str, str], figures: Figures, place: str
) -> None:
    scene = await stage(200)
    async with scene.fleet("api") as (api,), scene.member("worker", **faster, CHAOS_EXIT=place) as doomed:
        notification = await notify(api)
        await eventually(lambda: _ended(doomed), within=60)
        async with scene.fleet("worker", **faster):
            assert await all_final(api, notification) == {"delivered": 200}
    books = await scene.books()
    figures("duplicates", f"{books.duplicates}, promised ≤ {TWICE_AT_MOST}")
    books.check(scene.people, at_most_twice=TWICE_AT_MOST)


async def _ended(worker: Member) -> bool:
    return not worker.running
