"""Slow sends are awaited, but keep at most one claim open."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tidings.flow.deliver import slow_sends as module
from tidings.flow.deliver.slow_sends import SendTask, SlowSendWaiter


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOW_AFTER", 0.02)
    monkeypatch.setattr(module, "_POLL_INTERVAL", 0.01)


class HangingClaims:
    """Claims whose sends hang until `response` is set."""

    def __init__(self) -> None:
        self.waiter = SlowSendWaiter()
        self.response = asyncio.Event()
        self.ended: list[str] = []
        self.cancelled: list[str] = []
        self._claims: list[asyncio.Task[None]] = []

    def claim(self, *names: str, hangs: bool = True) -> asyncio.Task[None]:
        runners = [SendTask() for _ in names]
        sends = [(runner, self._send(name, runner, hangs)) for name, runner in zip(names, runners, strict=True)]
        claim = asyncio.create_task(self.waiter.run_until_done(sends, self._all_started))
        self._claims.append(claim)
        return claim

    async def close(self) -> None:
        self.response.set()
        await asyncio.gather(*self._claims, return_exceptions=True)

    async def _all_started(self) -> bool:
        return True

    async def _send(self, name: str, runner: SendTask, hangs: bool) -> None:
        runner.started_at = asyncio.get_running_loop().time()
        try:
            if hangs:
                await self.response.wait()
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        self.ended.append(name)


@pytest.fixture
async def claims() -> AsyncIterator[HangingClaims]:
    claims_ = HangingClaims()
    yield claims_
    await claims_.close()


async def is_still_open(claim: asyncio.Task[None]) -> bool:
    _, pending = await asyncio.wait([claim], timeout=0.1)
    return bool(pending)


async def test_a_single_claim_waits_for_all_its_sends(claims: HangingClaims) -> None:
    claim = claims.claim("slow", "slower")
    assert await is_still_open(claim)
    claims.response.set()
    await claim
    assert sorted(claims.ended) == ["slow", "slower"]


async def test_a_claim_passes_hanging_sends_to_the_next_and_ends(claims: HangingClaims) -> None:
    first = claims.claim("slow")
    assert await is_still_open(first)
    second = claims.claim("quick", hangs=False)
    await asyncio.wait_for(first, 5)
    assert claims.ended == ["quick"]
    assert await is_still_open(second), "the last claim waits for the sends of all"
    claims.response.set()
    await asyncio.wait_for(second, 5)
    assert claims.ended == ["quick", "slow"]


async def test_of_many_claims_that_hang_only_one_stays_open(claims: HangingClaims) -> None:
    tasks = [claims.claim(f"slow-{number}") for number in range(5)]
    _, pending = await asyncio.wait(tasks, timeout=0.3)
    assert len(pending) == 1


async def test_a_cancelled_claim_cancels_the_sends_it_took_over(claims: HangingClaims) -> None:
    first = claims.claim("slow")
    assert await is_still_open(first)
    second = claims.claim("slower")
    await asyncio.wait_for(first, 5)
    assert await is_still_open(second)
    second.cancel()
    await asyncio.wait([second])
    assert sorted(claims.cancelled) == ["slow", "slower"]


async def test_a_bug_ends_the_claim_and_cancels_its_other_sends(claims: HangingClaims) -> None:
    async def fail() -> None:
        raise KeyError("a bug")

    async def all_started() -> bool:
        return True

    other = SendTask()
    sends = [(other, claims._send("other", other, True)), (SendTask(), fail())]
    with pytest.raises(KeyError):
        await claims.waiter.run_until_done(sends, all_started)
    assert claims.cancelled == ["other"]
