"""Health checks report faults with figures and within a time limit. Metrics report the system's status."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tidings.api.health import checks
from tidings.errors import BackendError
from tidings.model.alert import AlertName
from tidings.model.ids import new_id
from tidings.observability import system_status
from tidings.observability.alerts import AlertRegistry
from tidings.ports.operations import Process

BODY = {"audience": {"kind": "everyone"}, "templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "You"}}


async def hang(*_: object, **__: object) -> None:
    await asyncio.Event().wait()


async def fail(*_: object) -> None:
    raise BackendError("the queue does not answer")


async def beat(call: Any, kind: str, **detail: object) -> Process:
    """Store a heartbeat of a process at the current time."""
    now = call.clock.now()
    process = Process(new_id(now), kind, "host", 1, started_at=now, seen_at=now, detail=detail)
    async with call.runtime.store.transaction() as tx:
        await call.runtime.store.processes.heartbeat(tx, process)
    return process


@pytest.mark.parametrize("url", ["/health/live", "/health/ready", "/health/queue"])
async def test_a_new_server_is_healthy(call: Any, url: str) -> None:
    reply = await call("GET", url, key=None)
    assert (reply.status, reply.json["status"]) == (200, "ok")


async def test_a_hanging_database_does_not_hang_the_health_routes(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_status, "QUERY_TIMEOUT", 0.05)
    monkeypatch.setattr(call.runtime.store, "ping", hang)
    monkeypatch.setattr(call.runtime.store.outbox, "next_due_at", hang)
    assert (await call("GET", "/health/live", key=None)).status == 200
    ready = await call("GET", "/health/ready", key=None)
    assert (ready.status, ready.json["status"]) == (503, "unavailable")
    assert ready.json["database"] == "the database did not answer within 0.05 s"
    queue = await call("GET", "/health/queue", key=None)
    problem = "the database did not answer within 0.05 s"
    assert (queue.status, queue.json["status"], queue.json["problem"]) == (503, "unknown", problem)
    assert queue.json["behindSeconds"] is None
    monkeypatch.setattr(call.runtime.store.processes, "list_alive", hang)
    worker = await call("GET", "/health/worker", key=None)
    assert (worker.status, worker.json) == (503, {"status": "unknown", "problem": problem, "workers": [], "alerts": []})
    call.runtime.pipeline.has_local_consumer = True
    worker = await call("GET", "/health/worker", key=None)
    assert (worker.status, worker.json) == (200, {"status": "ok", "problem": problem, "workers": [], "alerts": []})
    text = (await call("GET", "/metrics", key=None)).body.decode()
    assert 'tidings_up{backend="database"} 0.0' in text
    assert 'tidings_up{backend="queue"} 1.0' in text, "which is another matter"


async def test_a_slow_count_does_not_hide_other_checks(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await beat(call, "worker")
    monkeypatch.setattr(system_status, "QUERY_TIMEOUT", 0.5)
    monkeypatch.setattr(call.runtime.store.dead_letters, "count", hang)
    text = (await call("GET", "/metrics", key=None)).body.decode()
    assert 'tidings_up{backend="database"} 1.0' in text
    assert 'tidings_processes{kind="worker"} 1.0' in text
    assert "tidings_dead_letters" not in text


async def test_a_queue_that_only_responds_to_pings_is_down(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call.runtime.queue, "stats", fail)
    text = (await call("GET", "/metrics", key=None)).body.decode()
    assert 'tidings_up{backend="database"} 1.0' in text
    assert 'tidings_up{backend="queue"} 0.0' in text


async def test_without_the_queue_requests_are_served(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call.runtime.queue, "ping", fail)
    ready = await call("GET", "/health/ready", key=None)
    assert (ready.status, ready.json["status"], ready.json["queue"]) == (200, "degraded", "the queue does not answer")
    queue = await call("GET", "/health/queue", key=None)
    assert (queue.status, queue.json["status"], queue.json["lanes"]) == (503, "away", [])
    text = (await call("GET", "/metrics", key=None)).body.decode()
    assert 'tidings_up{backend="database"} 1.0' in text
    assert 'tidings_up{backend="queue"} 0.0' in text


async def test_an_outdated_schema_is_not_ready(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = await call.runtime.store.schema_status()

    async def statuses(current: str | None) -> Any:
        return [replace(found, current_revision=current)]

    monkeypatch.setattr(call.runtime.store, "schema_statuses", lambda: statuses("0001"))
    ready = await call("GET", "/health/ready", key=None)
    assert (ready.status, ready.json["migrations"]) == (503, f"the database has schema 0001, not {found.head_revision}")
    # during a rolling upgrade, processes of the old version see a newer schema
    monkeypatch.setattr(call.runtime.store, "schema_statuses", lambda: statuses("9999"))
    assert (await call("GET", "/health/ready", key=None)).status == 200


async def test_a_full_disk_is_not_ready(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_free_bytes", lambda _: 1000)
    ready = await call("GET", "/health/ready", key=None)
    assert ready.status == 503
    assert ready.json["disk"].startswith("1000 bytes are free at ")


async def test_work_without_a_worker_is_reported(call: Any) -> None:
    await call("POST", "/api/notifications", json=BODY)
    call.clock.time += timedelta(seconds=60)
    assert (await call("GET", "/health/queue", key=None)).status == 200
    call.clock.time += timedelta(seconds=1)
    reply = await call("GET", "/health/queue", key=None)
    assert (reply.status, reply.json["status"], reply.json["behindSeconds"]) == (503, "behind", 61.0)
    assert "tidings_outbox_age_seconds 61.0" in (await call("GET", "/metrics", key=None)).body.decode()


async def test_lanes_are_reported_separately(call: Any) -> None:
    await call("POST", "/api/notifications", json={**BODY, "options": {"priority": "urgent"}})
    await call.runtime.pipeline.outbox_relay.relay()
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
    assert (reply.status, reply.json) == (503, {"status": "none", "problem": None, "workers": [], "alerts": []})


async def test_one_worker_is_enough(call: Any) -> None:
    well, stuck = await beat(call, "worker", roundAge=0.4), await beat(call, "worker", roundAge=31.0)
    reply = await call("GET", "/health/worker", key=None)
    assert (reply.status, reply.json["status"]) == (200, "ok")
    assert {one["id"]: one["stuck"] for one in reply.json["workers"]} == {well.id: False, stuck.id: True}
    text = (await call("GET", "/metrics", key=None)).body.decode()
    assert 'tidings_processes{kind="worker"} 2.0' in text
    assert "tidings_workers_stuck 1.0" in text


async def test_stuck_workers_do_not_count(call: Any) -> None:
    await beat(call, "worker", roundAge=31.0)
    reply = await call("GET", "/health/worker", key=None)
    assert (reply.status, reply.json["status"]) == (503, "stuck")


async def test_a_worker_without_a_heartbeat_for_half_a_minute_does_not_count(call: Any) -> None:
    await beat(call, "worker", roundAge=0.4)
    call.clock.time += timedelta(seconds=30)
    assert (await call("GET", "/health/worker", key=None)).status == 200
    call.clock.time += timedelta(seconds=1)
    assert (await call("GET", "/health/worker", key=None)).status == 503


async def test_a_sending_process_reports_its_own_health(call: Any) -> None:
    await beat(call, "worker", roundAge=0.4)
    call.runtime.pipeline.has_local_consumer = True
    call.runtime.pipeline.last_tick_at = call.clock.now()
    assert (await call("GET", "/health/worker", key=None)).status == 200
    call.clock.time += timedelta(seconds=31)
    reply = await call("GET", "/health/worker", key=None)
    assert (reply.status, reply.json["status"]) == (503, "stuck")


async def test_metrics_do_not_query_the_database_on_each_request(call: Any) -> None:
    await call("GET", "/metrics", key=None)
    before = call.runtime.store.statement_count
    for _ in range(10):
        await call("GET", "/metrics", key=None)
    assert call.runtime.store.statement_count == before


async def test_health_does_not_reveal_host_names(call: Any) -> None:
    await beat(call, "worker", roundAge=0.4)
    assert set((await call("GET", "/health/worker", key=None)).json["workers"][0]) == {
        "id",
        "kind",
        "seenSecondsAgo",
        "stuck",
        "detail",
    }


async def test_an_alert_of_another_process_is_listed_until_it_is_resolved(call: Any) -> None:
    worker = AlertRegistry(call.clock)
    worker.raise_alert(AlertName.PUSH_TOKEN_REFUSED, "https://push.example", "it refuses this server's token")
    await beat(call, "worker", roundAge=0.4)
    await merge_alerts(call, worker, call.runtime.alerts)
    reply = await call("GET", "/health/worker", key=None)
    assert (reply.status, reply.json["status"]) == (200, "degraded"), "a restart of the worker would not help"
    [alert] = reply.json["alerts"]
    assert (alert["name"], alert["subject"]) == ("push_token_refused", "https://push.example")
    assert alert["detail"] == "it refuses this server's token"
    assert alert["since"] == alert["seenAt"]
    text = (await call("GET", "/metrics", key=None)).body.decode()
    assert 'tidings_alerts{alert="push_token_refused"} 1.0' in text
    assert 'tidings_alerts{alert="clock_off"} 0.0' in text, "each alert has a series"
    worker.resolve_alert(AlertName.PUSH_TOKEN_REFUSED, "https://push.example")
    await merge_alerts(call, worker, call.runtime.alerts)
    reply = await call("GET", "/health/worker", key=None)
    assert (reply.json["status"], reply.json["alerts"]) == ("ok", [])


async def merge_alerts(call: Any, *registries: AlertRegistry) -> None:
    for registry in registries:
        async with call.runtime.store.transaction() as tx:
            await registry.merge(call.runtime.store, tx)
