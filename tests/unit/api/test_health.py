"""Health says what is wrong, with figures, in time; metrics show how the system stands."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tidings.api import health_checks
from tidings.errors import BackendError
from tidings.insight import standing
from tidings.model.ids import new_id
from tidings.ports.operations import Process

BODY = {"audience": {"kind": "everyone"}, "templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "You"}}


async def never(*_: object, **__: object) -> None:
    await asyncio.Event().wait()


async def away(*_: object) -> None:
    raise BackendError("the queue does not answer")


async def beat(call: Any, kind: str, **detail: object) -> Process:
    """Let a process have been seen now."""
    now = call.clock.now()
    process = Process(new_id(now), kind, "host", 1, started_at=now, seen_at=now, detail=detail)
    async with call.runtime.store.begin() as tx:
        await call.runtime.store.processes.beat(tx, process)
    return process


@pytest.mark.parametrize("url", ["/health/live", "/health/ready", "/health/queue"])
async def test_a_new_server_is_well(call: Any, url: str) -> None:
    reply = await call("GET", url, key=None)
    assert (reply.status, reply.json["status"]) == (200, "ok")


async def test_a_hung_database_hangs_nobody(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "ANSWERS_WITHIN", 0.05)
    monkeypatch.setattr(call.runtime.store, "ping", never)
    monkeypatch.setattr(call.runtime.store.outbox, "next_due", never)
    assert (await call("GET", "/health/live", key=None)).status == 200
    ready = await call("GET", "/health/ready", key=None)
    assert (ready.status, ready.json["status"]) == (503, "unavailable")
    assert ready.json["database"] == "the database did not answer within 0.05 s"
    queue = await call("GET", "/health/queue", key=None)
    problem = "the database did not answer within 0.05 s"
    assert (queue.status, queue.json["status"], queue.json["problem"]) == (503, "unknown", problem)
    assert queue.json["behindSeconds"] is None
    monkeypatch.setattr(call.runtime.store.processes, "seen", never)
    worker = await call("GET", "/health/worker", key=None)
    assert (worker.status, worker.json) == (503, {"status": "unknown", "problem": problem, "workers": []})
    call.runtime.pipeline.attended = True
    worker = await call("GET", "/health/worker", key=None)
    assert (worker.status, worker.json) == (200, {"status": "ok", "problem": problem, "workers": []})
    text = (await call("GET", "/metrics", key=None)).body.decode()
    assert 'tidings_up{backend="database"} 0.0' in text
    assert 'tidings_up{backend="queue"} 1.0' in text, "which is another matter"


async def test_a_slow_count_hides_nothing_else(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await beat(call, "worker")
    monkeypatch.setattr(standing, "ANSWERS_WITHIN", 0.5)
    monkeypatch.setattr(call.runtime.store.dead_letters, "count", never)
    text = (await call("GET", "/metrics", key=None)).body.decode()
    assert 'tidings_up{backend="database"} 1.0' in text
    assert 'tidings_processes{kind="worker"} 1.0' in text
    assert "tidings_dead_letters" not in text


async def test_a_queue_that_only_answers_pings_is_not_up(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call.runtime.queue, "stats", away)
    text = (await call("GET", "/metrics", key=None)).body.decode()
    assert 'tidings_up{backend="database"} 1.0' in text
    assert 'tidings_up{backend="queue"} 0.0' in text


async def test_without_the_queue_requests_are_served(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call.runtime.queue, "ping", away)
    ready = await call("GET", "/health/ready", key=None)
    assert (ready.status, ready.json["status"], ready.json["queue"]) == (200, "degraded", "the queue does not answer")
    queue = await call("GET", "/health/queue", key=None)
    assert (queue.status, queue.json["status"], queue.json["lanes"]) == (503, "away", [])
    text = (await call("GET", "/metrics", key=None)).body.decode()
    assert 'tidings_up{backend="database"} 1.0' in text
    assert 'tidings_up{backend="queue"} 0.0' in text


async def test_a_schema_that_is_behind_is_not_ready(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = await call.runtime.store.schema_status()

    async def status(current: str | None) -> Any:
        return replace(found, current=current)

    monkeypatch.setattr(call.runtime.store, "schema_status", lambda: status("0001"))
    ready = await call("GET", "/health/ready", key=None)
    assert (ready.status, ready.json["migrations"]) == (503, f"the database has schema 0001, not {found.head}")
    # a newer one is what processes of the old version see during a rolling upgrade
    monkeypatch.setattr(call.runtime.store, "schema_status", lambda: status("9999"))
    assert (await call("GET", "/health/ready", key=None)).status == 200


async def test_a_full_disk_is_not_ready(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_checks, "_free", lambda _: 1000)
    ready = await call("GET", "/health/ready", key=None)
    assert ready.status == 503
    assert ready.json["disk"].startswith("1000 bytes are free at ")


async def test_work_that_nobody_does_is_noticed(call: Any) -> None:
    await call("POST", "/api/notifications", json=BODY)
    call.clock.time += timedelta(seconds=60)
    assert (await call("GET", "/health/queue", key=None)).status == 200
    call.clock.time += timedelta(seconds=1)
    reply = await call("GET", "/health/queue", key=None)
    assert (reply.status, reply.json["status"], reply.json["behindSeconds"]) == (503, "behind", 61.0)
    assert "tidings_outbox_age_seconds 61.0" in (await call("GET", "/metrics", key=None)).body.decode()


async def test_lanes_are_told_apart(call: Any) -> None:
    await call("POST", "/api/notifications", json={**BODY, "options": {"priority": "urgent"}})
    await call.runtime.pipeline.dispatch()
    call.clock.time += timedelta(seconds=61)
    reply = await call("GET", "/health/queue", key=None)
    lanes = {lane["lane"]: (lane["waiting"], lane["behindSeconds"]) for lane in reply.json["lanes"]}
    assert lanes == {"urgent": (1, 61.0), "high": (0, 0.0), "normal": (0, 0.0), "low": (0, 0.0)}
    assert reply.status == 503
    text = (await call("GET", "/metrics", key=None)).body.decode()
    assert 'tidings_queue_oldest_seconds{lane="urgent"} 61.0' in text


async def test_without_any_worker_nothing_is_sent(call: Any) -> None:
    await beat(call, "api")
    reply = await call("GET", "/health/worker", key=None)
    assert (reply.status, reply.json) == (503, {"status": "none", "problem": None, "workers": []})


async def test_one_worker_is_enough(call: Any) -> None:
    well, stuck = await beat(call, "worker", roundAge=0.4), await beat(call, "worker", roundAge=31.0)
    reply = await call("GET", "/health/worker", key=None)
    assert (reply.status, reply.json["status"]) == (200, "ok")
    assert {one["id"]: one["stuck"] for one in reply.json["workers"]} == {well.id: False, stuck.id: True}
    text = (await call("GET", "/metrics", key=None)).body.decode()
    assert 'tidings_processes{kind="worker"} 2.0' in text
    assert "tidings_workers_stuck 1.0" in text


async def test_workers_that_are_all_stuck_are_none(call: Any) -> None:
    await beat(call, "worker", roundAge=31.0)
    reply = await call("GET", "/health/worker", key=None)
    assert (reply.status, reply.json["status"]) == (503, "stuck")


async def test_a_worker_that_was_not_seen_for_half_a_minute_is_gone(call: Any) -> None:
    await beat(call, "worker", roundAge=0.4)
    call.clock.time += timedelta(seconds=30)
    assert (await call("GET", "/health/worker", key=None)).status == 200
    call.clock.time += timedelta(seconds=1)
    assert (await call("GET", "/health/worker", key=None)).status == 503


async def test_a_process_that_sends_answers_for_itself(call: Any) -> None:
    await beat(call, "worker", roundAge=0.4)
    call.runtime.pipeline.attended = True
    call.runtime.pipeline.last_round = call.clock.now()
    assert (await call("GET", "/health/worker", key=None)).status == 200
    call.clock.time += timedelta(seconds=31)
    reply = await call("GET", "/health/worker", key=None)
    assert (reply.status, reply.json["status"]) == (503, "stuck")


async def test_who_polls_metrics_does_not_poll_the_database(call: Any) -> None:
    await call("GET", "/metrics", key=None)
    before = call.runtime.store.statements
    for _ in range(10):
        await call("GET", "/metrics", key=None)
    assert call.runtime.store.statements == before


async def test_nothing_in_it_says_where_the_processes_are(call: Any) -> None:
    await beat(call, "worker", roundAge=0.4)
    assert set((await call("GET", "/health/worker", key=None)).json["workers"][0]) == {
        "id",
        "kind",
        "seenSecondsAgo",
        "stuck",
        "detail",
    }
