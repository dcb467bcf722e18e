"""One lane: what waits goes together, what must go alone goes alone, and one bad task takes no other along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tidings.errors import BackendError
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind
from tidings.worker.consume import AFTER_FAILURE, FAN_OUTS_AT_ONCE, Consumer

if TYPE_CHECKING:
    from tests.unit.flow.conftest import Process


class Steps:
    """Stands in for the pipeline's steps: notes who came together, and goes on when told."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.alone: list[str] = []
        self.urgent_alone: list[str] = []
        self.bad: dict[str, Exception] = {}
        self.open_ = asyncio.Event()
        self.open_.set()

    async def many(self, refs: Sequence[str], *_sender: object, urgent: bool = False) -> list[Task]:
        self.groups.append(list(refs))
        await self.open_.wait()
        for ref in refs:
            if ref in self.bad:
                raise self.bad[ref]
        return []

    async def one(self, ref: str, *_sender: object, urgent: bool = False) -> None:
        self.alone.append(ref)
        if urgent:
            self.urgent_alone.append(ref)
        await self.open_.wait()


@pytest.fixture
def steps(process: Process, monkeypatch: pytest.MonkeyPatch) -> Steps:
    found = Steps()
    monkeypatch.setattr(process.pipeline, "fan_out_many", found.many)
    monkeypatch.setattr(process.pipeline, "deliver", found.many)
    monkeypatch.setattr(process.pipeline, "deliver_alone", found.one)
    return found


@asynccontextmanager
async def _consuming(process: Process, lane: Lane = Lane.HIGH) -> AsyncIterator[asyncio.Task[None]]:
    running = asyncio.create_task(Consumer(lane, process.pipeline, process.sender).run())
    yield running
    await process.queue.close()
    async with asyncio.timeout(5):
        await running


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.001)


def _tasks(process: Process, kind: TaskKind, *refs: str) -> list[Task]:
    return [Task(ref, kind, ref, Lane.HIGH, process.clock.now()) for ref in refs]


async def test_a_task_on_a_quiet_lane_goes_at_once(process: Process, steps: Steps) -> None:
    async with _consuming(process):
        for ref in ("a", "b"):
            await process.queue.publish(_tasks(process, TaskKind.FAN_OUT, ref))
            await _until(lambda ref=ref: [ref] in steps.groups)  # type: ignore[misc]
        await _until(lambda: len(process.queue.finished) == 2)


async def test_fan_outs_that_wait_for_a_place_go_together(process: Process, steps: Steps) -> None:
    steps.open_.clear()
    first = [f"first-{number}" for number in range(FAN_OUTS_AT_ONCE)]
    rest = [f"rest-{number}" for number in range(40)]
    async with _consuming(process):
        for ref in first:
            await process.queue.publish(_tasks(process, TaskKind.FAN_OUT, ref))
            await _until(lambda ref=ref: [ref] in steps.groups)  # type: ignore[misc]
        await process.queue.publish(_tasks(process, TaskKind.FAN_OUT, *rest))
        async with asyncio.timeout(5):
            while (await process.queue.stats(Lane.HIGH)).waiting:
                await asyncio.sleep(0.001)
        steps.open_.set()
        await _until(lambda: len(process.queue.finished) == len(first) + len(rest))
    assert steps.groups[len(first)] == rest


@pytest.mark.parametrize("lane", [Lane.HIGH, Lane.URGENT])
async def test_what_goes_alone_is_urgent_on_the_urgent_lane_only(process: Process, steps: Steps, lane: Lane) -> None:
    async with _consuming(process, lane):
        await process.queue.publish([Task("one", TaskKind.DELIVER_ALONE, "one", lane, process.clock.now())])
        await _until(lambda: steps.alone == ["one"])
    assert steps.urgent_alone == (["one"] if lane is Lane.URGENT else [])


