"""Domain events that come before the later steps that wait for them are planned, on both databases."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select
from tests.support.lock_waits import wait_until_blocked
from tests.support.step_world import StepWorld

from tidings.flow.fanout.fan_out import MAX_SMALL_AUDIENCE
from tidings.flow.recover.reconciler import Reconciler
from tidings.model.audience import city, users
from tidings.model.awaited_event import AwaitedEvent, OccurredEvents
from tidings.model.notification import Notification
from tidings.model.plan_options import DigestOptions, DomainEvent, Step
from tidings.model.user import User
from tidings.model.waiting_step import StepCause, StepEnd, build_event_key
from tidings.ports.steps import Pair
from tidings.ports.transaction import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.step_tables import awaited_events

PAID = DomainEvent("invoice.paid")
UNLESS_PAID = (Step(("inapp",)), Step(("email",), 600, PAID))


async def accept_for_later(world: StepWorld, *steps: Step, **options: object) -> Notification:
    """Accept a notification that is due in an hour."""
    request = world.build_request(*(steps or UNLESS_PAID), **options)  # type: ignore[arg-type]  # as given
    return await world.pipeline.submit(replace(request, send_at=world.clock.now() + timedelta(hours=1)))


async def publish(world: StepWorld, event: str = "invoice.paid", *, subject: str | None = None, user: str = "") -> int:
    """Publish a domain event, as its route does."""
    async with world.store.transaction() as tx:
        return await world.store.steps.cancel_by_event(
            tx, event, world.clock.now(), subject=subject, user_id=user or None
        )


async def list_awaited(world: StepWorld) -> list[tuple[str, bool]]:
    """Return user and whether the event happened, of each stored row."""
    columns = (awaited_events.c.user_id, awaited_events.c.occurred_at)
    async with world.store.read_once() as tx:
        rows = (await connection_of(tx).execute(select(*columns).order_by(awaited_events.c.user_id))).all()
    return [(user_id, occurred_at is not None) for user_id, occurred_at in rows]


@pytest.mark.parametrize(("subject", "about"), [("invoice:1", {"subject": "invoice:1"}), (None, {"user": "ana"})])
async def test_c39_an_event_before_the_planning_ends_the_step(
    world: StepWorld, subject: str | None, about: dict[str, str]
) -> None:
    notification = await accept_for_later(world, subject=subject)
    assert await publish(world, **about) == 0, "nothing is planned yet"
    occurred_at = world.clock.now()
    await world.work(3600)
    [step] = await world.list_steps(notification)
    assert (step.ended_by, step.ended_at, step.is_waiting) == (StepEnd.EVENT, occurred_at, False)
    await world.work(600)
    assert world.count_sent() == {"inapp": 1}
    assert await list_awaited(world) == []


@pytest.mark.parametrize(
    ("event", "about"),
    [
        ("invoice.paid", {"subject": "invoice:2"}),
        ("invoice.paid", {"user": "ana"}),
        ("invoice.sent", {"subject": "invoice:1"}),
    ],
)
async def test_an_event_about_something_else_ends_nothing(world: StepWorld, event: str, about: dict[str, str]) -> None:
    await accept_for_later(world, subject="invoice:1")
    await publish(world, event, **about)
    await world.work(3600)
    await world.work(600)
    assert world.count_sent() == {"inapp": 1, "email": 1}


async def test_an_event_before_the_notification_was_accepted_ends_nothing(world: StepWorld) -> None:
    await publish(world, subject="invoice:1", user="ana")
    assert await list_awaited(world) == []
    await accept_for_later(world, subject="invoice:1")
    await world.work(3600)
    await world.work(600)
    assert world.count_sent() == {"inapp": 1, "email": 1}


@pytest.mark.parametrize("named", [True, False])
async def test_c39_an_event_about_a_user_counts_in_a_large_audience(world: StepWorld, named: bool) -> None:
    names = [f"user-{number:03}" for number in range(MAX_SMALL_AUDIENCE + 1 if named else 3)]
    people = [User(name, email=f"{name}@example.org", city="Ulm") for name in names]
    async with world.store.transaction() as tx:
        await world.store.users.upsert(tx, people, world.clock.now())
    notification = await accept_for_later(world, audience=users(*names) if named else city("Ulm"))
    await publish(world, user="user-001")
    await publish(world, user="user-001")
    await publish(world, user="nobody")
    assert await list_awaited(world) == [("", False), ("user-001", True)]
    await world.work(3600)
    ended = {step.user_id for step in await world.list_steps(notification) if step.ended_by is StepEnd.EVENT}
    assert ended == {"user-001"}
    assert await list_awaited(world) == []
    await world.work(600)
    assert len(world.channels["email"].sent) == len(names) - 1


async def test_a_step_that_would_start_at_once_is_not_planned_after_its_event(world: StepWorld) -> None:
    await world.add_users("ben", channels=("email",))
    steps = (Step(("webhook",)), Step(("email",), 60, PAID), Step(("inapp",), 3600))
    notification = await accept_for_later(world, *steps, to=["ben"], subject="invoice:1")
    await publish(world, subject="invoice:1")
    await world.work(3600)
    first, second = await world.list_steps(notification)
    assert (first.ended_by, first.cause) == (StepEnd.EVENT, StepCause.NOT_HANDED_OVER)
    assert (second.due_at, second.cause) == (world.clock.now() + timedelta(seconds=3600), StepCause.CANCELLED)
    assert world.count_sent() == {}
    await world.work(3600)
    assert world.count_sent() == {"inapp": 1}


async def test_an_erasure_removes_what_was_recorded_for_the_user(world: StepWorld) -> None:
    await world.add_users("ben")
    await accept_for_later(world, to=["ana", "ben"])
    await publish(world, user="ana")
    async with world.store.transaction() as tx:
        assert await world.store.users.erase(tx, "ana")
    assert await list_awaited(world) == [("ben", False)]


@pytest.mark.parametrize("is_withdrawn", [False, True])
async def test_a_cancelled_notification_awaits_nothing(world: StepWorld, is_withdrawn: bool) -> None:
    notification = await accept_for_later(world, subject="invoice:1")
    if is_withdrawn:
        async with world.store.transaction() as tx:
            await world.pipeline.withdraw(tx, "invoice:1")
    else:
        await world.pipeline.cancel(notification.id)
    assert await list_awaited(world) == []
    assert await publish(world, subject="invoice:1") == 0


async def collect(world: StepWorld, *subjects: str) -> list[Notification]:
    """Let a digest collect notifications, which close in five minutes."""
    options = DigestOptions(window_seconds=300)
    requests = [replace(world.build_request(*UNLESS_PAID, subject=one), digest=options) for one in subjects]
    accepted = []
    for request in requests:
        accepted.append(await world.pipeline.submit(request))
        await world.work(1)
    return accepted


async def close_digest(world: StepWorld) -> Notification:
    """Close the digest that is open, and return its notification."""
    world.clock.advance(300)
    await world.pipeline.close_due_digests()
    async with world.store.read_once() as tx:
        [digest] = await world.store.digests.list_page(tx, before=None, limit=2)
        assert digest.notification_id is not None
        found = await world.store.notifications.get(tx, digest.notification_id)
    assert found is not None
    return found


async def test_c39_a_digest_has_the_steps_of_its_newest_item_without_an_event(world: StepWorld) -> None:
    await collect(world, "invoice:1", "invoice:2")
    await publish(world, subject="invoice:2")
    digest = await close_digest(world)
    assert [step.ended_by for step in await world.list_steps(digest)] == [None]
    assert await list_awaited(world) == []
    await world.work()
    await world.work(600)
    assert world.count_sent() == {"inapp": 1, "email": 1}


async def test_c39_the_steps_of_a_digest_are_ended_if_the_events_of_all_items_came(world: StepWorld) -> None:
    await collect(world, "invoice:1", "invoice:2")
    await publish(world, subject="invoice:2")
    await publish(world, subject="invoice:1")
    digest = await close_digest(world)
    assert [step.ended_by for step in await world.list_steps(digest)] == [StepEnd.EVENT]
    await world.work()
    await world.work(600)
    assert world.count_sent() == {"inapp": 1}


async def test_c39_an_event_before_the_planning_counts_for_the_digest_that_collects_afterwards(
    world: StepWorld,
) -> None:
    request = world.build_request(*UNLESS_PAID, subject="invoice:1")
    later = world.clock.now() + timedelta(hours=1)
    await world.pipeline.submit(replace(request, digest=DigestOptions(window_seconds=300), send_at=later))
    await publish(world, subject="invoice:1")
    await world.work(3600)
    assert await list_awaited(world) == [("ana", True)]
    digest = await close_digest(world)
    assert [step.ended_by for step in await world.list_steps(digest)] == [StepEnd.EVENT]


async def test_an_event_that_is_committed_while_a_page_is_planned_is_seen_by_the_page(world: StepWorld) -> None:
    notification = await accept_for_later(world, subject="invoice:1")
    world.clock.advance(3600)
    async with world.store.transaction() as tx:
        await world.store.steps.cancel_by_event(
            tx, "invoice.paid", world.clock.now(), subject="invoice:1", user_id=None
        )
        page = asyncio.create_task(world.pipeline.fan_out.plan_next_pages([notification.id]))
        await wait_until_blocked(world.store, page)
    await page
    assert [step.ended_by for step in await world.list_steps(notification)] == [StepEnd.EVENT]


async def test_an_event_waits_for_the_page_that_is_planned_and_ends_its_steps(
    world: StepWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    notification = await accept_for_later(world, audience=city("Ulm"))
    async with world.store.transaction() as tx:
        await world.store.users.upsert(tx, [User("ana", email="ana@example.org", city="Ulm")], world.clock.now())
    world.clock.advance(3600)
    events: list[asyncio.Task[int]] = []
    find = world.store.awaited_events.find_occurred

    async def find_before_event(tx: Transaction, pairs: Collection[Pair]) -> Mapping[Pair, OccurredEvents]:
        found = await find(tx, pairs)
        events.append(asyncio.create_task(publish(world, user="ana")))
        await wait_until_blocked(world.store, events[0])
        return found

    monkeypatch.setattr(world.store.awaited_events, "find_occurred", find_before_event)
    await world.pipeline.fan_out.plan_next_pages([notification.id])
    assert await events[0] == 1
    assert [step.ended_by for step in await world.list_steps(notification)] == [StepEnd.EVENT]


async def test_an_event_that_is_committed_while_a_digest_closes_counts(world: StepWorld) -> None:
    await collect(world, "invoice:1")
    world.clock.advance(300)
    async with world.store.transaction() as tx:
        await world.store.steps.cancel_by_event(
            tx, "invoice.paid", world.clock.now(), subject="invoice:1", user_id=None
        )
        closing = asyncio.create_task(world.pipeline.close_due_digests())
        await wait_until_blocked(world.store, closing)
    await closing
    digest = await close_digest(world)
    assert [step.ended_by for step in await world.list_steps(digest)] == [StepEnd.EVENT]


async def test_an_event_about_the_user_waits_for_the_digest_that_closes(
    world: StepWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await collect(world, "invoice:1")
    world.clock.advance(300)
    events: list[asyncio.Task[int]] = []
    find = world.store.awaited_events.find_occurred

    async def find_before_event(tx: Transaction, pairs: Collection[Pair]) -> Mapping[Pair, OccurredEvents]:
        found = await find(tx, pairs)
        if not events:
            events.append(asyncio.create_task(publish(world, subject="invoice:1", user="ana")))
            await wait_until_blocked(world.store, events[0])
        return found

    monkeypatch.setattr(world.store.awaited_events, "find_occurred", find_before_event)
    digest = await close_digest(world)
    assert await events[0] == 1
    assert [step.ended_by for step in await world.list_steps(digest)] == [StepEnd.EVENT]


async def test_maintenance_removes_what_an_older_process_left(world: StepWorld) -> None:
    """It erased a user, or planned a notification completely, and knew nothing of awaited events."""
    await world.add_users("ana", "ben")
    planned = await world.notify(*UNLESS_PAID, subject="invoice:1")
    waiting = await accept_for_later(world, subject="invoice:2")
    [collected] = await collect(world, "invoice:3")
    of_subject = AwaitedEvent(planned.id, "invoice.paid", None, build_event_key("invoice:1", ""))
    erased = AwaitedEvent(waiting.id, "invoice.paid", "eva", build_event_key(None, "eva"))
    async with world.store.transaction() as tx:
        await world.store.awaited_events.add(tx, [of_subject, erased])
    assert len(await list_awaited(world)) == 4
    reconciler = Reconciler(world.store, world.queue, world.clock)
    await reconciler.purge()
    assert await list_awaited(world) == [("", False), ("ana", False)]
    await publish(world, subject="invoice:2")
    await publish(world, subject="invoice:3")
    assert await list_awaited(world) == [("", True), ("ana", True)]
    await reconciler.purge()
    assert await list_awaited(world) == [("", True), ("ana", True)], "the page and the digest need them"
    assert collected.id != waiting.id


async def test_a_row_that_is_locked_does_not_stop_maintenance(world: StepWorld) -> None:
    planned = await world.notify(*UNLESS_PAID, subject="invoice:1")
    left = AwaitedEvent(planned.id, "invoice.paid", None, build_event_key("invoice:1", ""))
    async with world.store.transaction() as tx:
        await world.store.awaited_events.add(tx, [left])
    reconciler = Reconciler(world.store, world.queue, world.clock)
    async with world.store.transaction() as tx:
        await world.store.steps.cancel_by_event(
            tx, "invoice.paid", world.clock.now(), subject="invoice:1", user_id=None
        )
        purge = asyncio.create_task(reconciler.purge())
        if connection_of(tx).dialect.name == "postgresql":
            await purge
    await purge
    await reconciler.purge()
    assert await list_awaited(world) == []
