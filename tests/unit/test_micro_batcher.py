"""Micro-batching: which calls share a group, the result of each call, and waiting calls."""

import asyncio
from collections.abc import Sequence

import pytest

from tidings.errors import BackendError, Conflict, TidingsError, ValidationFailed
from tidings.micro_batcher import BatchingPool, MicroBatcher


class Work:
    """Records the groups, and waits for `unblocked`. A call `bad…` gets an error as its result, `bug…` raises."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.unblocked = asyncio.Event()
        self.unblocked.set()
        self.error: Exception | None = None

    async def __call__(self, calls: Sequence[str]) -> Sequence[str | TidingsError]:
        self.groups.append(list(calls))
        await self.unblocked.wait()
        if self.error is not None:
            raise self.error
        if any(call.startswith("bug") for call in calls):
            raise ZeroDivisionError(",".join(calls))
        return [Conflict(call) if call.startswith("bad") else call.upper() for call in calls]


async def _run_loop(count: int = 5) -> None:
    """Run the event loop until all tasks that can continue have continued."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_lone_call_runs_at_once() -> None:
    work = Work()
    batcher: MicroBatcher[str, str] = MicroBatcher(work, workers=1)
    assert await batcher("a") == "A"
    assert await batcher("b") == "B"
    assert work.groups == [["a"], ["b"]]


async def test_calls_of_one_event_loop_pass_share_a_group() -> None:
    work = Work()
    batcher: MicroBatcher[str, str] = MicroBatcher(work, workers=1)
    assert await asyncio.gather(*(batcher(name) for name in "abc")) == ["A", "B", "C"]
    assert work.groups == [["a", "b", "c"]]


async def test_calls_that_arrive_while_a_group_runs_share_the_next_one_in_order() -> None:
    work = Work()
    work.unblocked.clear()
    batcher: MicroBatcher[str, str] = MicroBatcher(work, workers=1)
    calls = [asyncio.create_task(batcher("a"))]
    await _run_loop()
    for name in ("b", "c", "d"):
        calls.append(asyncio.create_task(batcher(name)))
        await _run_loop()
    assert work.groups == [["a"]]
    work.unblocked.set()
    assert await asyncio.gather(*calls) == ["A", "B", "C", "D"]
    assert work.groups == [["a"], ["b", "c", "d"]]


async def test_groups_have_a_largest_size_and_a_call_beyond_it_runs_alone() -> None:
    work = Work()
    batcher: MicroBatcher[str, str] = MicroBatcher(work, workers=1, max_batch=4, size=len)
    names = ["aa", "bb", "c", "dddddd", "e"]
    assert await asyncio.gather(*(batcher(name) for name in names)) == [name.upper() for name in names]
    assert work.groups == [["aa", "bb"], ["c"], ["dddddd"], ["e"]]


async def test_several_groups_run_at_a_time_and_no_more() -> None:
    work = Work()
    work.unblocked.clear()
    batcher: MicroBatcher[str, str] = MicroBatcher(work, workers=2, max_batch=1)
    calls = [asyncio.create_task(batcher(name)) for name in "abc"]
    await _run_loop()
    assert work.groups == [["a"], ["b"]]
    work.unblocked.set()
    assert await asyncio.gather(*calls) == ["A", "B", "C"]


async def test_calls_with_the_same_exclusive_key_run_one_after_another() -> None:
    work = Work()
    work.unblocked.clear()
    batcher: MicroBatcher[str, str] = MicroBatcher(
        work, workers=2, exclusive_key=lambda call: call[0] if call[0] != "x" else None
    )
    calls = [asyncio.create_task(batcher(name)) for name in ("a1", "a2", "x1", "b1", "x2")]
    await _run_loop()
    assert work.groups == [["a1", "x1", "b1", "x2"]]
    calls += [asyncio.create_task(batcher(name)) for name in ("b2", "c1")]
    await _run_loop()
    assert work.groups[1:] == [["c1"]]
    work.unblocked.set()
    await asyncio.gather(*calls)
    assert work.groups[2:] == [["a2", "b2"]]


async def test_each_caller_gets_its_own_error() -> None:
    batcher: MicroBatcher[str, str] = MicroBatcher(Work(), workers=1)
    results = await asyncio.gather(batcher("a"), batcher("bad1"), batcher("b"), batcher("bad2"), return_exceptions=True)
    assert [results[0], results[2]] == ["A", "B"]
    assert [str(one) for one in results if isinstance(one, Conflict)] == ["bad1", "bad2"]


