"""Sends that hang are waited for, but do not keep more than one claim open, and that only until the next begins."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tidings.flow.deliver import stragglers as module
from tidings.flow.deliver.stragglers import Runner, Stragglers


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.02)
    monkeypatch.setattr(module, "_LOOK", 0.01)


class Line:
    """Claims whose sends hang until they are answered."""

    def __init__(self) -> None:
        self.stragglers = Stragglers()
        self.answer = asyncio.Event()
        self.ended: list[str] = []
        self.broken_off: list[str] = []
        self._claims: list[asyncio.Task[None]] = []

    def claim(self, *names: str, hangs: bool = True) -> asyncio.Task[None]:
        runners = [Runner() for _ in names]
        works = [(runner, self._send(name, runner, hangs)) for name, runner in zip(names, runners, strict=True)]
        claim = asyncio.create_task(self.stragglers.until_done(works, self._all_begun))
        self._claims.append(claim)
        return claim

    async def close(self) -> None:
        self.answer.set()
        await asyncio.gather(*self._claims, return_exceptions=True)

    async def _all_begun(self) -> bool:
        return True

    async def _send(self, name: str, runner: Runner, hangs: bool) -> None:
        runner.since = asyncio.get_running_loop().time()
        try:
            if hangs:
                await self.answer.wait()
        except asyncio.CancelledError:
            self.broken_off.append(name)
            raise
        self.ended.append(name)


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    made = Line()
    yield made
    await made.close()


async def still_open(claim: asyncio.Task[None]) -> bool:
    _, pending = await asyncio.wait([claim], timeout=0.1)
    return bool(pending)


async def test_a_lone_claim_waits_for_all_it_began(line: Line) -> None:
    claim = line.claim("slow", "slower")
    assert await still_open(claim)
    line.answer.set()
    await claim
    assert sorted(line.ended) == ["slow", "slower"]


async def test_a_claim_hands_what_hangs_to_the_next_and_ends(line: Line) -> None:
    first = line.claim("slow")
    assert await still_open(first)
    second = line.claim("quick", hangs=False)
    await asyncio.wait_for(first, 5)
    assert line.ended == ["quick"]
    assert await still_open(second), "the last one waits for everybody's"
    line.answer.set()
    await asyncio.wait_for(second, 5)
    assert line.ended == ["quick", "slow"]


async def test_of_many_claims_that_hang_only_one_stays_open(line: Line) -> None:
    claims = [line.claim(f"slow-{number}") for number in range(5)]
    _, pending = await asyncio.wait(claims, timeout=0.3)
    assert len(pending) == 1


async def test_the_last_to_be_broken_off_breaks_off_what_it_took_over(line: Line) -> None:
    first = line.claim("slow")
    assert await still_open(first)
    second = line.claim("slower")
    await asyncio.wait_for(first, 5)
    assert await still_open(second)
    second.cancel()
    await asyncio.wait([second])
    assert sorted(line.broken_off) == ["slow", "slower"]


async def test_a_bug_ends_the_claim_and_the_rest_of_it(line: Line) -> None:
    async def wrong() -> None:
        raise KeyError("a bug")

    async def all_begun() -> bool:
        return True

    other = Runner()
    works = [(other, line._send("other", other, True)), (Runner(), wrong())]
    with pytest.raises(KeyError):
        await line.stragglers.until_done(works, all_begun)
    assert line.broken_off == ["other"]
