"""The lane consumer: batches, tasks that are processed separately, and isolated failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tidings.backend_health import BackendHealth
from tidings.errors import BackendError
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind
from tidings.worker.lane_consumer import FAILURE_RETRY_DELAY, MAX_CONCURRENT_FAN_OUTS, LaneConsumer

if TYPE_CHECKING:
    from tests.unit.conftest import Process


class FakePipelineSteps:
    """Replaces the pipeline's steps: records the batches, and waits for `unblocked`."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.separate: list[str] = []
        self.urgent_separate: list[str] = []
        self.bad: dict[str, Exception] = {}
        self.unblocked = asyncio.Event()
        self.unblocked.set()

    async def run_batch(self, refs: Sequence[str], *_sender: object, urgent: bool = False) -> list[Task]:
        self.groups.append(list(refs))
        await self.unblocked.wait()
        for ref in refs:
            if ref in self.bad:
                raise self.bad[ref]
        return []

    async def run_one(self, ref: str, *_sender: object, urgent: bool = False) -> None:
        self.separate.append(ref)
        if urgent:
            self.urgent_separate.append(ref)
        await self.unblocked.wait()


@pytest.fixture
def steps(process: Process, monkeypatch: pytest.MonkeyPatch) -> FakePipelineSteps:
    found = FakePipelineSteps()
    monkeypatch.setattr(process.pipeline.fan_out, "plan_next_pages", found.run_batch)
    monkeypatch.setattr(process.pipeline.delivery_runner, "deliver", found.run_batch)
    monkeypatch.setattr(process.pipeline.delivery_runner, "deliver_separately", found.run_one)
    return found


@asynccontextmanager
async def _consuming(process: Process, lane: Lane = Lane.HIGH) -> AsyncIterator[asyncio.Task[None]]:
    running = asyncio.create_task(LaneConsumer(lane, process.pipeline, process.sender, BackendHealth("database")).run())
    yield running
    await process.queue.stop()
    async with asyncio.timeout(5):
        await running


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.001)


def _tasks(process: Process, kind: TaskKind, *refs: str) -> list[Task]:
    return [Task(ref, kind, ref, Lane.HIGH, process.clock.now()) for ref in refs]


async def test_a_task_on_an_idle_lane_is_processed_at_once(process: Process, steps: FakePipelineSteps) -> None:
    async with _consuming(process):
        for ref in ("a", "b"):
            await process.queue.publish(_tasks(process, TaskKind.FAN_OUT, ref))
            await _until(lambda ref=ref: [ref] in steps.groups)  # type: ignore[misc]
        await _until(lambda: len(process.queue.acked) == 2)


async def test_waiting_fan_outs_are_processed_together(process: Process, steps: FakePipelineSteps) -> None:
    steps.unblocked.clear()
    first = [f"first-{number}" for number in range(MAX_CONCURRENT_FAN_OUTS)]
    rest = [f"rest-{number}" for number in range(40)]
    async with _consuming(process):
        for ref in first:
            await process.queue.publish(_tasks(process, TaskKind.FAN_OUT, ref))
            await _until(lambda ref=ref: [ref] in steps.groups)  # type: ignore[misc]
        await process.queue.publish(_tasks(process, TaskKind.FAN_OUT, *rest))
        async with asyncio.timeout(5):
            while (await process.queue.stats(Lane.HIGH)).waiting:
                await asyncio.sleep(0.001)
        steps.unblocked.set()
        await _until(lambda: len(process.queue.acked) == len(first) + len(rest))
    assert steps.groups[len(first)] == rest


@pytest.mark.parametrize("lane", [Lane.HIGH, Lane.URGENT])
async def test_separate_deliveries_are_urgent_on_the_urgent_lane_only(
    process: Process, steps: FakePipelineSteps, lane: Lane
) -> None:
    async with _consuming(process, lane):
        await process.queue.publish([Task("one", TaskKind.DELIVER_ALONE, "one", lane, process.clock.now())])
        await _until(lambda: steps.separate == ["one"])
    assert steps.urgent_separate == (["one"] if lane is Lane.URGENT else [])


