"""Of the notifications on one subject only the newest is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tidings.errors import ValidationFailed
from tidings.model.audience import Audience, being_informed, everyone, informed, users
from tidings.model.delivery import OutboundMessage, SkipReason
from tidings.model.notification import Notification
from tidings.model.outcome import Accepted, Outcome, PermanentFailure, RetryLater
from tidings.model.priority import Priority
from tidings.model.subject import MAX_VERSION, SubjectRequest
from tidings.ports.operations import DeadLetterFilter
from tidings.testing.polling import eventually

if TYPE_CHECKING:
    from tests.unit.conftest import Process

USERS = ["ana", "ben", "cleo"]
#: maximum of sends in flight of one process: ten slots, of which one is reserved for urgent sends
MAX_IN_FLIGHT = 9
State = Mapping[str, object]
EIGHT, NINE = {"start": "20:00"}, {"start": "21:00"}


@pytest.fixture(autouse=True)
async def _users(process: Process) -> None:
    await process.add_users(*USERS)


async def notify(process: Process, subject: SubjectRequest | str, to: Audience | None = None) -> Notification:
    subject = SubjectRequest(subject) if isinstance(subject, str) else subject
    return await process.pipeline.submit(replace(process.build_request(to or users(*USERS)), subject=subject))


async def skips(process: Process, notification: Notification) -> dict[str, SkipReason]:
    async with process.store.read_snapshot() as tx:
        found = await process.store.deliveries.list_skips(tx, notification.id, user_id=None, after=None, limit=100)
    return {skip.user_id: skip.reason for skip in found}


async def test_planned_deliveries_of_the_older_one_are_skipped(process: Process) -> None:
    older = await notify(process, "order:7")
    await process.plan(older)
    newer = await notify(process, "order:7")
    await process.process_queue()
    assert {message.notification_id for message in process.channel.sent} == {newer.id}
    assert await process.count_by_state(older) == {"skipped": 3}
    async with process.store.read_snapshot() as tx:
        [trace, *_] = await process.store.deliveries.list_with_attempts(
            tx, older.id, user_id=None, after=None, limit=10
        )
        stored = await process.store.notifications.get(tx, older.id)
    assert (trace.why, trace.detail) == ("superseded", {"supersededBy": newer.id})
    assert stored is not None
    assert stored.superseded_by == newer.id


async def test_recipients_that_are_not_planned_yet_are_skipped(process: Process) -> None:
    older = await notify(process, "order:7", everyone())
    newer = await notify(process, "order:7", users("ana"))
    await process.process_queue()
    assert await skips(process, older) == dict.fromkeys(USERS, SkipReason.SUPERSEDED)
    assert {message.notification_id for message in process.channel.sent} == {newer.id}


async def test_claimed_deliveries_of_the_older_one_are_skipped(process: Process) -> None:
    many = [f"user-{number:02}" for number in range(15)]
    await process.add_users(*many)
    older = await notify(process, "order:7", users(*many))
    await process.plan(older)
    process.channel.unblocked.clear()
    sending = asyncio.create_task(process.process_queue())
    await eventually(lambda: _all_in_flight(process), within=5)
    accepting = asyncio.create_task(notify(process, "order:7", users(*many)))
    await asyncio.wait([accepting], timeout=0.2)
    assert not accepting.done(), "sends are in flight"
    process.channel.unblocked.set()
    newer, _ = await asyncio.gather(accepting, sending)
    await process.process_queue()
    assert await process.count_by_state(older) == {"delivered": MAX_IN_FLIGHT, "skipped": 15 - MAX_IN_FLIGHT}
    assert await process.count_by_state(newer) == {"delivered": 15}


async def _all_in_flight(process: Process) -> bool:
    return len(process.channel.sent) == MAX_IN_FLIGHT


async def test_a_retry_of_the_older_one_is_not_sent(process: Process) -> None:
    process.channel.respond = lambda _message: RetryLater(
        process.clock.now() + timedelta(seconds=2), "answered 503", 503
    )
    older = await notify(process, "order:7")
    await process.process_queue()
    process.channel.respond = lambda _message: Accepted()
    newer = await notify(process, "order:7")
    process.clock.advance(timedelta(seconds=3))
    await process.pipeline.batch_due()
    sent_before = len(process.channel.sent)
    await process.process_queue()
    assert {message.notification_id for message in process.channel.sent[sent_before:]} == {newer.id}
    assert await process.count_by_state(older) == {"skipped": 3}


async def test_dead_letters_of_the_older_one_are_not_replayed(process: Process) -> None:
    process.channel.respond = lambda _message: PermanentFailure("answered 403", status=403)
    older = await notify(process, "order:7")
    await process.process_queue()
    await notify(process, "order:7")
    async with process.store.transaction() as tx:
        now = process.clock.now()
        replayed = await process.store.dead_letters.replay(
            tx, DeadLetterFilter(notification_id=older.id), due_at=now, limit=10, now=now
        )
    assert replayed == []


async def test_another_subject_is_not_affected(process: Process) -> None:
    other = await notify(process, "order:70")
    below = await notify(process, "order:7/message:1")
    newer = await notify(process, "order:7")
    await process.process_queue()
    assert {message.notification_id for message in process.channel.sent} == {other.id, below.id, newer.id}


async def test_subjects_below_are_included_on_request(process: Process) -> None:
    below = await notify(process, "order:7/message:1")
    newer = await notify(process, SubjectRequest("order:7", includes_below=True))
    await process.process_queue()
    assert {message.notification_id for message in process.channel.sent} == {newer.id}
    assert await skips(process, below) == dict.fromkeys(USERS, SkipReason.SUPERSEDED)


async def test_a_late_older_version_is_not_sent(process: Process) -> None:
    newer = await notify(process, SubjectRequest("order:7", version=5))
    late = await notify(process, SubjectRequest("order:7", version=4))
    assert late.superseded_by == newer.id
    await process.process_queue()
    assert {message.notification_id for message in process.channel.sent} == {newer.id}


async def test_automatic_versions_after_the_largest_given_one_are_exact_in_javascript(process: Process) -> None:
    with pytest.raises(ValidationFailed, match="must be from 0 to"):
        await notify(process, SubjectRequest("order:7", version=MAX_VERSION + 1))
    largest = await notify(process, SubjectRequest("order:7", version=MAX_VERSION))
    newer = await notify(process, "order:7")
    assert newer.subject_version == MAX_VERSION + 1 < 2**53
    await process.process_queue()
    assert {message.notification_id for message in process.channel.sent} == {newer.id}
    assert await skips(process, largest) == dict.fromkeys(USERS, SkipReason.SUPERSEDED)


async def test_notifications_of_one_version_are_all_sent(process: Process) -> None:
    first = await notify(process, SubjectRequest("order:7", version=5), users("ana"))
    second = await notify(process, SubjectRequest("order:7", version=5), users("ben"))
    await process.process_queue()
    assert {message.notification_id for message in process.channel.sent} == {first.id, second.id}


async def test_notifications_accepted_together_are_ordered(process: Process) -> None:
    request = replace(process.build_request(users("ana")), subject=SubjectRequest("order:7"))
    async with process.store.transaction() as tx:
        results = await process.pipeline.accept_many(tx, [request, request, replace(request, subject=None)])
    first, second, other = (result for result in results if isinstance(result, Notification))
    assert (first.subject_version, second.subject_version, first.superseded_by) == (1, 2, second.id)
    await process.process_queue()
    assert {message.notification_id for message in process.channel.sent} == {second.id, other.id}
    assert await skips(process, first) == {"ana": SkipReason.SUPERSEDED}


async def test_messages_on_a_subject_replace_each_other_on_the_device(process: Process) -> None:
    await notify(process, "order:7", users("ana"))
    await process.process_queue()
    await notify(process, "order:7", users("ana"))
    plain = await process.submit("ana")
    await process.process_queue()
    assert [message.collapse_key for message in process.channel.sent] == ["order:7", "order:7", plain.id]


async def change(process: Process, new: State, old: State, version: int, to: Audience | None = None) -> Notification:
    return await notify(process, SubjectRequest("event:1", version, new, old), to)


async def test_a_change_that_is_taken_back_is_only_sent_to_those_who_heard_of_it(process: Process) -> None:
    def only_ana(message: OutboundMessage) -> Outcome:
        wait = RetryLater(process.clock.now() + timedelta(seconds=2), "answered 503", 503)
        return Accepted() if message.target.user_id == "ana" else wait

    process.channel.respond = only_ana
    await change(process, NINE, EIGHT, 2, everyone())
    await process.process_queue()
    process.channel.respond = lambda _message: Accepted()
    back = await change(process, EIGHT, NINE, 3, everyone())
    await process.process_queue()
    assert [message.target.user_id for message in process.channel.sent if message.notification_id == back.id] == ["ana"]
    assert await skips(process, back) == dict.fromkeys(("ben", "cleo"), SkipReason.ALREADY_INFORMED)


async def test_a_change_that_is_taken_back_before_it_is_planned_is_sent_to_nobody(process: Process) -> None:
    await change(process, NINE, EIGHT, 2, everyone())
    back = await change(process, EIGHT, NINE, 3, everyone())
    await process.process_queue()
    assert process.channel.sent == []
    assert await skips(process, back) == dict.fromkeys(USERS, SkipReason.ALREADY_INFORMED)


async def test_an_urgent_change_does_not_wait_for_older_ones(process: Process) -> None:
    await change(process, NINE, EIGHT, 2, everyone())
    request = process.build_request(everyone())
    urgent = await process.pipeline.submit(
        replace(request, priority=Priority.URGENT, subject=SubjectRequest("event:1", 3, EIGHT, NINE))
    )
    await process.plan(urgent)
    assert (await process.get_counts(urgent)).deliveries == 3


async def test_those_who_were_sent_something_are_an_audience(process: Process) -> None:
    await notify(process, "event:1", users("ana", "ben"))
    await process.process_queue()
    process.channel.sent.clear()
    await notify(process, "event:2", informed("event:1") | being_informed("event:1"))
    await process.process_queue()
    assert {message.target.user_id for message in process.channel.sent} == {"ana", "ben"}


async def test_a_withdrawn_subject_sends_nothing_more(process: Process) -> None:
    older, below = await notify(process, "event:1"), await notify(process, "event:1/message:1")
    sent = await notify(process, "event:2")
    async with process.store.transaction() as tx:
        await process.pipeline.withdraw(tx, "event:1")
    await process.process_queue()
    assert {message.notification_id for message in process.channel.sent} == {sent.id}
    async with process.store.read_snapshot() as tx:
        states = {
            one.id: one.state.value for one in await process.store.notifications.get_many(tx, [older.id, below.id])
        }
    assert states == {older.id: "cancelled", below.id: "cancelled"}


@pytest.mark.parametrize(
    ("subject", "field"),
    [
        (SubjectRequest(" "), "options.subject"),
        (SubjectRequest("x" * 201), "options.subject"),
        (SubjectRequest("a\0b"), "options.subject"),
        (SubjectRequest("a", version=-1), "options.subject.version"),
        (SubjectRequest("a", state={"text": "x" * 5000}), "options.subject.state"),
    ],
)
async def test_an_invalid_subject_is_refused(process: Process, subject: SubjectRequest, field: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        await notify(process, subject)
    assert [error.field for error in refused.value.field_errors] == [field]
