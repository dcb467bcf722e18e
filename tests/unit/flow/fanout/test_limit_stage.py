"""Throttles, frequency caps and the cap of the installation, applied while notifications are planned."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from tests.unit.conftest import NEWS, FakeChannel, Process

from tidings.flow.catalog import Catalog
from tidings.flow.fanout.limits import RateLimitPolicy
from tidings.model.alert import AlertName
from tidings.model.audience import users
from tidings.model.delivery import SkipReason
from tidings.model.frequency_cap import parse_frequency_caps
from tidings.model.notification import Notification
from tidings.model.outcome import Accepted, RetryLater
from tidings.model.plan_options import DigestOptions, ThrottleOptions
from tidings.model.priority import Priority
from tidings.packs import core
from tidings.stores.store import SqlStore
from tidings.testing.clock import FrozenClock
from tidings.testing.contracts.contact_points_contract import make_contact_point

MINUTE = 60.0
DAY = 24 * 60 * MINUTE
TWICE = ThrottleOptions(2, 600, key="title")
Start = Callable[..., Process]


async def submit(
    process: Process,
    *names: str,
    throttle: ThrottleOptions | None = None,
    digest: DigestOptions | None = None,
    title: str = "Hello",
    priority: Priority = Priority.NORMAL,
    template: str = "NEWS",
) -> Notification:
    """Accept and plan a notification."""
    request = process.build_request(users(*names), template)
    request = replace(
        request, variables={**request.variables, "title": title}, throttle=throttle, digest=digest, priority=priority
    )
    notification = await process.pipeline.submit(request)
    await process.plan(notification)
    return notification


async def list_skips(
    process: Process, notification: Notification
) -> Mapping[str, tuple[SkipReason, Mapping[str, Any]]]:
    """Return user → reason and detail."""
    async with process.store.read_snapshot() as tx:
        skips = await process.store.deliveries.list_skips(tx, notification.id, user_id=None, after=None, limit=100)
    return {skip.user_id: (skip.reason, skip.detail) for skip in skips}


async def is_sent(process: Process, notification: Notification) -> bool:
    """Return whether something was planned."""
    return bool(await process.count_by_state(notification))


async def test_c33_the_excess_of_a_throttle_is_skipped_with_count_and_window_end(start: Start) -> None:
    process = start()
    await process.add_users("ana", "ben")
    first = await submit(process, "ana", throttle=TWICE)
    process.clock.advance(MINUTE)
    assert [await is_sent(process, await submit(process, "ana", throttle=TWICE)) for _ in range(2)] == [True, False]
    both = await submit(process, "ana", "ben", throttle=TWICE)
    assert await process.count_by_state(both) == {"pending": 1}
    skips = await list_skips(process, both)
    assert set(skips) == {"ana"}
    reason, detail = skips["ana"]
    assert reason is SkipReason.THROTTLED
    window_end = first.created_at + timedelta(seconds=600)
    assert detail == {
        "category": "NEWS",
        "scope": "throttle",
        "template": "NEWS",
        "key": "Hello",
        "limit": 2,
        "windowSeconds": 600,
        "count": 2,
        "windowEnd": window_end.isoformat(timespec="seconds"),
    }
    process.clock.advance((window_end - process.clock.now()).total_seconds())
    assert await is_sent(process, await submit(process, "ana", throttle=TWICE))


async def test_c33_each_key_has_a_count_of_its_own(start: Start) -> None:
    process = start()
    await process.add_users("ana")
    once = ThrottleOptions(1, 600, key="title")
    sent = [
        await is_sent(process, await submit(process, "ana", throttle=once, title=title))
        for title in ("one", "two", "one", "two")
    ]
    assert sent == [True, True, False, False]


async def test_c33_the_excess_is_collected_into_a_digest_instead(start: Start) -> None:
    process = start()
    await process.add_users("ana", "ben")
    throttle = ThrottleOptions(2, 600, key="title", instead="digest")
    digest = DigestOptions(window_seconds=600)
    sent = [await submit(process, "ana", throttle=throttle, digest=digest) for _ in range(4)]
    assert [await process.count_by_state(one) for one in sent] == [{"pending": 1}, {"pending": 1}, {}, {}]
    async with process.store.read_snapshot() as tx:
        stored = await process.store.notifications.get_many(tx, [one.id for one in sent])
    assert sorted(one.collected for one in stored) == [0, 0, 1, 1]
    both = await submit(process, "ana", "ben", throttle=throttle, digest=digest)
    assert await process.count_by_state(both) == {"pending": 1}
    assert await list_skips(process, both) == {}
    urgent = await submit(process, "ana", throttle=throttle, digest=digest, priority=Priority.URGENT)
    assert await is_sent(process, urgent)


async def test_c33_a_throttle_also_limits_the_channels_that_the_digest_does_not_collect(
    store: SqlStore, clock: FrozenClock, channel: FakeChannel
) -> None:
    names = ("email", "webpush")
    catalog = Catalog.from_packs([core.pack, NEWS], channels=names, known_channels=names)
    process = Process(store, clock, catalog, channel)
    await process.add_users("ana", "ben")
    async with store.transaction() as tx:
        # ben has no address, so that the digest collects nothing for him
        await store.contact_points.add(tx, [make_contact_point("ana", "ana@example.org", "email")], clock.now())
    throttle = ThrottleOptions(1, 600, instead="digest")
    digest = DigestOptions(window_seconds=600, channels=("email",))
    sent = [await submit(process, "ana", "ben", throttle=throttle, digest=digest) for _ in range(3)]
    assert [await process.count_by_state(one) for one in sent] == [{"pending": 3}, {}, {}]
    counts = await process.get_counts(sent[1])
    assert (counts.recipients, counts.deliveries, counts.collected, counts.skipped) == (2, 0, 1, 3)
    async with store.read_snapshot() as tx:
        skips = await store.deliveries.list_skips(tx, sent[1].id, user_id=None, after=None, limit=9)
    assert sorted((skip.user_id, skip.channel, skip.reason) for skip in skips) == [
        ("ana", "webpush", SkipReason.THROTTLED),
        ("ben", "email", SkipReason.NO_CONTACT_POINT),
        ("ben", "webpush", SkipReason.THROTTLED),
    ]
    assert [skip.detail["count"] for skip in skips if skip.reason is SkipReason.THROTTLED] == [1, 1]
    clock.advance(600)
    again = await submit(process, "ben", throttle=throttle, digest=digest)
    assert await process.count_by_state(again) == {"pending": 1}, "what was stopped did not count"


async def test_c34_what_another_limit_stops_does_not_count_for_a_throttle(start: Start) -> None:
    process = start(limits=RateLimitPolicy(per_user=1))
    await process.add_users("ana")
    twice_in_two_hours = ThrottleOptions(2, 7200)
    assert await is_sent(process, await submit(process, "ana"))
    for _ in range(3):
        stopped = await submit(process, "ana", throttle=twice_in_two_hours)
        assert (await list_skips(process, stopped))["ana"][0] is SkipReason.RATE_LIMITED
    process.clock.advance(60 * MINUTE)
    assert await is_sent(process, await submit(process, "ana", throttle=twice_in_two_hours))


@pytest.mark.parametrize("stopped_by", [RateLimitPolicy(per_user=1), RateLimitPolicy(installation_cap=1)])
async def test_c34_a_throttle_that_collects_the_excess_does_not_count_what_another_limit_stops(
    start: Start, stopped_by: RateLimitPolicy
) -> None:
    process = start(limits=stopped_by)
    await process.add_users("ana")
    twice = partial(
        submit,
        process,
        "ana",
        throttle=ThrottleOptions(2, 7200, instead="digest"),
        digest=DigestOptions(window_seconds=600),
    )
    assert await is_sent(process, await submit(process, "ana"))
    for _ in range(3):
        stopped = await twice()
        assert (await list_skips(process, stopped))["ana"][0] is SkipReason.RATE_LIMITED
    process.clock.advance(60 * MINUTE)
    assert await is_sent(process, await twice()), "the throttle counted nothing"


async def test_c34_a_message_counts_once_however_often_it_is_tried(start: Start) -> None:
    process = start()
    await process.add_users("ana")
    busy = [RetryLater(process.clock.now(), "busy") for _ in range(3)]
    process.channel.respond = lambda _message: busy.pop() if busy else Accepted(status=201)
    first = await submit(process, "ana", throttle=TWICE)
    for _ in range(4):
        await process.process_queue()
        process.clock.advance(MINUTE)
        await process.pipeline.batch_due()
    assert len(process.channel.sent) == 4
    assert await process.count_by_state(first) == {"delivered": 1}
    assert [await is_sent(process, await submit(process, "ana", throttle=TWICE)) for _ in range(2)] == [True, False]


async def test_c35_urgent_and_mandatory_messages_pass_a_throttle_and_count(start: Start) -> None:
    process = start()
    await process.add_users("ana")
    for _ in range(3):
        assert await is_sent(process, await submit(process, "ana", throttle=TWICE, priority=Priority.URGENT))
    assert not await is_sent(process, await submit(process, "ana", throttle=TWICE))
    duty = ThrottleOptions(1, 600)
    for _ in range(3):
        assert await is_sent(process, await submit(process, "ana", throttle=duty, template="DUTY"))


async def test_frequency_caps_count_all_categories_and_a_refusal_by_one_counts_for_none(start: Start) -> None:
    process = start(limits=RateLimitPolicy(frequency_caps=parse_frequency_caps(["2/day", "3/week"])))
    await process.add_users("ana")
    sent = []
    for _ in range(5):
        sent.append([await is_sent(process, await submit(process, "ana")) for _ in range(3)].count(True))
        process.clock.advance(DAY)
    # two on the first day, one on the second; then the cap of the week. What it refuses is not counted per day
    assert sent == [2, 1, 0, 0, 0]
    process.clock.advance(2 * DAY)
    assert [await is_sent(process, await submit(process, "ana")) for _ in range(3)] == [True, True, False]
    [(_, detail)] = (await list_skips(process, await submit(process, "ana"))).values()
    assert (detail["scope"], detail["limit"], detail["windowSeconds"], detail["count"]) == ("cap", 2, DAY, 2)


async def test_c35_a_mandatory_message_counts_for_a_frequency_cap(start: Start) -> None:
    process = start(limits=RateLimitPolicy(frequency_caps=parse_frequency_caps(["2/day"])))
    await process.add_users("ana")
    for _ in range(3):
        assert await is_sent(process, await submit(process, "ana", template="DUTY"))
    assert not await is_sent(process, await submit(process, "ana"))


async def test_c37_the_cap_of_the_installation_stops_messages_and_an_operator_is_told_once(start: Start) -> None:
    process = start(limits=RateLimitPolicy(installation_cap=3, frequency_caps=parse_frequency_caps(["1/day"])))
    names = [f"user-{number}" for number in range(8)]
    await process.add_users(*names)
    assert process.alerts.list_active() == []
    big = await submit(process, *names[:5])
    assert await process.count_by_state(big) == {"pending": 3}
    skips = await list_skips(process, big)
    assert len(skips) == 2
    for reason, detail in skips.values():
        assert (reason, detail["scope"], detail["limit"]) == (SkipReason.RATE_LIMITED, "installation", 3)
    [alert] = process.alerts.list_active()
    assert (alert.name, alert.subject) == (AlertName.INSTALLATION_CAP_REACHED, "3 messages per hour")
    assert alert.ends_at == process.clock.now() + timedelta(days=1)
    assert await is_sent(process, await submit(process, names[6], priority=Priority.URGENT)), "urgent ones pass"
    assert not await is_sent(process, await submit(process, names[7]))
    assert [one.since for one in process.alerts.list_active()] == [alert.since], "the same alert"
    process.clock.advance(60 * MINUTE)
    # the frequency cap did not count what the installation's cap stopped
    again = await submit(process, *skips)
    assert await process.count_by_state(again) == {"pending": 2}