async def test_following_pages_are_published_at_the_end_of_the_lane(
    process: Process, steps: FakePipelineSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    [following] = _tasks(process, TaskKind.DELIVER, "next")

    async def with_more(_refs: Sequence[str]) -> list[Task]:
        return [following]

    monkeypatch.setattr(process.pipeline.fan_out, "plan_next_pages", with_more)
    async with _consuming(process):
        await process.queue.publish(_tasks(process, TaskKind.FAN_OUT, "a"))
        await _until(lambda: steps.groups == [["next"]])


async def test_separate_deliveries_do_not_delay_others(process: Process, steps: FakePipelineSteps) -> None:
    suspects = [f"suspect-{number}" for number in range(20)]
    steps.unblocked.clear()
    async with _consuming(process):
        await process.queue.publish(_tasks(process, TaskKind.DELIVER_ALONE, *suspects))
        await process.queue.publish(_tasks(process, TaskKind.DELIVER, "batch"))
        await _until(lambda: steps.groups == [["batch"]])
        assert steps.separate == suspects[:1]
        steps.unblocked.set()
        await _until(lambda: steps.separate == suspects)


async def test_one_failing_task_does_not_affect_others(process: Process, steps: FakePipelineSteps) -> None:
    steps.bad["bad"] = RuntimeError("a bug")
    async with _consuming(process):
        await process.queue.publish(_tasks(process, TaskKind.DELIVER, "a", "bad", "b"))
        await _until(lambda: len(process.queue.acked) == 2)
    assert [task.ref for task in process.queue.acked] == ["a", "b"]
    [(task, at, why)] = process.queue.nacked
    assert (task.ref, at, why) == ("bad", process.clock.now() + FAILURE_RETRY_DELAY, "RuntimeError: a bug")


async def test_all_tasks_are_retried_while_the_database_is_unavailable(
    process: Process, steps: FakePipelineSteps
) -> None:
    steps.bad["a"] = BackendError("the database does not answer")
    async with _consuming(process):
        await process.queue.publish(_tasks(process, TaskKind.DELIVER, "a", "b"))
        await _until(lambda: len(process.queue.nacked) == 2)
    assert steps.groups == [["a", "b"]], "not one by one: no single task is at fault"


async def test_tasks_that_have_not_started_are_returned_on_stop(process: Process, steps: FakePipelineSteps) -> None:
    suspects = ["one", "two", "three"]
    steps.unblocked.clear()
    async with _consuming(process) as running:
        await process.queue.publish(_tasks(process, TaskKind.DELIVER_ALONE, *suspects))
        await _until(lambda: steps.separate == ["one"])
        await process.queue.stop()
        await _until(lambda: len(process.queue.nacked) == 2)
        assert not running.done(), "what has begun ends in order"
        steps.unblocked.set()
    assert [task.ref for task, _, _ in process.queue.nacked] == ["two", "three"]
    assert [task.ref for task in process.queue.acked] == ["one"]


async def test_urgent_batches_are_sent_locally_and_published_as_well(
    process: Process, steps: FakePipelineSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Task("batch", TaskKind.DELIVER, "batch", Lane.URGENT, process.clock.now())

    async def plan(
        _refs: Sequence[str], on_tasks_ready: Callable[[Sequence[Task]], None], *, urgent: bool
    ) -> list[Task]:
        assert urgent
        on_tasks_ready([batch])
        return []

    monkeypatch.setattr(process.queue, "is_shared", True)
    monkeypatch.setattr(process.pipeline.fan_out, "plan_next_pages", plan)
    async with _consuming(process, Lane.URGENT):
        await process.queue.publish([Task("plan", TaskKind.FAN_OUT, "plan", Lane.URGENT, process.clock.now())])
        await _until(lambda: steps.groups == [["batch"]])
        await process.queue.publish([batch])
        await _until(lambda: steps.groups == [["batch"], ["batch"]])
        assert (await process.queue.stats(Lane.URGENT)).failed == 0


async def test_batches_that_could_not_be_sent_locally_are_republished(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Task("batch", TaskKind.DELIVER, "batch", Lane.URGENT, process.clock.now())
    tries: list[Sequence[str]] = []

    async def plan(
        _refs: Sequence[str], on_tasks_ready: Callable[[Sequence[Task]], None], *, urgent: bool
    ) -> list[Task]:
        # another process received the batch's task, found the batch leased and acknowledged the task
        on_tasks_ready([batch])
        return []

    async def fail_once(refs: Sequence[str], *_sender: object, urgent: bool) -> None:
        tries.append(refs)
        if len(tries) == 1:
            raise BackendError("the claim was broken off")

    monkeypatch.setattr(process.queue, "is_shared", True)
    monkeypatch.setattr(process.pipeline.fan_out, "plan_next_pages", plan)
    monkeypatch.setattr(process.pipeline.delivery_runner, "deliver", fail_once)
    async with _consuming(process, Lane.URGENT):
        await process.queue.publish([Task("plan", TaskKind.FAN_OUT, "plan", Lane.URGENT, process.clock.now())])
        await _until(lambda: tries == [["batch"], ["batch"]])
