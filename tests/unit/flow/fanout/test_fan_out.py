"""Fan-out: small audiences together, large ones in pages, each user once, within the limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tidings.flow.fanout.fan_out import MAX_SMALL_AUDIENCE
from tidings.flow.fanout.limits import RateLimitPolicy
from tidings.flow.pipeline import PipelineConfig
from tidings.model.audience import Audience, city, everyone, explicit_users_or_none, users
from tidings.model.delivery import SkipReason
from tidings.model.notification import Notification, NotificationState
from tidings.model.priority import Lane, Priority
from tidings.model.task import TaskKind

if TYPE_CHECKING:
    from tests.unit.conftest import Process

USERS = [f"user-{number:02}" for number in range(12)]


@pytest.fixture
async def process(process: Process) -> Process:
    await process.add_users(*USERS)
    return process


async def _planned(process: Process, notification: Notification) -> Notification:
    async with process.store.read_snapshot() as tx:
        found = await process.store.notifications.get(tx, notification.id)
    assert found is not None
    return found


async def _skips(process: Process, notification: Notification) -> dict[str, SkipReason]:
    async with process.store.read_snapshot() as tx:
        skips = await process.store.deliveries.list_skips(tx, notification.id, user_id=None, after=None, limit=100)
    return {skip.user_id: skip.reason for skip in skips}


def _batches(process: Process) -> list[str]:
    return [task.ref for task in process.queue.published if task.kind is TaskKind.DELIVER]


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
def test_explicit_users_are_known_without_a_query(audience: Audience, named: list[str] | None) -> None:
    assert explicit_users_or_none(audience) == named


async def test_small_notifications_share_a_batch(process: Process) -> None:
    notifications = [await process.submit(name) for name in USERS]
    assert await process.pipeline.fan_out.plan_next_pages([one.id for one in notifications]) == []
    assert len(_batches(process)) == 1
    for one in notifications:
        planned = await _planned(process, one)
        assert (planned.state, planned.recipients, planned.deliveries) == (NotificationState.FANNED_OUT, 1, 1)


async def test_a_hundred_small_notifications_take_as_many_statements_as_one(process: Process) -> None:
    async def statements(count: int) -> int:
        notifications = [await process.submit("user-01", "user-02") for _ in range(count)]
        before = process.store.statement_count
        await process.pipeline.fan_out.plan_next_pages([one.id for one in notifications])
        return process.store.statement_count - before

    assert await statements(100) == await statements(1)


async def test_each_lane_has_its_own_batches(process: Process) -> None:
    requests = [replace(process.build_request(users("user-01")), priority=priority) for priority in Priority]
    notifications = [await process.pipeline.submit(one) for one in [*requests, *requests]]
    await process.plan(*notifications)
    batches = [task for task in process.queue.published if task.kind is TaskKind.DELIVER]
    assert {task.lane for task in batches} == set(Lane)
    assert len(batches) == len(Lane)


async def test_a_large_audience_is_planned_in_pages_beside_small_ones(start: Callable[..., Process]) -> None:
    process = start(sizes=PipelineConfig(page_size=5))
    await process.add_users(*USERS)
    large, small = await process.submit(to=everyone()), await process.submit("user-03")
    [following] = await process.pipeline.fan_out.plan_next_pages([large.id, small.id])
    assert following.ref == large.id
    assert (await _planned(process, small)).state is NotificationState.FANNED_OUT
    assert (await _planned(process, large)).recipients == 5
    await process.plan(large)
    assert (await _planned(process, large)).recipients == len(USERS)
    assert (await process.count_by_state(large)) == {"pending": len(USERS)}


async def test_a_long_list_of_users_is_planned_in_pages(start: Callable[..., Process]) -> None:
    process = start(sizes=PipelineConfig(page_size=MAX_SMALL_AUDIENCE))
    crowd = [f"user-{number:03}" for number in range(MAX_SMALL_AUDIENCE + 1)]
    await process.add_users(*crowd)
    most, more = await process.submit(*crowd[:MAX_SMALL_AUDIENCE]), await process.submit(*crowd)
    assert [task.ref for task in await process.pipeline.fan_out.plan_next_pages([most.id, more.id])] == [more.id]


async def test_one_transaction_plans_at_most_a_page(start: Callable[..., Process]) -> None:
    process = start(sizes=PipelineConfig(page_size=5))
    await process.add_users(*USERS)
    notifications = [await process.submit(*USERS[:3]) for _ in range(5)]
    before = process.store.statement_count
    await process.pipeline.fan_out.plan_next_pages([notifications[0].id])
    one = process.store.statement_count - before
    await process.pipeline.fan_out.plan_next_pages([each.id for each in notifications[1:]])
    assert process.store.statement_count - before == 5 * one
    assert [await process.count_by_state(each) for each in notifications] == [{"pending": 3}] * 5


async def test_the_same_task_twice_plans_each_user_once(process: Process) -> None:
    notification = await process.submit("user-01")
    await process.pipeline.fan_out.plan_next_pages([notification.id, notification.id])
    assert await process.pipeline.fan_out.plan_next_pages([notification.id]) == []
    assert await process.count_by_state(notification) == {"pending": 1}


async def test_a_process_that_lost_the_race_plans_nothing_twice(start: Callable[..., Process]) -> None:
    first, second = start(), start()
    await first.add_users(*USERS)
    taken, cancelled, free = [await first.submit("user-01") for _ in range(3)]
    await second.plan(taken)
    await second.pipeline.cancel(cancelled.id)
    await first.plan(taken, cancelled, free)
    assert [await first.count_by_state(one) for one in (taken, cancelled, free)] == [{"pending": 1}, {}, {"pending": 1}]
    assert (await _planned(first, cancelled)).state is NotificationState.CANCELLED


async def test_a_user_erased_since_acceptance_is_left_out(process: Process) -> None:
    notification = await process.submit("user-01", "user-02")
    other = await process.submit("user-03")
    async with process.store.transaction() as tx:
        await process.store.users.erase(tx, "user-01")
    await process.plan(notification, other)
    planned = await _planned(process, notification)
    assert (planned.recipients, planned.deliveries) == (1, 1)
    assert await process.count_by_state(other) == {"pending": 1}


async def test_deliveries_planned_while_the_queue_is_unavailable_are_kept(process: Process) -> None:
    notification = await process.submit("user-01")
    process.queue.is_unavailable = True
    await process.plan(notification)
    assert await process.count_by_state(notification) == {"pending": 1}


async def test_notifications_over_the_limit_are_recorded_as_skips(start: Callable[..., Process]) -> None:
    process = start(limits=RateLimitPolicy(per_user=2))
    await process.add_users(*USERS)
    notifications = [await process.submit("user-01", f"user-0{number}") for number in range(2, 6)]
    await process.plan(*notifications)
    assert [await process.count_by_state(one) for one in notifications] == [
        {"pending": 2},
        {"pending": 2},
        {"pending": 1},
        {"pending": 1},
    ]
    for one in notifications[2:]:
        assert await _skips(process, one) == {"user-01": SkipReason.RATE_LIMITED}
        planned = await _planned(process, one)
        assert (planned.recipients, planned.deliveries, planned.skipped) == (2, 1, 1)


async def test_a_limit_applies_to_a_large_audience(start: Callable[..., Process]) -> None:
    process = start(limits=RateLimitPolicy(per_user=1), sizes=PipelineConfig(page_size=5))
    await process.add_users(*USERS)
    first, second = await process.submit("user-07"), await process.submit(to=everyone())
    await process.plan(first)
    await process.plan(second)
    planned = await _planned(process, second)
    assert (planned.state, planned.recipients) == (NotificationState.FANNED_OUT, len(USERS))
    assert (planned.deliveries, planned.skipped) == (len(USERS) - 1, 1)
    assert await _skips(process, second) == {"user-07": SkipReason.RATE_LIMITED}


async def test_mandatory_and_separately_limited_categories_do_not_count_towards_the_default_limit(
    start: Callable[..., Process],
) -> None:
    process = start(limits=RateLimitPolicy(per_user=1, per_category={"NEWS": 2}))
    await process.add_users("ana")
    notifications = [
        await process.submit("ana", template=template) for template in ["NEWS", "DUTY", "DUTY", "NEWS", "NEWS"]
    ]
    await process.plan(*notifications)
    assert [sum((await process.count_by_state(one)).values()) for one in notifications] == [1, 1, 1, 1, 0]


async def test_a_lost_race_does_not_count_twice(start: Callable[..., Process]) -> None:
    first, second = start(limits=RateLimitPolicy(per_user=2)), start(limits=RateLimitPolicy(per_user=2))
    await first.add_users("ana")
    notifications = [await first.submit("ana") for _ in range(2)]
    await second.plan(notifications[0])
    await first.plan(*notifications)
    assert [await first.count_by_state(one) for one in notifications] == [{"pending": 1}] * 2


async def test_a_limit_is_a_sliding_window(start: Callable[..., Process]) -> None:
    process = start(limits=RateLimitPolicy(per_user=1))
    await process.add_users("ana")
    for ahead, deliveries in [(0, 1), (3599, 0), (2, 1)]:
        process.clock.advance(ahead)
        notification = await process.submit("ana")
        await process.plan(notification)
        assert sum((await process.count_by_state(notification)).values()) == deliveries
