"""Calls that share a transaction: who runs with whom, and what each caller gets."""

import asyncio
from collections.abc import Sequence

import pytest

from tidings.errors import BackendError, Conflict, Invalid, TidingsError
from tidings.flow.intake.groups import Groups


class Work:
    """Notes the groups, and waits at a gate while it is shut. A call `bad…` is refused, `bug…` raises."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def __call__(self, calls: Sequence[str]) -> Sequence[str | TidingsError]:
        self.groups.append(list(calls))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        if any(call.startswith("bug") for call in calls):
            raise ZeroDivisionError(",".join(calls))
        return [Conflict(call) if call.startswith("bad") else call.upper() for call in calls]


async def _turns(count: int = 5) -> None:
    """Let everything that can go on go on."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_lone_call_runs_at_once() -> None:
    work = Work()
    groups: Groups[str, str] = Groups(work, running=1)
    assert await groups("a") == "A"
    assert await groups("b") == "B"
    assert work.groups == [["a"], ["b"]]


async def test_calls_that_come_in_the_same_turn_share_a_group() -> None:
    work = Work()
    groups: Groups[str, str] = Groups(work, running=1)
    assert await asyncio.gather(*(groups(name) for name in "abc")) == ["A", "B", "C"]
    assert work.groups == [["a", "b", "c"]]


async def test_who_comes_while_a_group_runs_waits_and_shares_the_next_in_order() -> None:
    work = Work()
    work.gate.clear()
    groups: Groups[str, str] = Groups(work, running=1)
    calls = [asyncio.create_task(groups("a"))]
    await _turns()
    for name in ("b", "c", "d"):
        calls.append(asyncio.create_task(groups(name)))
        await _turns()
    assert work.groups == [["a"]]
    work.gate.set()
    assert await asyncio.gather(*calls) == ["A", "B", "C", "D"]
    assert work.groups == [["a"], ["b", "c", "d"]]


async def test_groups_have_a_largest_size_and_a_call_beyond_it_runs_alone() -> None:
    work = Work()
    groups: Groups[str, str] = Groups(work, running=1, most=4, size=len)
    names = ["aa", "bb", "c", "dddddd", "e"]
    assert await asyncio.gather(*(groups(name) for name in names)) == [name.upper() for name in names]
    assert work.groups == [["aa", "bb"], ["c"], ["dddddd"], ["e"]]


async def test_several_groups_run_at_a_time_and_no_more() -> None:
    work = Work()
    work.gate.clear()
    groups: Groups[str, str] = Groups(work, running=2, most=1)
    calls = [asyncio.create_task(groups(name)) for name in "abc"]
    await _turns()
    assert work.groups == [["a"], ["b"]]
    work.gate.set()
    assert await asyncio.gather(*calls) == ["A", "B", "C"]


async def test_calls_to_be_kept_apart_run_one_after_the_other_and_hold_up_nobody_else() -> None:
    work = Work()
    work.gate.clear()
    groups: Groups[str, str] = Groups(work, running=2, apart=lambda call: call[0] if call[0] != "x" else None)
    calls = [asyncio.create_task(groups(name)) for name in ("a1", "a2", "x1", "b1", "x2")]
    await _turns()
    assert work.groups == [["a1", "x1", "b1", "x2"]]
    calls += [asyncio.create_task(groups(name)) for name in ("b2", "c1")]
    await _turns()
    assert work.groups[1:] == [["c1"]]
    work.gate.set()
    await asyncio.gather(*calls)
    assert work.groups[2:] == [["a2", "b2"]]


async def test_each_caller_gets_its_own_error() -> None:
    groups: Groups[str, str] = Groups(Work(), running=1)
    results = await asyncio.gather(groups("a"), groups("bad1"), groups("b"), groups("bad2"), return_exceptions=True)
    assert [results[0], results[2]] == ["A", "B"]
    assert [str(one) for one in results if isinstance(one, Conflict)] == ["bad1", "bad2"]


async def test_an_unforeseen_error_fails_only_the_call_that_causes_it() -> None:
    work = Work()
    groups: Groups[str, str] = Groups(work, running=1)
    results = await asyncio.gather(*(groups(name) for name in ("a", "bug", "b")), return_exceptions=True)
    assert results[0::2] == ["A", "B"]
    assert isinstance(results[1], ZeroDivisionError)
    assert work.groups == [["a", "bug", "b"], ["a"], ["bug"], ["b"]]


async def test_an_error_that_the_work_raises_on_purpose_may_be_of_one_call_too() -> None:
    work = Work()
    groups: Groups[str, str] = Groups(work, running=1)
    work.error = Invalid("one of them cannot be stored")
    results = await asyncio.gather(groups("a"), groups("b"), return_exceptions=True)
    assert [type(one) for one in results] == [Invalid, Invalid]
    assert work.groups == [["a", "b"], ["a"], ["b"]]


async def test_a_backend_that_is_away_is_told_to_all_without_another_try() -> None:
    work = Work()
    work.error = BackendError("the database does not answer")
    groups: Groups[str, str] = Groups(work, running=1)
    results = await asyncio.gather(*(groups(name) for name in "abc"), return_exceptions=True)
    assert [type(one) for one in results] == [BackendError] * 3
    assert work.groups == [["a", "b", "c"]]
    work.error = None
    assert await groups("d") == "D"


async def test_a_caller_that_goes_away_before_its_turn_is_left_out() -> None:
    work = Work()
    work.gate.clear()
    groups: Groups[str, str] = Groups(work, running=1)
    calls = [asyncio.create_task(groups("a"))]
    await _turns()
    calls += [asyncio.create_task(groups(name)) for name in ("b", "c")]
    await _turns()
    calls[1].cancel()
    await _turns()
    work.gate.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert (results[0], results[2]) == ("A", "C")
    assert work.groups == [["a"], ["c"]]


@pytest.mark.parametrize("error", [None, BackendError("away"), ZeroDivisionError()])
async def test_a_caller_that_goes_away_while_its_group_runs_breaks_nothing(error: Exception | None) -> None:
    work = Work()
    work.gate.clear()
    groups: Groups[str, str] = Groups(work, running=1, apart=lambda call: call)
    calls = [asyncio.create_task(groups(name)) for name in "ab"]
    await _turns()
    calls[0].cancel()
    await _turns()
    work.error = error
    work.gate.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1] == ("B" if error is None else error)
    work.error = None
    # its place and its value are free again
    assert await groups("a") == "A"


async def test_stopping_in_the_middle_leaves_no_caller_waiting() -> None:
    work = Work()
    work.gate.clear()
    groups: Groups[str, str] = Groups(work, running=1)
    call = asyncio.create_task(groups("a"))
    await _turns()
    for task in asyncio.all_tasks() - {asyncio.current_task(), call}:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