async def test_the_following_pages_go_to_the_end_of_the_lane(
    process: Process, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    [following] = _tasks(process, TaskKind.DELIVER, "next")

    async def with_more(_refs: Sequence[str]) -> list[Task]:
        return [following]

    monkeypatch.setattr(process.pipeline, "fan_out_many", with_more)
    async with _consuming(process):
        await process.queue.publish(_tasks(process, TaskKind.FAN_OUT, "a"))
        await _until(lambda: steps.groups == [["next"]])


async def test_those_that_must_go_alone_hold_up_nobody(process: Process, steps: Steps) -> None:
    suspects = [f"suspect-{number}" for number in range(20)]
    steps.open_.clear()
    async with _consuming(process):
        await process.queue.publish(_tasks(process, TaskKind.DELIVER_ALONE, *suspects))
        await process.queue.publish(_tasks(process, TaskKind.DELIVER, "batch"))
        await _until(lambda: steps.groups == [["batch"]])
        assert steps.alone == suspects[:1]
        steps.open_.set()
        await _until(lambda: steps.alone == suspects)


async def test_one_bad_task_takes_no_other_along(process: Process, steps: Steps) -> None:
    steps.bad["bad"] = RuntimeError("a bug")
    async with _consuming(process):
        await process.queue.publish(_tasks(process, TaskKind.DELIVER, "a", "bad", "b"))
        await _until(lambda: len(process.queue.finished) == 2)
    assert [task.ref for task in process.queue.finished] == ["a", "b"]
    [(task, at, why)] = process.queue.given_back
    assert (task.ref, at, why) == ("bad", process.clock.now() + AFTER_FAILURE, "RuntimeError: a bug")


async def test_while_the_database_is_away_all_are_tried_again_later(process: Process, steps: Steps) -> None:
    steps.bad["a"] = BackendError("the database does not answer")
    async with _consuming(process):
        await process.queue.publish(_tasks(process, TaskKind.DELIVER, "a", "b"))
        await _until(lambda: len(process.queue.given_back) == 2)
    assert steps.groups == [["a", "b"]], "not one by one: it is nobody's fault"


async def test_at_a_stop_what_has_not_begun_is_given_back(process: Process, steps: Steps) -> None:
    suspects = ["one", "two", "three"]
    steps.open_.clear()
    async with _consuming(process) as running:
        await process.queue.publish(_tasks(process, TaskKind.DELIVER_ALONE, *suspects))
        await _until(lambda: steps.alone == ["one"])
        await process.queue.close()
        await _until(lambda: len(process.queue.given_back) == 2)
        assert not running.done(), "what has begun ends in order"
        steps.open_.set()
    assert [task.ref for task, _, _ in process.queue.given_back] == ["two", "three"]
    assert [task.ref for task in process.queue.finished] == ["one"]


async def test_urgent_batches_do_not_wait_for_a_shared_queue_and_it_has_them_all_the_same(
    process: Process, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Task("batch", TaskKind.DELIVER, "batch", Lane.URGENT, process.clock.now())

    async def planned(_refs: Sequence[str], announced: Callable[[Sequence[Task]], None], *, urgent: bool) -> list[Task]:
        assert urgent
        announced([batch])
        return []

    monkeypatch.setattr(process.queue, "shared", True)
    monkeypatch.setattr(process.pipeline, "fan_out_many", planned)
    async with _consuming(process, Lane.URGENT):
        await process.queue.publish([Task("plan", TaskKind.FAN_OUT, "plan", Lane.URGENT, process.clock.now())])
        await _until(lambda: steps.groups == [["batch"]])
        await process.queue.publish([batch])
        await _until(lambda: steps.groups == [["batch"], ["batch"]])
        assert (await process.queue.stats(Lane.URGENT)).failed == 0


async def test_what_could_not_be_sent_at_once_is_told_again_as_others_may_have_found_it_held(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Task("batch", TaskKind.DELIVER, "batch", Lane.URGENT, process.clock.now())
    tries: list[Sequence[str]] = []

    async def planned(_refs: Sequence[str], announced: Callable[[Sequence[Task]], None], *, urgent: bool) -> list[Task]:
        # another process has been told of the batch, found it held, and is done with it: here the queue has it not
        announced([batch])
        return []

    async def broken_off_once(refs: Sequence[str], *_sender: object, urgent: bool) -> None:
        tries.append(refs)
        if len(tries) == 1:
            raise BackendError("the claim was broken off")

    monkeypatch.setattr(process.queue, "shared", True)
    monkeypatch.setattr(process.pipeline, "fan_out_many", planned)
    monkeypatch.setattr(process.pipeline, "deliver", broken_off_once)
    async with _consuming(process, Lane.URGENT):
        await process.queue.publish([Task("plan", TaskKind.FAN_OUT, "plan", Lane.URGENT, process.clock.now())])
        await _until(lambda: tries == [["batch"], ["batch"]])
