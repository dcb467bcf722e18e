"""Requests accepted together: each gets its own answer, all of them in a few statements, and go to work at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tidings.errors import Invalid
from tidings.model.audience import everyone, users
from tidings.model.notification import Notification
from tidings.testing.contracts.samples import NOW

if TYPE_CHECKING:
    from tests.unit.flow.conftest import Process


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
        made = await process.pipeline.accept_many(tx, [process.asks(users("ana"))] * 3)
        assert process.queue.told == []
    assert [task.ref for task in process.queue.told] == [one.id for one in made if isinstance(one, Notification)]


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
