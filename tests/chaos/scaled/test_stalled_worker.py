"""A worker stands still for longer than its lease and wakes up: its outcomes change nothing, everybody ends once."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import pytest

from tidings.testing.mock_push import Rule
from tidings.testing.scene import Scene, all_final, notify
from tidings.testing.server import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

Stage = Callable[..., Awaitable[Scene]]
Figures = Callable[[str, object], None]
PEOPLE = 200
IN_FLIGHT, UNFLUSHED = 50, 50


async def test_a_worker_that_wakes_up_after_its_lease_is_fenced(
    stage: Stage, faster: Mapping[str, str], figures: Figures
) -> None:
    await run(await stage(PEOPLE), faster, figures, seconds=0)


@pytest.mark.long
async def test_a_worker_that_stood_still_for_ninety_seconds_is_fenced(stage: Stage, figures: Figures) -> None:
    await run(await stage(PEOPLE), {}, figures, seconds=90)


async def run(scene: Scene, variables: Mapping[str, str], figures: Figures, *, seconds: float) -> None:
    """Stop one worker until the other has sent everything and at least `seconds` long, then let it go on."""
    # slow enough that sends are in flight when it is stopped, whose answers it finds when it wakes up
    await scene.push.control.behave(Rule(delay_ms=300))
    async with scene.fleet("api", "worker", "worker", **variables) as (api, stalled, _):
        notification = await notify(api)
        await scene.taken(PEOPLE // 8)
        stalled.pause()
        stopped = time.monotonic()
        held = await scene.sql("SELECT count(DISTINCT lease_token) FROM deliveries WHERE state = 'sending'")
        figures("leases held when it was stopped", held[0][0])
        await scene.push.control.behave(Rule(delay_ms=20))
        assert await all_final(api, notification, within=180) == {"delivered": PEOPLE}
        figures("seconds until the other had sent everything", round(time.monotonic() - stopped, 1))
        await asyncio.sleep(max(0.0, seconds - (time.monotonic() - stopped)))
        before = await scene.sql("SELECT id, state, attempts, updated_at FROM deliveries ORDER BY id")
        stalled.resume()
        await eventually(lambda: _says(stalled.log.read_text, "outcomes_fenced"), within=60)
        assert await stalled.stop() == 0
        after = await scene.sql("SELECT id, state, attempts, updated_at FROM deliveries ORDER BY id")
        assert after == before, "a late outcome changed a row"
        assert "Traceback" not in stalled.log_tail()
    books = await scene.books()
    figures("duplicates", f"{books.duplicates}, promised ≤ {IN_FLIGHT + UNFLUSHED}")
    books.check(scene.people, at_most_twice=IN_FLIGHT + UNFLUSHED)


async def _says(read: Callable[[], str], word: str) -> bool:
    return word in read()