async def test_an_unforeseen_error_fails_only_the_call_that_causes_it() -> None:
    work = Work()
    batcher: MicroBatcher[str, str] = MicroBatcher(work, workers=1)
    results = await asyncio.gather(*(batcher(name) for name in ("a", "bug", "b")), return_exceptions=True)
    assert results[0::2] == ["A", "B"]
    assert isinstance(results[1], ZeroDivisionError)
    assert work.groups == [["a", "bug", "b"], ["a"], ["bug"], ["b"]]


async def test_an_error_that_the_work_raises_on_purpose_may_be_of_one_call_too() -> None:
    work = Work()
    batcher: MicroBatcher[str, str] = MicroBatcher(work, workers=1)
    work.error = ValidationFailed("one of them cannot be stored")
    results = await asyncio.gather(batcher("a"), batcher("b"), return_exceptions=True)
    assert [type(one) for one in results] == [ValidationFailed, ValidationFailed]
    assert work.groups == [["a", "b"], ["a"], ["b"]]


async def test_an_unavailable_backend_fails_all_calls_without_a_retry() -> None:
    work = Work()
    work.error = BackendError("the database does not answer")
    batcher: MicroBatcher[str, str] = MicroBatcher(work, workers=1)
    results = await asyncio.gather(*(batcher(name) for name in "abc"), return_exceptions=True)
    assert [type(one) for one in results] == [BackendError] * 3
    assert work.groups == [["a", "b", "c"]]
    work.error = None
    assert await batcher("d") == "D"


async def test_a_caller_cancelled_before_its_group_runs_is_left_out() -> None:
    work = Work()
    work.unblocked.clear()
    batcher: MicroBatcher[str, str] = MicroBatcher(work, workers=1)
    calls = [asyncio.create_task(batcher("a"))]
    await _run_loop()
    calls += [asyncio.create_task(batcher(name)) for name in ("b", "c")]
    await _run_loop()
    calls[1].cancel()
    await _run_loop()
    work.unblocked.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert (results[0], results[2]) == ("A", "C")
    assert work.groups == [["a"], ["c"]]


@pytest.mark.parametrize("error", [None, BackendError("away"), ZeroDivisionError()])
async def test_a_caller_cancelled_while_its_group_runs_breaks_nothing(error: Exception | None) -> None:
    work = Work()
    work.unblocked.clear()
    batcher: MicroBatcher[str, str] = MicroBatcher(work, workers=1, exclusive_key=lambda call: call)
    calls = [asyncio.create_task(batcher(name)) for name in "ab"]
    await _run_loop()
    calls[0].cancel()
    await _run_loop()
    work.error = error
    work.unblocked.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1] == ("B" if error is None else error)
    work.error = None
    # its slot and its exclusive key are free again
    assert await batcher("a") == "A"


async def test_stopping_in_the_middle_leaves_no_caller_waiting() -> None:
    work = Work()
    work.unblocked.clear()
    batcher: MicroBatcher[str, str] = MicroBatcher(work, workers=1)
    call = asyncio.create_task(batcher("a"))
    await _run_loop()
    for task in asyncio.all_tasks() - {asyncio.current_task(), call}:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


class Batches:
    """Records the batches, and waits for `unblocked`."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.unblocked = asyncio.Event()

    async def __call__(self, items: Sequence[str]) -> None:
        self.batches.append(list(items))
        await self.unblocked.wait()


async def test_submit_waits_while_the_queue_is_full() -> None:
    work = Batches()
    pool = BatchingPool(work, workers=1, max_batch=2, max_waiting=1)
    await pool.submit("ab")
    await _run_loop()
    first = asyncio.create_task(pool.submit("c"))
    second = asyncio.create_task(pool.submit("de"))
    await _run_loop()
    assert (first.done(), second.done()) == (True, False)
    work.unblocked.set()
    async with asyncio.timeout(5):
        await second
        await pool.join()
    assert work.batches == [["a", "b"], ["c", "d"], ["e"]]


async def test_items_taken_back_are_not_processed_and_unblock_submit() -> None:
    work = Batches()
    pool = BatchingPool(work, workers=1, max_batch=1)
    await pool.submit("a")
    await _run_loop()
    submitting = asyncio.create_task(pool.submit("bc"))
    await _run_loop()
    assert pool.take_back() == ["b", "c"]
    work.unblocked.set()
    async with asyncio.timeout(5):
        await submitting
        await pool.join()
    assert work.batches == [["a"]]


async def test_an_item_added_as_the_last_batch_ends_is_processed() -> None:
    seen: list[str] = []

    async def work(items: Sequence[str]) -> None:
        seen.extend(items)
        # runs after the worker found no further items and ended, and before its end is noticed
        asyncio.get_running_loop().call_soon(pool.add, ["b"] if items == ["a"] else [])

    pool = BatchingPool(work, workers=1, max_batch=1)
    pool.add("a")
    await _run_loop(10)
    assert seen == ["a", "b"]
