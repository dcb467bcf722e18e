"""One push host hangs or answers a byte a second: the other gets its messages as fast as before, and none is lost."""

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from tidings.testing.fleet import Member
from tidings.testing.mock_push import Rule
from tidings.testing.scene import TO_ALL, Scene, all_final, notify
from tidings.testing.server import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

Stage = Callable[..., Awaitable[Scene]]
Figures = Callable[[str, object], None]
HANGS, DRIPS = Rule(hang=True), Rule(drip=True)
#: an answer takes this long, so that places and not processors decide how fast it goes
ANSWERS_IN_MS = 250


async def test_a_host_that_hangs_holds_up_no_other_and_its_messages_expire(stage: Stage, figures: Figures) -> None:
    scene = await stage(400, hosts=2)
    well, gone = scene.pushes
    await gone.control.behave(HANGS)
    async with scene.fleet("api", "worker", "worker") as (api, *_):
        expires = datetime.now(UTC) + timedelta(seconds=8)
        notification = await notify(api, {**TO_ALL, "options": {"expiresAt": expires.isoformat()}})
        # asked until the end of its time, and then given up
        assert await all_final(api, notification, within=60) == {"delivered": 200, "expired": 200}
        sent, tried = await well.control.stats(), await gone.control.stats()
    assert sent.first_at is not None
    assert sent.last_at is not None
    figures("seconds for the messages of the other host", round(sent.last_at - sent.first_at, 1))
    figures("tries at the host that hangs", tried.received)
    books = await scene.books()
    books.check_counts()
    assert {device for device, _ in books.receipts} == set(scene.people[::2])
    assert books.duplicates == 0
    # it is left alone, not hammered
    assert tried.received < 200


@pytest.mark.long
@pytest.mark.parametrize("harm", [HANGS, DRIPS], ids=["hangs", "drips-a-byte-a-second"])
async def test_the_other_host_keeps_nine_tenths_of_its_rate(stage: Stage, figures: Figures, harm: Rule) -> None:
    scene = await stage(6000, hosts=2)
    async with scene.fleet("api", "worker", "worker") as (api, *_):
        # once so that the workers know both hosts; and once more at the end, as others may use this machine
        await _rate(scene, api)
        usual = await _rate(scene, api)
        await _fresh(scene, Rule(delay_ms=ANSWERS_IN_MS), harm)
        notification = await notify(api)
        await scene.push.control.wait_for(timeout=300, accepted=3000)
        harmed = await _measured(scene)
        mended = time.monotonic()
        await scene.pushes[1].control.behave()
        assert await all_final(api, notification, within=300) == {"delivered": 6000}
        figures("seconds from its return to the end", round(time.monotonic() - mended, 1))
        books = await scene.books()
        usual = min(usual, await _rate(scene, api))
    _told(figures, usual, harmed)
    assert harmed >= 0.9 * usual
    books.check_counts()
    assert {device for device, _ in books.receipts} == set(scene.people)
    # a host that takes a message and does not say so in time gets it again
    figures("duplicates", books.duplicates)
    assert (books.duplicates == 0) or harm.drip


@pytest.mark.long
async def test_one_device_that_hangs_is_not_its_hosts_fault(stage: Stage, figures: Figures) -> None:
    scene = await stage(400)
    await scene.push.control.behave(Rule(hang=True, device="u00100", times=1), Rule(delay_ms=ANSWERS_IN_MS))
    async with scene.fleet("api", "worker") as (api, _):
        notification = await notify(api)
        started = time.monotonic()
        await scene.push.control.wait_for(timeout=60, accepted=399)
        figures("seconds until all others had theirs", round(time.monotonic() - started, 1))
        assert await all_final(api, notification, within=60) == {"delivered": 400}
        figures("seconds until it had its own", round(time.monotonic() - started, 1))
    (await scene.books()).check(scene.people)


async def _rate(scene: Scene, api: Member) -> float:
    """Return messages a second of the first host while both are well."""
    await _fresh(scene, *[Rule(delay_ms=ANSWERS_IN_MS)] * 2)
    assert set(await all_final(api, await notify(api), within=300)) == {"delivered"}
    return await _measured(scene)


async def _fresh(scene: Scene, *rules: Rule) -> None:
    """Begin new books at the push services, and have each behave by one rule."""
    await eventually(lambda: _all_final(scene))
    await scene.sql("TRUNCATE notifications, deliveries, attempts, skips, outbox")
    for push, rule in zip(scene.pushes, rules, strict=True):
        await push.control.reset()
        await push.control.behave(rule)


async def _all_final(scene: Scene) -> bool:
    return not await scene.sql("SELECT 1 FROM outbox UNION ALL SELECT 1 FROM deliveries WHERE lease_until IS NOT NULL")


async def _measured(scene: Scene) -> float:
    stats = await scene.push.control.stats()
    assert stats.first_at is not None
    assert stats.last_at is not None
    return stats.accepted / (stats.last_at - stats.first_at)


def _told(figures: Figures, usual: float, harmed: float) -> None:
    figures("messages a second, both well", round(usual))
    figures("messages a second, the other host gone", f"{harmed:.0f} ({harmed / usual:.0%})")
