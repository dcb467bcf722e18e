"""Requests accepted together: a result for each, few statements, and planning at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tidings.errors import ValidationFailed
from tidings.flow.fanout.fan_out import MAX_INLINE_RECIPIENTS, MAX_SMALL_AUDIENCE
from tidings.flow.fanout.limits import RateLimitPolicy
from tidings.model.audience import everyone, users
from tidings.model.notification import Notification, NotificationState
from tidings.model.priority import Priority
from tidings.model.request import NotifyRequest
from tidings.model.task import TaskKind
from tidings.testing.contracts.samples import NOW

if TYPE_CHECKING:
    from tests.unit.conftest import Process


async def _accepted(process: Process, requests: Sequence[NotifyRequest]) -> list[Notification]:
    async with process.store.transaction() as tx:
        accepted = await process.pipeline.accept_many(tx, requests)
    return [one for one in accepted if isinstance(one, Notification)]


async def test_each_request_gets_its_own_result_in_order(process: Process) -> None:
    await process.add_users("ana", "ben")
    wrong = replace(process.build_request(users("ana")), template_code="NEWZ")
    strange = process.build_request(users("ana", "nobody", "no one"))
    requests = [
        process.build_request(users("ana")),
        wrong,
        strange,
        process.build_request(users("ana", "ben")),
        process.build_request(everyone()),
    ]
    async with process.store.transaction() as tx:
        accepted = await process.pipeline.accept_many(tx, requests)
    assert [type(one) for one in accepted] == [
        Notification,
        ValidationFailed,
        ValidationFailed,
        Notification,
        Notification,
    ]
    assert [one.code for one in accepted if isinstance(one, ValidationFailed)] == ["unknown_template", "unknown_user"]
    assert isinstance(accepted[2], ValidationFailed)
    assert "'nobody', 'no one'" in accepted[2].message
    assert "ana" not in accepted[2].message
    async with process.store.read_snapshot() as tx:
        stored = await process.store.notifications.list_page(tx, before=None, limit=10)
    assert [one.id for one in stored] == [one.id for one in reversed(accepted) if isinstance(one, Notification)]


async def test_many_take_as_many_statements_as_one(process: Process) -> None:
    await process.add_users("ana")

    async def statements(count: int) -> int:
        before = process.store.statement_count
        async with process.store.transaction() as tx:
            await process.pipeline.accept_many(tx, [process.build_request(users("ana"))] * count)
        return process.store.statement_count - before

    assert await statements(100) == await statements(1)


async def test_an_empty_list_makes_no_statement(process: Process) -> None:
    async with process.store.transaction() as tx:
        assert await process.pipeline.accept_many(tx, []) == []


async def test_a_single_wrong_request_raises(process: Process) -> None:
    with pytest.raises(ValidationFailed, match="no such user: 'nobody'"):
        await process.submit("nobody")


async def test_tasks_of_one_transaction_are_published_together_after_the_commit(process: Process) -> None:
    await process.add_users("ana")
    async with process.store.transaction() as tx:
        accepted = await process.pipeline.accept_many(tx, [process.build_request(everyone())] * 3)
        assert process.queue.published == []
    assert [task.ref for task in process.queue.published] == [
        one.id for one in accepted if isinstance(one, Notification)
    ]


async def test_a_notification_to_a_few_users_is_planned_when_it_is_accepted(process: Process) -> None:
    await process.add_users("ana", "ben", "cem")
    requests = [
        process.build_request(users("ana", "ben")),
        process.build_request(users("cem")),
        process.build_request(users("ana"), "DUTY"),
    ]
    accepted = await _accepted(process, requests)
    assert [one.state for one in accepted] == [NotificationState.ACCEPTED] * 3, "as it is answered"
    assert [await process.count_by_state(one) for one in accepted] == [{"pending": 2}, {"pending": 1}, {"pending": 1}]
    [task] = process.queue.published
    assert task.kind is TaskKind.DELIVER, "one batch carries them all"
    async with process.store.read_snapshot() as tx:
        assert await process.store.notifications.list_open(tx, after=None, limit=10) == []
        assert await process.store.outbox.list_due(tx, process.clock.now(), 10) == [task], "until the queue has it"
    await process.process_queue()
    assert [await process.count_by_state(one) for one in accepted] == [
        {"delivered": 2},
        {"delivered": 1},
        {"delivered": 1},
    ]


async def test_lanes_do_not_share_batches(process: Process) -> None:
    await process.add_users("ana")
    urgent = replace(process.build_request(users("ana")), priority=Priority.URGENT)
    await _accepted(process, [process.build_request(users("ana")), urgent])
    assert sorted((task.kind, task.lane) for task in process.queue.published) == [
        (TaskKind.DELIVER, Priority.HIGH),
        (TaskKind.DELIVER, Priority.URGENT),
    ]


async def test_planned_deliveries_that_were_not_published_are_relayed_from_the_outbox(process: Process) -> None:
    await process.add_users("ana")
    process.queue.is_unavailable = True
    [accepted] = await _accepted(process, [process.build_request(users("ana"))])
    process.queue.is_unavailable = False
    process.clock.advance(3)
    assert await process.pipeline.outbox_relay.relay() == 1
    await process.process_queue()
    assert await process.count_by_state(accepted) == {"delivered": 1}


async def test_large_scheduled_and_queried_audiences_are_planned_by_a_worker(process: Process) -> None:
    names = [f"user-{number:03}" for number in range(MAX_SMALL_AUDIENCE + 1)]
    await process.add_users(*names)
    requests = [
        process.build_request(users(*names)),
        process.build_request(everyone()),
        replace(process.build_request(users(names[0])), send_at=NOW + timedelta(seconds=1)),
    ]
    accepted = await _accepted(process, requests)
    assert [await process.count_by_state(one) for one in accepted] == [{}] * 3
    assert [task.kind for task in process.queue.published] == [TaskKind.FAN_OUT] * 2


async def test_the_number_of_recipients_planned_inline_is_bounded(process: Process) -> None:
    names = [f"user-{number:03}" for number in range(MAX_SMALL_AUDIENCE)]
    await process.add_users(*names)
    accepted = await _accepted(process, [process.build_request(users(*names))] * 3)
    assert [await process.count_by_state(one) for one in accepted] == [{"pending": MAX_INLINE_RECIPIENTS // 2}] * 2 + [
        {}
    ]
    await process.process_queue()
    assert [await process.count_by_state(one) for one in accepted] == [{"delivered": MAX_SMALL_AUDIENCE}] * 3


async def test_rate_limits_apply_to_inline_planning(start: Callable[..., Process]) -> None:
    process = start(limits=RateLimitPolicy(per_user=2))
    await process.add_users("ana", "ben")
    accepted = await _accepted(
        process, [process.build_request(users("ana")), process.build_request(users("ana", "ben"))] * 2
    )
    counts = [await process.get_counts(one) for one in accepted]
    assert [(one.recipients, one.deliveries, one.skipped) for one in counts] == [
        (1, 1, 0),
        (2, 2, 0),
        (1, 0, 1),
        (2, 1, 1),
    ]


async def test_urgent_notifications_are_not_planned_with_rate_limited_ones(start: Callable[..., Process]) -> None:
    process = start(limits=RateLimitPolicy(per_user=2))
    await process.add_users("ana")
    urgent = replace(process.build_request(users("ana")), priority=Priority.URGENT)
    accepted = await _accepted(
        process, [process.build_request(users("ana")), urgent, process.build_request(users("ana"), "DUTY")]
    )
    assert [await process.count_by_state(one) for one in accepted] == [{}, {"pending": 1}, {"pending": 1}]
    await process.process_queue()
    assert [await process.count_by_state(one) for one in accepted] == [{"delivered": 1}] * 3


async def test_nothing_is_planned_in_an_adopted_transaction(process: Process) -> None:
    await process.add_users("ana")
    async with process.store.transaction() as tx:
        accepted = await process.pipeline.accept(tx, process.build_request(users("ana")))
    assert [(task.kind, task.ref) for task in process.queue.published] == [(TaskKind.FAN_OUT, accepted.id)]


async def test_scheduled_notifications_wait_in_the_outbox(process: Process) -> None:
    await process.add_users("ana")
    later = replace(process.build_request(users("ana")), send_at=NOW + timedelta(hours=1))
    notification = await process.pipeline.submit(later)
    assert await process.pipeline.outbox_relay.relay() == 0
    process.clock.advance(timedelta(hours=1))
    assert await process.pipeline.outbox_relay.relay() == 1
    assert [task.ref for task in process.queue.published] == [notification.id]


async def test_a_process_without_a_worker_publishes_on_a_shared_queue_only(start: Callable[..., Process]) -> None:
    api = start()
    api.pipeline.has_local_consumer = False
    await api.add_users("ana")
    notification = await api.submit("ana")
    assert [task.ref for task in api.queue.published] == [notification.id]
    api.queue.is_shared = False
    await api.submit("ana")
    assert len(api.queue.published) == 1, "this queue has no consumer"
