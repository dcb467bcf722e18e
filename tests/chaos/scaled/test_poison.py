"""What kills its worker each time is taken aside after three deaths; the others get theirs; it can be sent again."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tidings.testing.fleet import Member
from tidings.testing.scene import Scene, all_final, notify
from tidings.testing.server import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

Stage = Callable[..., Awaitable[Scene]]
Figures = Callable[[str, object], None]
PEOPLE = 60
POISON = "u00037"
DEATHS = 3
IN_FLIGHT, UNFLUSHED = 50, 50
QUARANTINED = "quarantined: 3 workers died while sending it"


async def test_poison_is_taken_aside_and_can_be_replayed(
    stage: Stage, faster: Mapping[str, str], figures: Figures
) -> None:
    await run(await stage(PEOPLE), faster, figures, within=60)


@pytest.mark.long
async def test_poison_is_taken_aside_with_leases_as_they_are(
    stage: Stage, hooked: Mapping[str, str], figures: Figures
) -> None:
    await run(await stage(PEOPLE), {**hooked, "TIDINGS_LEASE_SECONDS": "30"}, figures, within=300)


async def run(scene: Scene, variables: Mapping[str, str], figures: Figures, *, within: float) -> None:
    """Let workers die of one delivery, and be started again as a supervisor would."""
    ((target,),) = await scene.sql("SELECT id::text FROM push_subscriptions WHERE user_id = $1", POISON)
    deaths: list[Member] = []
    async with AsyncExitStack() as stack:
        (api,) = await stack.enter_async_context(scene.fleet("api"))
        workers = [scene.member("worker", **variables, CHAOS_POISON=target) for _ in range(2)]
        supervisors = [asyncio.create_task(_supervised(worker, deaths)) for worker in workers]
        try:
            notification = await notify(api)
            states = await all_final(api, notification, within=within)
        finally:
            for supervisor in supervisors:
                supervisor.cancel()
            await asyncio.gather(*supervisors, return_exceptions=True)
        assert states == {"delivered": PEOPLE - 1, "refused": 1}
        figures("workers that died", len(deaths))
        assert len(deaths) == DEATHS
        first = await scene.books()
        assert POISON not in {device for device, _ in first.receipts}
        figures("duplicates", f"{first.duplicates}, promised ≤ {DEATHS * (IN_FLIGHT + UNFLUSHED)}")
        assert first.duplicates <= DEATHS * (IN_FLIGHT + UNFLUSHED)
        (dead,) = (await api.expect(200, "GET", "/api/dead-letters")).read(dict[str, Any])["items"]
        assert (dead["userId"], dead["error"], dead["crashes"]) == (POISON, QUARANTINED, DEATHS)
        # once its cause is mended it is sent again
        await stack.enter_async_context(scene.fleet("worker"))
        await api.expect(202, "POST", "/api/dead-letters/replay", {"ids": [dead["id"]]})
        await eventually(lambda: _all_delivered(scene), within=60)
    books = await scene.books()
    books.check(scene.people, at_most_twice=DEATHS * (IN_FLIGHT + UNFLUSHED))
    assert books.duplicates == first.duplicates


async def _supervised(worker: Member, deaths: list[Member]) -> None:
    """Start a worker again whenever it ends; kill it when cancelled."""
    try:
        while True:
            await worker.start()
            await eventually(lambda: _ended(worker), within=600)
            deaths.append(worker)
    finally:
        if worker.running:
            await worker.kill()


async def _ended(worker: Member) -> bool:
    return not worker.running


async def _all_delivered(scene: Scene) -> bool:
    return (await scene.books()).states == {"delivered": PEOPLE}
