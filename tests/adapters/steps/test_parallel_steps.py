"""Steps in several processes: each step starts once, and seen wins until the last check before a send."""

import asyncio
from collections.abc import Collection, Sequence

import pytest
from tests.support.lock_waits import wait_until_blocked
from tests.support.step_world import UNLESS_SEEN, StepWorld

from tidings.errors import BackendError
from tidings.model.awaited_event import AwaitedEvent
from tidings.model.delivery import DeliveryState
from tidings.model.ids import new_id
from tidings.model.notification import Notification
from tidings.model.plan_options import DomainEvent, Step
from tidings.model.waiting_step import StepEnd, build_event_key
from tidings.ports.transaction import Transaction, retry_on_conflict


async def test_a_due_step_starts_once_however_many_processes_look_for_it(world: StepWorld) -> None:
    others = [StepWorld(world.store, world.clock, world.channels) for _ in range(3)]
    names = [f"user-{number}" for number in range(20)]
    await world.add_users(*names)
    await world.notify(*UNLESS_SEEN, to=names)
    world.clock.advance(600)
    await asyncio.gather(*(process.pipeline.step_runner.start_due() for process in (world, *others)))
    await asyncio.gather(*(process.work() for process in (world, *others)))
    assert sorted(message.target.user_id for message in world.channels["email"].sent) == sorted(names)


@pytest.mark.parametrize("number", range(5))
async def test_c38_seen_and_a_due_step_at_the_same_time_end_in_one_of_both(world: StepWorld, number: int) -> None:
    notification = await world.notify(*UNLESS_SEEN)
    world.clock.advance(600)

    async def see() -> None:
        for _ in range(number):
            await asyncio.sleep(0)
        await world.inbox.mark_item_seen("ana", notification.id)

    await asyncio.gather(see(), world.pipeline.step_runner.start_due())
    # the response of "seen" is there: nothing of the step is sent any more
    await world.work()
    assert world.count_sent() == {"inapp": 1}
    [step] = await world.list_steps(notification)
    assert step.ended_by is StepEnd.SEEN


async def test_c38_seen_stops_a_step_that_another_process_has_claimed(world: StepWorld) -> None:
    notification = await world.notify(*UNLESS_SEEN)
    world.clock.advance(600)
    other = StepWorld(world.store, world.clock, world.channels)
    await other.pipeline.step_runner.start_due()
    jobs = await other.claim_all(new_id(world.clock.now()))
    assert [job.delivery.channel for job in jobs] == ["email"]
    await world.inbox.mark_item_seen("ana", notification.id)
    await other.sender.send(jobs, reload=other.fail_reload)
    assert world.count_sent() == {"inapp": 1}
    [_, mail] = await world.list_deliveries(notification)
    assert (mail.state, mail.detail) == (DeliveryState.SKIPPED, {"by": "seen"})


async def test_a_step_is_not_sent_while_the_database_cannot_tell_whether_it_was_seen(
    world: StepWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    notification = await world.notify(*UNLESS_SEEN)

    async def fail(*_arguments: object) -> None:
        raise BackendError("the database does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(world.store.steps, "find_ended", fail)
        world.clock.advance(600)
        await world.pipeline.step_runner.start_due()
        [job] = await world.claim_all(new_id(world.clock.now()))
        await world.sender.send([job], reload=world.fail_reload)
        assert world.count_sent() == {"inapp": 1}
    await world.work(60)
    assert world.count_sent() == {"inapp": 1, "email": 1}
    assert [step.started_at is not None for step in await world.list_steps(notification)] == [True]


async def test_an_erasure_beside_a_due_step_leaves_nothing(world: StepWorld) -> None:
    notification = await world.notify(*UNLESS_SEEN, Step(("sms",), 60))
    world.clock.advance(600)

    async def erase() -> None:
        async with world.store.transaction() as tx:
            await world.store.users.erase(tx, "ana")

    # as the route and the task do: an erasure locks notifications before steps
    await asyncio.gather(retry_on_conflict(world.pipeline.step_runner.start_due), retry_on_conflict(erase))
    await world.work()
    assert await world.list_steps(notification) == []
    assert world.count_sent() == {"inapp": 1}


async def test_a_domain_event_beside_a_due_step_does_not_deadlock(
    world: StepWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event locks the notification, which awaits it for users that are not planned yet, before the steps."""
    steps = (Step(("inapp",)), Step(("email",), 600, DomainEvent("invoice.paid")))
    notification = await world.notify(*steps, subject="invoice:1")
    key = build_event_key("invoice:1", "")
    async with world.store.transaction() as tx:
        await world.store.awaited_events.add(tx, [AwaitedEvent(notification.id, "invoice.paid", None, key)])
    world.clock.advance(600)

    async def publish() -> int:
        async with world.store.transaction() as tx:
            return await world.store.steps.cancel_by_event(
                tx, "invoice.paid", world.clock.now(), subject="invoice:1", user_id=None
            )

    events: list[asyncio.Task[int]] = []
    get_many = world.store.notifications.get_many

    async def get_many_beside_event(tx: Transaction, ids: Collection[str]) -> Sequence[Notification]:
        events.append(asyncio.create_task(publish()))
        await wait_until_blocked(world.store, events[0])
        return await get_many(tx, ids)

    with monkeypatch.context() as patch:
        patch.setattr(world.store.notifications, "get_many", get_many_beside_event)
        await world.pipeline.step_runner.start_due()
        assert [await event for event in events] == [1], "neither transaction was rolled back and repeated"
    await world.work()
    assert world.count_sent() == {"inapp": 1}
    assert [step.ended_by for step in await world.list_steps(notification)] == [StepEnd.EVENT]
