"""Due work on demand: rate limits, timeouts, and processes that do not send."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from tidings.api.routes.process_due import POST_RATE, PUT_RATE, DueWork
from tidings.model.ids import new_id
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind

PATH = "/api/notifications/process"


async def test_a_process_that_does_not_send_leaves_due_work_to_workers(call: Any) -> None:
    reply = await call("POST", PATH)
    assert (reply.status, reply.json["status"]) == (202, "left_to_workers")
    assert (reply.json["tasks"], reply.json["batches"], reply.json["redriven"]) == (0, 0, 0)
    refused = await call("PUT", PATH)
    assert (refused.status, refused.json["code"]) == (409, "sends_elsewhere")
    assert "TIDINGS_REDIS" in refused.json["detail"]


@pytest.mark.parametrize(("method", "rate"), [("POST", POST_RATE), ("PUT", PUT_RATE)])
async def test_each_key_has_a_rate_limit(call: Any, method: str, rate: Any) -> None:
    for number in range(rate.calls):
        reply = await call(method, PATH)
        assert reply.status != 429
        assert reply.headers["ratelimit-limit"] == str(rate.calls)
        assert reply.headers["ratelimit-remaining"] == str(rate.calls - number - 1)
    over = await call(method, PATH)
    assert (over.status, over.json["code"]) == (429, "rate_limited")
    assert 1 <= int(over.headers["retry-after"]) <= rate.period / rate.calls
    call.clock.time += timedelta(seconds=int(over.headers["retry-after"]))
    assert (await call(method, PATH)).status != 429


async def test_a_timeout_is_reported_with_counts(call: Any) -> None:
    runtime = call.runtime
    runtime.pipeline.has_local_consumer = True
    now = runtime.clock.now()
    # a task without a consumer
    await runtime.queue.publish([Task(new_id(now), TaskKind.DELIVER, new_id(now), Lane.HIGH, now)])
    counts = await DueWork(runtime).process(within=0.3)
    assert (counts.status, counts.left, counts.sent, counts.failed, counts.retrying) == ("time_out", 1, 0, 0, 0)
    [task] = await runtime.queue.receive(Lane.HIGH, 10)
    running = asyncio.create_task(DueWork(runtime).process(within=20))
    await asyncio.sleep(0)
    await runtime.queue.ack([task])
    counts = await running
    assert (counts.status, counts.left) == ("done", 0)
