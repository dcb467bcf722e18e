"""Redis forgets all, hangs, stops or comes back with an old state: nobody is lost, and nobody restarts anything."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import pytest

from tidings.testing.fleet import Member
from tidings.testing.mock_push import Rule
from tidings.testing.scene import Scene, all_final, healthy, notify, to_one, waiting
from tidings.testing.server import eventually
from tidings.testing.valkey import ValkeyServer

pytestmark = pytest.mark.asyncio(loop_scope="session")

Stage = Callable[..., Awaitable[Scene]]
Figures = Callable[[str, object], None]
PEOPLE = 600
#: small, so that most of a broadcast is in the queue and not in the hands of the workers
BATCH = {"TIDINGS_BATCH_SIZE": "5"}


def flush(valkey: ValkeyServer) -> None:
    valkey.flush()


def kill_and_restart_empty(valkey: ValkeyServer) -> None:
    valkey.kill()
    valkey.start()


@pytest.mark.parametrize("blow", [flush, kill_and_restart_empty], ids=lambda blow: blow.__name__)
async def test_everything_is_lost_at_half_way(
    stage: Stage, figures: Figures, blow: Callable[[ValkeyServer], None]
) -> None:
    await _lost(await stage(PEOPLE), figures, [blow])


@pytest.mark.long
async def test_everything_is_lost_again_and_again(stage: Stage, figures: Figures) -> None:
    await _lost(await stage(10_000), figures, [flush, kill_and_restart_empty] * 3)


async def _lost(scene: Scene, figures: Figures, blows: Sequence[Callable[[ValkeyServer], None]]) -> None:
    people = len(scene.people)
    await scene.push.control.behave(Rule(delay_ms=20))
    async with scene.fleet("api", "worker", "worker", **BATCH) as (api, *workers):
        pids = [member.pid for member in (api, *workers)]
        notification = await notify(api)
        lost, refilled = [], []
        for number, blow in enumerate(blows, 1):
            await scene.taken(people * number // (2 * len(blows)))
            lost.append(await waiting(api))
            told = _times_told_again(workers)
            blow(scene.valkey)
            struck = time.monotonic()
            await eventually(partial(_told_more_often, workers, told), within=70)
            refilled.append(round(time.monotonic() - struck, 1))
        assert await all_final(api, notification) == {"delivered": people}
        assert [member.pid for member in (api, *workers)] == pids
        assert all(member.running for member in (api, *workers))
    figures("tasks lost", lost)
    figures("seconds until refilled", refilled)
    assert max(lost) > 0
    assert max(refilled) < 60
    # nobody died, so nothing is sent twice
    (await scene.books()).check(scene.people)


def _times_told_again(workers: Sequence[Member]) -> int:
    return sum(worker.log.read_text().count('"queue_forgot"') for worker in workers)


async def _told_more_often(workers: Sequence[Member], told: int) -> bool:
    return _times_told_again(workers) > told


async def test_redis_hangs_and_work_goes_on(stage: Stage, figures: Figures) -> None:
    await _away(await stage(PEOPLE), figures, ValkeyServer.pause, ValkeyServer.resume, seconds=0)


@pytest.mark.long
async def test_redis_is_stopped_and_work_goes_on(stage: Stage, figures: Figures) -> None:
    await _away(await stage(PEOPLE), figures, ValkeyServer.kill, ValkeyServer.start, seconds=0)


@pytest.mark.long
@pytest.mark.parametrize(
    ("strike", "mend"),
    [(ValkeyServer.pause, ValkeyServer.resume), (ValkeyServer.kill, ValkeyServer.start)],
    ids=["hangs", "is-stopped"],
)
async def test_redis_is_away_for_three_minutes(
    stage: Stage,
    figures: Figures,
    strike: Callable[[ValkeyServer], None],
    mend: Callable[[ValkeyServer], None],
) -> None:
    await _away(await stage(PEOPLE), figures, strike, mend, seconds=180)


async def _away(
    scene: Scene,
    figures: Figures,
    strike: Callable[[ValkeyServer], None],
    mend: Callable[[ValkeyServer], None],
    *,
    seconds: float,
) -> None:
    """Take Redis away in the middle of a broadcast for as long as it takes and at least `seconds`; bring it back."""
    await scene.push.control.behave(Rule(delay_ms=20))
    async with scene.fleet("api", "worker", "worker", **BATCH) as fleet:
        api, pids = fleet[0], [member.pid for member in fleet]
        broadcast = await notify(api)
        await scene.taken(PEOPLE // 3)
        strike(scene.valkey)
        struck = time.monotonic()
        accepts, arrivals = [], []
        told = 0
        while told < 3 or time.monotonic() - struck < seconds:
            asked = time.monotonic()
            one = await notify(api, to_one(scene.people[told]))
            accepts.append(time.monotonic() - asked)
            assert await all_final(api, one) == {"delivered": 1}
            arrivals.append(time.monotonic() - asked)
            told += 1
            if told > 3:
                await asyncio.sleep(5)
        # Also what the queue holds and nobody can fetch is sent, from the database; sooner than it would count as lost.
        assert await all_final(api, broadcast, within=30) == {"delivered": PEOPLE}
        figures("seconds without Redis", round(time.monotonic() - struck, 1))
        await healthy(api, "/health/ready")
        mend(scene.valkey)
        mended = time.monotonic()
        await healthy(api, "/health/queue")
        figures("seconds until it was noticed", round(time.monotonic() - mended, 1))
        last = await notify(api, to_one(scene.people[told]))
        assert await all_final(api, last) == {"delivered": 1}
        assert await all_final(api, broadcast, within=120) == {"delivered": PEOPLE}
        _nobody_was_restarted(fleet, pids)
    figures("seconds to accept meanwhile", _range(accepts))
    figures("seconds to arrive meanwhile", _range(arrivals))
    assert max(accepts) < 5
    books = await scene.books()
    books.check_counts()
    assert books.states == {"delivered": PEOPLE + told + 1}
    assert len(books.receipts) == PEOPLE + told + 1
    assert books.duplicates == 0


async def test_redis_comes_back_with_an_old_state(stage: Stage, faster: Mapping[str, str], figures: Figures) -> None:
    """What was done since is handed out again, and finds nothing to do."""
    await _rolled_back(await stage(PEOPLE), figures, faster, forget=False)


@pytest.mark.long
async def test_redis_comes_back_with_an_old_state_and_has_forgotten_work(stage: Stage, figures: Figures) -> None:
    """What was added since is told again from the database, after a minute."""
    await _rolled_back(await stage(PEOPLE), figures, {}, forget=True)


async def _rolled_back(scene: Scene, figures: Figures, variables: Mapping[str, str], *, forget: bool) -> None:
    await scene.push.control.behave(Rule(delay_ms=20))
    async with scene.fleet("api", "worker", "worker", **BATCH, **variables) as fleet:
        api, *workers = fleet
        pids = [member.pid for member in fleet]
        first = await notify(api)
        await scene.taken(PEOPLE // 4)
        snapshot = scene.valkey.snapshot()
        wanted: Mapping[str, int] = {"delivered": PEOPLE}
        assert await all_final(api, first) == wanted
        second = await notify(api)
        if forget:
            await scene.taken(PEOPLE + PEOPLE // 4)
        else:
            assert await all_final(api, second) == wanted
        # while the workers stand still it can be seen what comes back
        for worker in workers:
            worker.pause()
        scene.valkey.kill()
        scene.valkey.restore(snapshot)
        scene.valkey.start()
        figures("tasks handed out again", replayed := await _waiting_again(api))
        assert replayed > 0
        for worker in workers:
            worker.resume()
        assert await all_final(api, second, within=180) == wanted
        await eventually(lambda: _is_empty(api), within=120, pause=0.2)
        _nobody_was_restarted(fleet, pids)
    books = await scene.books()
    figures("duplicates", books.duplicates)
    books.check(scene.people, notifications=2)


async def _waiting_again(api: Member) -> int:
    await healthy(api, "/health/queue")
    return await waiting(api)


async def _is_empty(api: Member) -> bool:
    return await waiting(api) == 0


def _nobody_was_restarted(fleet: Sequence[Member], pids: Sequence[int]) -> None:
    assert all(member.running for member in fleet)
    assert [member.pid for member in fleet] == pids
    for member in fleet:
        assert "Traceback" not in member.log_tail()


def _range(seconds: Sequence[float]) -> str:
    return f"{min(seconds):.2f} to {max(seconds):.2f}"
