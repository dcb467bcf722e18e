"""The rules of feeds (D1 to D6, D13, D14) over the API: the items, the badge, and the published changes."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from tests.support.asgi_client import Client

from tidings.channels.inapp import create_inapp_channel
from tidings.model.delivery import OutboundMessage
from tidings.model.ids import new_id
from tidings.model.inbox import InboxChange, InboxChangeKind, InboxItem
from tidings.model.priority import Priority
from tidings.model.template import Category, RenderedMessage
from tidings.ports.broadcaster import UserChange
from tidings.ports.channel import ComposeContext
from tidings.testing.contracts.inbox_contract import make_item

#: more items than a client loads at once
MANY = 130


async def deliver(call: Client, number: int = 1, *, expires_after: timedelta = timedelta(days=1)) -> list[InboxItem]:
    """Deliver items to u1, one after the other; many in one transaction, in the order of their notifications."""
    now = call.clock.now()
    items = [
        replace(make_item("u1"), id=new_id(now), created_at=now, expires_at=now + expires_after) for _ in range(number)
    ]
    if number > 10:
        items.sort(key=lambda item: item.notification_id)
        async with call.runtime.store.transaction() as tx:
            await call.runtime.store.inbox.add_many(tx, items, now)
        return items
    for item in items:
        await call.runtime.inbox.deliver(item)
    return items


async def change(call: Client, path: str, **body: object) -> dict[str, Any]:
    """Post a change and return the counters that the response has."""
    reply = await call("POST", f"/api/inbox/{path}", json=body or None, user="u1")
    assert reply.status == 200, reply.json
    counts: dict[str, Any] = reply.json
    return counts


async def load_feed(call: Client, query: str = "") -> dict[str, Any]:
    feed: dict[str, Any] = (await call("GET", f"/api/inbox?limit=100{query}", user="u1")).json
    return feed


async def load_item(call: Client, item: InboxItem) -> dict[str, Any]:
    [found] = [one for one in (await load_feed(call))["items"] if one["id"] == item.id]
    shown: dict[str, Any] = found
    return shown


async def badge(call: Client) -> tuple[int, int]:
    """Return (unseen, unread) of the whole feed."""
    counts = (await call("GET", "/api/inbox/counts", user="u1")).json
    return counts["unseen"], counts["unread"]


async def read_changes(stream: AsyncIterator[UserChange], number: int) -> list[InboxChange]:
    """Return the next changes of the feed that a device receives."""
    changes = [await anext(stream) for _ in range(number)]
    found = [one for one in changes if isinstance(one, InboxChange)]
    assert len(found) == number
    return found


async def test_d1_seen_and_read_are_independent_and_the_last_change_holds(call: Client) -> None:
    (item,) = await deliver(call)
    await change(call, f"{item.id}/seen")
    shown = await load_item(call, item)
    assert (shown["seenAt"], shown["readAt"]) == ("2026-11-22T12:00:00Z", None)
    call.clock.time += timedelta(minutes=1)
    await change(call, f"{item.id}/read")
    call.clock.time += timedelta(minutes=1)
    repeated = await change(call, f"{item.id}/read")
    shown = await load_item(call, item)
    assert (shown["seenAt"], shown["readAt"]) == ("2026-11-22T12:00:00Z", "2026-11-22T12:01:00Z")
    assert (await change(call, f"{item.id}/unread"))["version"] == repeated["version"] + 1, "a repeat is no change"
    shown = await load_item(call, item)
    assert (shown["seenAt"], shown["readAt"]) == ("2026-11-22T12:00:00Z", None), (
        "unread is set again, and it stays seen"
    )
    call.clock.time += timedelta(minutes=1)
    await change(call, f"{item.id}/read")
    assert (await load_item(call, item))["readAt"] == "2026-11-22T12:03:00Z"
    await change(call, f"{item.id}/archive")
    await change(call, f"{item.id}/unarchive")
    assert (await load_item(call, item))["readAt"] == "2026-11-22T12:03:00Z", "the archive is apart"


async def test_d2_only_what_was_shown_becomes_seen(call: Client) -> None:
    items = await deliver(call, MANY)
    page = (await call("GET", "/api/inbox?limit=20", user="u1")).json
    assert page["counts"]["unseen"] == MANY, "loading a page marks nothing"
    counts = await change(call, "seen", ids=[one["id"] for one in page["items"]])
    assert (counts["unseen"], counts["unread"]) == (MANY - 20, MANY)
    assert (await load_item(call, items[-1]))["seenAt"] is not None
    assert (await load_feed(call))["items"][20]["seenAt"] is None


async def test_d3_the_badge_covers_the_whole_feed_and_is_right_after_every_change(call: Client) -> None:
    items = await deliver(call, MANY)
    (short,) = await deliver(call, expires_after=timedelta(minutes=5))
    total = MANY + 1
    assert await badge(call) == (total, total), "more than one page"
    await change(call, "read-all", upTo=items[9].id)
    assert await badge(call) == (total - 10, total - 10)
    await change(call, f"{items[10].id}/archive")
    await change(call, f"{items[11].id}/snooze", until="2026-11-22T18:00:00Z")
    assert await badge(call) == (total - 12, total - 12)
    assert await call.runtime.inbox.recall(items[12].notification_id) == 1
    assert await badge(call) == (total - 13, total - 13)
    call.clock.time += timedelta(minutes=5)
    assert await badge(call) == (total - 14, total - 14), f"{short.id} expired"
    await change(call, f"{items[10].id}/unarchive")
    await change(call, f"{items[11].id}/snooze", until=None)
    assert await badge(call) == (total - 12, total - 12)
    assert await call.runtime.inbox.purge(call.clock.now() + timedelta(days=1)) > 0
    assert await badge(call) == (0, 0), "deleted"


async def test_d4_what_arrives_after_the_boundary_stays_unread(call: Client) -> None:
    shown = await deliver(call, 3)
    (late,) = await deliver(call)
    assert (await change(call, "read-all", upTo=shown[-1].id))["unread"] == 1
    unread = (await call("GET", "/api/inbox?state=unread", user="u1")).json["items"]
    assert [one["id"] for one in unread] == [late.id]


async def test_d5_every_change_reaches_the_other_devices_with_absolute_counters(call: Client) -> None:
    async with call.runtime.broadcaster.subscribe("u1") as phone, call.runtime.broadcaster.subscribe("u1") as laptop:
        first, second = await deliver(call, 2)
        steps = ("seen", "read", "unread", "archive", "unarchive")
        counts = [await change(call, f"{first.id}/{step}") for step in steps]
        counts.append(await change(call, f"{first.id}/snooze", until="2026-11-22T18:00:00Z"))
        counts.append(await change(call, f"{first.id}/snooze", until=None))
        counts.append(await change(call, "read-all", upTo=second.id))
        streams = [aiter(phone), aiter(laptop)]
        received = [await read_changes(stream, 10) for stream in streams]
    assert received[0] == received[1]
    kinds = [InboxChangeKind.ADDED] * 2
    kinds += [InboxChangeKind(name) for name in ("seen", "read", "unread", "archived", "unarchived", "snoozed")]
    assert [one.kind for one in received[0]] == [*kinds, InboxChangeKind.RETURNED, InboxChangeKind.READ_ALL]
    published = [(one.counts.unseen, one.counts.unread, one.counts.version) for one in received[0]]
    assert published[2:] == [(one["unseen"], one["unread"], one["version"]) for one in counts], "never as a difference"
    assert [version for *_, version in published] == list(range(1, 11)), "a missed event is noticed by the version"


async def test_d6_pages_neither_repeat_nor_skip_while_items_arrive(call: Client) -> None:
    older = [item.id for item in await deliver(call, 25)]
    shown: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        query = f"&cursor={cursor}" if cursor else ""
        page = (await call("GET", f"/api/inbox?limit=10{query}", user="u1")).json
        shown += [one["id"] for one in page["items"]]
        cursor = page["nextCursor"]
        await deliver(call, 3)
    assert shown == older[::-1]
    assert len((await load_feed(call))["items"]) == 34, "what arrived is above: the head of the next visit"


@pytest.mark.parametrize(
    ("now", "returns_at"),
    [
        ("2026-11-22T12:00:00Z", "2026-11-23T08:00:00Z"),
        # the clocks of Zurich go forward on this night: 09:00 is 07:00 UTC
        ("2027-03-27T12:00:00Z", "2027-03-28T07:00:00Z"),
        # already tomorrow in Zurich
        ("2026-11-22T23:30:00Z", "2026-11-24T08:00:00Z"),
    ],
)
async def test_d13_a_snoozed_item_returns_as_unread_at_nine_of_the_users_tomorrow(
    call: Client, now: str, returns_at: str
) -> None:
    call.clock.time = datetime.fromisoformat(now)
    (item,) = await deliver(call, expires_after=timedelta(days=9))
    await change(call, f"{item.id}/read")
    async with call.runtime.broadcaster.subscribe("u1") as events:
        await change(call, f"{item.id}/snooze", until="tomorrow")
        call.clock.time = datetime.fromisoformat(returns_at) - timedelta(seconds=1)
        assert await call.runtime.inbox.settle_due() == 0
        call.clock.time = datetime.fromisoformat(returns_at)
        assert await call.runtime.inbox.settle_due() == 1, "without a request of the user"
        snoozed, returned = await read_changes(aiter(events), 2)
    assert (snoozed.kind, returned.kind) == (InboxChangeKind.SNOOZED, InboxChangeKind.RETURNED)
    assert (returned.counts.unseen, returned.counts.unread) == (1, 1)
    assert await badge(call) == (1, 1)


async def test_d13_a_snooze_is_ended_by_the_user_or_by_the_archive(call: Client) -> None:
    first, second = await deliver(call, 2)
    for item in (first, second):
        await change(call, f"{item.id}/snooze", until="2026-11-22T18:00:00Z")
    assert await badge(call) == (0, 0)
    assert (await change(call, f"{first.id}/snooze", until=None))["unread"] == 1
    await change(call, f"{second.id}/archive")
    call.clock.time = datetime(2026, 11, 22, 19, tzinfo=UTC)
    assert [one["id"] for one in (await load_feed(call))["items"]] == [first.id], "the archived one does not return"


async def test_d14_recalled_and_expired_items_leave_open_feeds_and_the_badge(call: Client) -> None:
    recalled, kept = await deliver(call, 2)
    (expiring,) = await deliver(call, expires_after=timedelta(minutes=5))
    async with call.runtime.broadcaster.subscribe("u1") as events:
        await call.runtime.inbox.recall(recalled.notification_id)
        call.clock.time += timedelta(minutes=5)
        await call.runtime.inbox.settle_due()
        removed = await read_changes(aiter(events), 2)
    assert [(one.kind, list(one.item_ids)) for one in removed] == [
        (InboxChangeKind.REMOVED, [recalled.id]),
        (InboxChangeKind.REMOVED, [expiring.id]),
    ]
    assert [one["id"] for one in (await load_feed(call))["items"]] == [kept.id]
    assert await badge(call) == (1, 1)


async def send_update(call: Client, title: str, category: str, **fields: str) -> None:
    """Send a message about `order:1` over the in-app channel."""
    channel = create_inapp_channel(call.runtime.store, call.clock, call.runtime.broadcaster)
    now = call.clock.now()
    expires_at = now + timedelta(days=1)
    context = ComposeContext(new_id(now), new_id(now), "u1", Category(category, "x"), "order:1", expires_at, "UTC")
    payload = channel.compose(RenderedMessage(title, "Body", "https://x.example/", "en", fields=fields), context)
    target: Any = None
    await channel.send(
        OutboundMessage(
            context.delivery_id,
            context.notification_id,
            target,
            payload,
            Priority.NORMAL,
            expires_at,
            1,
            context.collapse_key,
        )
    )


@pytest.mark.parametrize(
    ("category", "fields", "is_new"),
    [
        ("ORDER", {}, False),
        ("ORDER", {"renotify": "true"}, True),
        ("REFUND", {}, True),
    ],
    ids=["an update", "an update that renotifies", "another kind of notification"],
)
async def test_d14_an_update_keeps_position_and_read_state_unless_it_renotifies(
    call: Client, category: str, fields: dict[str, str], is_new: bool
) -> None:
    await send_update(call, "Packed", "ORDER")
    (first,) = (await load_feed(call))["items"]
    (other,) = await deliver(call)
    await change(call, f"{first['id']}/read")
    # the order of notifications is that of their ids, which are made of the time
    call.clock.time += timedelta(seconds=1)
    await send_update(call, "Shipped", category, **fields)
    items = (await load_feed(call))["items"]
    expected = ["Shipped", other.title] if is_new else [other.title, "Shipped"]
    assert [one["title"] for one in items] == expected
    [update] = [one for one in items if one["title"] == "Shipped"]
    assert (update["readAt"] is None) is is_new
    assert await badge(call) == ((2, 2) if is_new else (1, 1))
