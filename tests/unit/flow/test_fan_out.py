"""Planning: small audiences together, large ones a page at a time, each person once, within the limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tidings.flow.fan_out import SMALL
from tidings.flow.intake.accept import named_only
from tidings.flow.pipeline import Sizes
from tidings.flow.plan.limit import Limits
from tidings.model.audience import Audience, city, everyone, users
from tidings.model.delivery import SkipReason
from tidings.model.notification import Notification, NotificationState
from tidings.model.priority import Lane, Priority
from tidings.model.task import TaskKind

if TYPE_CHECKING:
    from tests.unit.flow.conftest import Process

CROWD = [f"user-{number:02}" for number in range(12)]


@pytest.fixture
async def process(process: Process) -> Process:
    await process.people(*CROWD)
    return process


async def _planned(process: Process, notification: Notification) -> Notification:
    async with process.store.read() as tx:
        found = await process.store.notifications.get(tx, notification.id)
    assert found is not None
    return found


async def _skips(process: Process, notification: Notification) -> dict[str, SkipReason]:
    async with process.store.read() as tx:
        skips = await process.store.deliveries.skips(tx, notification.id, user_id=None, after=None, limit=100)
    return {skip.user_id: skip.reason for skip in skips}


def _batches(process: Process) -> list[str]:
    return [task.ref for task in process.queue.told if task.kind is TaskKind.DELIVER]


@pytest.mark.parametrize(
    ("audience", "named"),
    [
        (users("b", "a", "b"), ["b", "a"]),
        (users("a") | users("b", "a"), ["a", "b"]),
        (users("a") | everyone(), None),
        (users("a") & users("a"), None),
        (~users("a"), None),
        (city("Berlin"), None),
    ],
)
def test_an_audience_is_known_without_a_look_when_it_only_names(audience: Audience, named: list[str] | None) -> None:
    assert named_only(audience) == named


async def test_small_ones_travel_together(process: Process) -> None:
    told = [await process.tell(name) for name in CROWD]
    assert await process.pipeline.fan_out_many([one.id for one in told]) == []
    assert len(_batches(process)) == 1
    for one in told:
        planned = await _planned(process, one)
        assert (planned.state, planned.recipients, planned.deliveries) == (NotificationState.FANNED_OUT, 1, 1)


async def test_a_hundred_small_ones_take_as_many_statements_as_one(process: Process) -> None:
    async def statements(count: int) -> int:
        told = [await process.tell("user-01", "user-02") for _ in range(count)]
        before = process.store.statements
        await process.pipeline.fan_out_many([one.id for one in told])
        return process.store.statements - before

    assert await statements(100) == await statements(1)


async def test_each_lane_has_batches_of_its_own(process: Process) -> None:
    asked = [replace(process.asks(users("user-01")), priority=priority) for priority in Priority]
    told = [await process.pipeline.submit(one) for one in [*asked, *asked]]
    await process.plan(*told)
    batches = [task for task in process.queue.told if task.kind is TaskKind.DELIVER]
    assert {task.lane for task in batches} == set(Lane)
    assert len(batches) == len(Lane)


async def test_a_large_one_is_planned_beside_small_ones_a_page_at_a_time(start: Callable[..., Process]) -> None:
    process = start(sizes=Sizes(page=5))
    await process.people(*CROWD)
    large, small = await process.tell(to=everyone()), await process.tell("user-03")
    [following] = await process.pipeline.fan_out_many([large.id, small.id])
    assert following.ref == large.id
    assert (await _planned(process, small)).state is NotificationState.FANNED_OUT
    assert (await _planned(process, large)).recipients == 5
    await process.plan(large)
    assert (await _planned(process, large)).recipients == len(CROWD)
    assert (await process.states(large)) == {"pending": len(CROWD)}


async def test_one_that_names_many_is_planned_by_pages(start: Callable[..., Process]) -> None:
    process = start(sizes=Sizes(page=SMALL))
    crowd = [f"user-{number:03}" for number in range(SMALL + 1)]
    await process.people(*crowd)
    most, more = await process.tell(*crowd[:SMALL]), await process.tell(*crowd)
    assert [task.ref for task in await process.pipeline.fan_out_many([most.id, more.id])] == [more.id]


async def test_more_users_than_a_page_are_not_planned_in_one_go(start: Callable[..., Process]) -> None:
    process = start(sizes=Sizes(page=5))
    await process.people(*CROWD)
    told = [await process.tell(*CROWD[:3]) for _ in range(5)]
    before = process.store.statements
    await process.pipeline.fan_out_many([told[0].id])
    one = process.store.statements - before
    await process.pipeline.fan_out_many([each.id for each in told[1:]])
    assert process.store.statements - before == 5 * one
    assert [await process.states(each) for each in told] == [{"pending": 3}] * 5


async def test_the_same_task_twice_plans_each_person_once(process: Process) -> None:
    notification = await process.tell("user-01")
    await process.pipeline.fan_out_many([notification.id, notification.id])
    assert await process.pipeline.fan_out_many([notification.id]) == []
    assert await process.states(notification) == {"pending": 1}


async def test_who_is_overtaken_plans_nothing_and_takes_no_other_along(start: Callable[..., Process]) -> None:
    first, second = start(), start()
    await first.people(*CROWD)
    taken, cancelled, free = [await first.tell("user-01") for _ in range(3)]
    await second.plan(taken)
    await second.pipeline.cancel(cancelled.id)
    await first.plan(taken, cancelled, free)
    assert [await first.states(one) for one in (taken, cancelled, free)] == [{"pending": 1}, {}, {"pending": 1}]
    assert (await _planned(first, cancelled)).state is NotificationState.CANCELLED


async def test_who_was_erased_since_is_left_out(process: Process) -> None:
    notification = await process.tell("user-01", "user-02")
    other = await process.tell("user-03")
    async with process.store.begin() as tx:
        await process.store.users.erase(tx, "user-01")
    await process.plan(notification, other)
    planned = await _planned(process, notification)
    assert (planned.recipients, planned.deliveries) == (1, 1)
    assert await process.states(other) == {"pending": 1}


async def test_what_is_planned_while_the_queue_is_away_is_kept(process: Process) -> None:
    notification = await process.tell("user-01")
    process.queue.away = True
    await process.plan(notification)
    assert await process.states(notification) == {"pending": 1}


async def test_nobody_gets_more_than_the_limit_and_the_rest_is_recorded(start: Callable[..., Process]) -> None:
    process = start(limits=Limits(user=2))
    await process.people(*CROWD)
    told = [await process.tell("user-01", f"user-0{number}") for number in range(2, 6)]
    await process.plan(*told)
    assert [await process.states(one) for one in told] == [
        {"pending": 2},
        {"pending": 2},
        {"pending": 1},
        {"pending": 1},
    ]
    for one in told[2:]:
        assert await _skips(process, one) == {"user-01": SkipReason.RATE_LIMITED}
        planned = await _planned(process, one)
        assert (planned.recipients, planned.deliveries, planned.skipped) == (2, 1, 1)


async def test_a_limit_holds_back_from_a_large_audience_too(start: Callable[..., Process]) -> None:
    process = start(limits=Limits(user=1), sizes=Sizes(page=5))
    await process.people(*CROWD)
    first, second = await process.tell("user-07"), await process.tell(to=everyone())
    await process.plan(first)
    await process.plan(second)
    planned = await _planned(process, second)
    assert (planned.state, planned.recipients) == (NotificationState.FANNED_OUT, len(CROWD))
    assert (planned.deliveries, planned.skipped) == (len(CROWD) - 1, 1)
    assert await _skips(process, second) == {"user-07": SkipReason.RATE_LIMITED}


async def test_mandatory_news_and_categories_with_a_limit_of_their_own_do_not_use_up_the_common_one(
    start: Callable[..., Process],
) -> None:
    process = start(limits=Limits(user=1, categories={"NEWS": 2}))
    await process.people("ana")
    told = [await process.tell("ana", template=template) for template in ["NEWS", "DUTY", "DUTY", "NEWS", "NEWS"]]
    await process.plan(*told)
    assert [sum((await process.states(one)).values()) for one in told] == [1, 1, 1, 1, 0]


async def test_one_that_was_overtaken_is_not_counted_twice(start: Callable[..., Process]) -> None:
    first, second = start(limits=Limits(user=2)), start(limits=Limits(user=2))
    await first.people("ana")
    told = [await first.tell("ana") for _ in range(2)]
    await second.plan(told[0])
    await first.plan(*told)
    assert [await first.states(one) for one in told] == [{"pending": 1}] * 2


async def test_a_limit_is_a_window_that_moves_on(start: Callable[..., Process]) -> None:
    process = start(limits=Limits(user=1))
    await process.people("ana")
    for ahead, deliveries in [(0, 1), (3599, 0), (2, 1)]:
        process.clock.advance(ahead)
        notification = await process.tell("ana")
        await process.plan(notification)
        assert sum((await process.states(notification)).values()) == deliveries
