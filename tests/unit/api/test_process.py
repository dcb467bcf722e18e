"""Due work on demand, decided: who may call how often, and what is said where nobody here sends (M22)."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from tidings.api.host import ApiHost
from tidings.api.process import POST_RATE, PUT_RATE, Runs
from tidings.model.ids import new_id
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind

PATH = "/api/notifications/process"


async def test_where_nobody_sends_it_is_left_to_those_who_do(call: Any) -> None:
    reply = await call("POST", PATH)
    assert (reply.status, reply.json["status"]) == (202, "left_to_workers")
    assert (reply.json["tasks"], reply.json["batches"], reply.json["redriven"]) == (0, 0, 0)
    refused = await call("PUT", PATH)
    assert (refused.status, refused.json["code"]) == (409, "sends_elsewhere")
    assert "TIDINGS_REDIS" in refused.json["detail"]


@pytest.mark.parametrize(("method", "rate"), [("POST", POST_RATE), ("PUT", PUT_RATE)])
async def test_each_key_may_ask_so_often(call: Any, method: str, rate: Any) -> None:
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


async def test_what_takes_too_long_is_said_and_counted(call: Any) -> None:
    runtime = call.runtime
    runtime.pipeline.attended = True
    now = runtime.clock.now()
    # a task that nobody takes
    await runtime.queue.publish([Task(new_id(now), TaskKind.DELIVER, new_id(now), Lane.HIGH, now)])
    shown = await Runs(ApiHost(runtime)).to_the_end(within=0.3)
    assert (shown.status, shown.left, shown.sent, shown.failed, shown.retrying) == ("time_out", 1, 0, 0, 0)
    [taken] = await runtime.queue.take(Lane.HIGH, 10)
    going = asyncio.create_task(Runs(ApiHost(runtime)).to_the_end(within=20))
    await asyncio.sleep(0)
    await runtime.queue.done([taken])
    shown = await going
    assert (shown.status, shown.left) == ("done", 0)
