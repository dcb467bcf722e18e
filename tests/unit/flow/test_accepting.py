"""Requests accepted together: each gets its own answer, all of them in a few statements, and go to work at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tidings.errors import Invalid
from tidings.flow.fan_out import AT_ONCE, SMALL
from tidings.flow.plan.limit import Limits
from tidings.model.audience import everyone, users
from tidings.model.notification import Notification, NotificationState
from tidings.model.priority import Priority
from tidings.model.request import NotifyRequest
from tidings.model.task import TaskKind
from tidings.testing.contracts.samples import NOW

if TYPE_CHECKING:
    from tests.unit.flow.conftest import Process


async def _accepted(process: Process, asked: Sequence[NotifyRequest]) -> list[Notification]:
    async with process.store.begin() as tx:
        made = await process.pipeline.accept_many(tx, asked)
    return [one for one in made if isinstance(one, Notification)]


async def test_each_request_gets_its_own_answer_in_order(process: Process) -> None:
    await process.people("ana", "ben")
    wrong = replace(process.asks(users("ana")), template_code="NEWZ")
    strange = process.asks(users("ana", "nobody", "no one"))
    asked = [process.asks(users("ana")), wrong, strange, process.asks(users("ana", "ben")), process.asks(everyone())]
    async with process.store.begin() as tx:
        made = await process.pipeline.accept_many(tx, asked)
    assert [type(one) for one in made] == [Notification, Invalid, Invalid, Notification, Notification]
    assert [one.code for one in made if isinstance(one, Invalid)] == ["unknown_template", "unknown_user"]
    assert isinstance(made[2], Invalid)
    assert "'nobody', 'no one'" in made[2].message
    assert "ana" not in made[2].message
    async with process.store.read() as tx:
        stored = await process.store.notifications.recent(tx, before=None, limit=10)
    assert [one.id for one in stored] == [one.id for one in reversed(made) if isinstance(one, Notification)]


async def test_many_take_as_many_statements_as_one(process: Process) -> None:
    await process.people("ana")

    async def statements(count: int) -> int:
        before = process.store.statements
        async with process.store.begin() as tx:
            await process.pipeline.accept_many(tx, [process.asks(users("ana"))] * count)
        return process.store.statements - before

    assert await statements(100) == await statements(1)


async def test_nothing_asked_for_is_nothing_done(process: Process) -> None:
    async with process.store.begin() as tx:
        assert await process.pipeline.accept_many(tx, []) == []


async def test_a_single_wrong_request_raises(process: Process) -> None:
    with pytest.raises(Invalid, match="no such user: 'nobody'"):
        await process.tell("nobody")


async def test_what_was_accepted_together_is_published_together_and_only_after_the_commit(process: Process) -> None:
    await process.people("ana")
    async with process.store.begin() as tx:
        made = await process.pipeline.accept_many(tx, [process.asks(everyone())] * 3)
        assert process.queue.told == []
    assert [task.ref for task in process.queue.told] == [one.id for one in made if isinstance(one, Notification)]


async def test_what_goes_to_a_few_named_users_is_planned_as_it_is_accepted(process: Process) -> None:
    await process.people("ana", "ben", "cem")
    asked = [process.asks(users("ana", "ben")), process.asks(users("cem")), process.asks(users("ana"), "DUTY")]
    made = await _accepted(process, asked)
    assert [one.state for one in made] == [NotificationState.ACCEPTED] * 3, "as it is answered"
    assert [await process.states(one) for one in made] == [{"pending": 2}, {"pending": 1}, {"pending": 1}]
    [task] = process.queue.told
    assert task.kind is TaskKind.DELIVER, "one batch carries them all"
    async with process.store.read() as tx:
        assert await process.store.notifications.unplanned(tx, after=None, limit=10) == []
        assert await process.store.outbox.due(tx, process.clock.now(), 10) == [task], "until the queue has it"
    await process.work()
    assert [await process.states(one) for one in made] == [{"delivered": 2}, {"delivered": 1}, {"delivered": 1}]


async def test_its_lanes_do_not_share_batches(process: Process) -> None:
    await process.people("ana")
    urgent = replace(process.asks(users("ana")), priority=Priority.URGENT)
    await _accepted(process, [process.asks(users("ana")), urgent])
    assert sorted((task.kind, task.lane) for task in process.queue.told) == [
        (TaskKind.DELIVER, Priority.HIGH),
        (TaskKind.DELIVER, Priority.URGENT),
    ]


async def test_what_was_planned_and_not_told_is_relayed_from_the_outbox(process: Process) -> None:
    await process.people("ana")
    process.queue.away = True
    [made] = await _accepted(process, [process.asks(users("ana"))])
    process.queue.away = False
    process.clock.advance(3)
    assert await process.pipeline.dispatch() == 1
    await process.work()
    assert await process.states(made) == {"delivered": 1}


async def test_what_is_large_late_or_looked_up_is_planned_by_a_worker(process: Process) -> None:
    names = [f"user-{number:03}" for number in range(SMALL + 1)]
    await process.people(*names)
    asked = [
        process.asks(users(*names)),
        process.asks(everyone()),
        replace(process.asks(users(names[0])), send_at=NOW + timedelta(seconds=1)),
    ]
    made = await _accepted(process, asked)
    assert [await process.states(one) for one in made] == [{}] * 3
    assert [task.kind for task in process.queue.told] == [TaskKind.FAN_OUT] * 2


async def test_only_so_many_are_planned_with_those_accepted_together(process: Process) -> None:
    names = [f"user-{number:03}" for number in range(SMALL)]
    await process.people(*names)
    made = await _accepted(process, [process.asks(users(*names))] * 3)
    assert [await process.states(one) for one in made] == [{"pending": AT_ONCE // 2}] * 2 + [{}]
    await process.work()
    assert [await process.states(one) for one in made] == [{"delivered": SMALL}] * 3


async def test_limits_hold_for_what_is_planned_as_it_is_accepted(start: Callable[..., Process]) -> None:
    process = start(limits=Limits(user=2))
    await process.people("ana", "ben")
    made = await _accepted(process, [process.asks(users("ana")), process.asks(users("ana", "ben"))] * 2)
    counts = [await process.counts(one) for one in made]
    assert [(one.recipients, one.deliveries, one.skipped) for one in counts] == [
        (1, 1, 0),
        (2, 2, 0),
        (1, 0, 1),
        (2, 1, 1),
    ]


async def test_urgent_ones_are_not_accepted_together_with_a_count_for_limits(start: Callable[..., Process]) -> None:
    process = start(limits=Limits(user=2))
    await process.people("ana")
    urgent = replace(process.asks(users("ana")), priority=Priority.URGENT)
    made = await _accepted(process, [process.asks(users("ana")), urgent, process.asks(users("ana"), "DUTY")])
    assert [await process.states(one) for one in made] == [{}, {"pending": 1}, {"pending": 1}]
    await process.work()
    assert [await process.states(one) for one in made] == [{"delivered": 1}] * 3


async def test_nothing_is_planned_in_a_transaction_of_somebody_else(process: Process) -> None:
    await process.people("ana")
    async with process.store.begin() as tx:
        made = await process.pipeline.accept(tx, process.asks(users("ana")))
    assert [(task.kind, task.ref) for task in process.queue.told] == [(TaskKind.FAN_OUT, made.id)]


async def test_what_is_due_later_waits_in_the_outbox(process: Process) -> None:
    await process.people("ana")
    later = replace(process.asks(users("ana")), send_at=NOW + timedelta(hours=1))
    notification = await process.pipeline.submit(later)
    assert await process.pipeline.dispatch() == 0
    process.clock.advance(timedelta(hours=1))
    assert await process.pipeline.dispatch() == 1
    assert [task.ref for task in process.queue.told] == [notification.id]


async def test_a_process_that_does_not_work_publishes_on_a_shared_queue_only(start: Callable[..., Process]) -> None:
    api = start()
    api.pipeline.attended = False
    await api.people("ana")
    notification = await api.tell("ana")
    assert [task.ref for task in api.queue.told] == [notification.id]
    api.queue.shared = False
    await api.tell("ana")
    assert len(api.queue.told) == 1, "nobody would ever take it here"
