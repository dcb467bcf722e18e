"""The feed of a user over the API."""

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from tests.support.asgi_client import Client

from tidings.model.ids import new_id
from tidings.model.inbox import InboxChange, InboxChangeKind, InboxItem
from tidings.testing.contracts.inbox_contract import make_item
from tidings.testing.contracts.samples import create_planned_notification, make_notification


def item_for(call: Client, user_id: str = "u1", notification_id: str | None = None) -> InboxItem:
    """Return an item that arrives now and expires in a day of the application's clock."""
    now = call.clock.now()
    return replace(
        make_item(user_id, notification_id), id=new_id(now), created_at=now, expires_at=now + timedelta(days=1)
    )


async def deliver(call: Client, number: int = 1, user_id: str = "u1") -> list[InboxItem]:
    """Deliver items to a user, one after the other."""
    items = [item_for(call, user_id) for _ in range(number)]
    for item in items:
        await call.runtime.inbox.deliver(item)
    return items


async def load_counts(call: Client, user: str = "u1") -> tuple[int, int]:
    counts = (await call("GET", "/api/inbox/counts", user=user)).json
    return counts["unseen"], counts["unread"]


async def test_a_feed_shows_items_with_the_counters(call: Client) -> None:
    (item,) = await deliver(call)
    reply = await call("GET", "/api/inbox", user="u1")
    assert (reply.status, reply.json["nextCursor"]) == (200, None)
    assert reply.json["counts"] == {"unseen": 1, "unread": 1, "version": 1}
    (shown,) = reply.json["items"]
    assert shown == {
        "id": item.id,
        "notificationId": item.notification_id,
        "category": "NEWS",
        "title": "Grüße <b>",
        "body": "You",
        "url": "https://example.org/orders/1",
        "actions": [{"action": "open", "title": "Open", "navigate": "https://example.org/orders/1"}],
        "lang": "en",
        "direction": "ltr",
        "priority": "high",
        "collapseKey": item.notification_id,
        "state": "active",
        "createdAt": "2026-11-22T12:00:00Z",
        "expiresAt": "2026-11-23T12:00:00Z",
        "seenAt": None,
        "readAt": None,
        "archivedAt": None,
        "snoozedUntil": None,
    }


async def test_the_list_of_notifications_with_a_user_token_is_the_feed(call: Client) -> None:
    await deliver(call, 3)
    url = "/api/notifications?state=unread&limit=2"
    first, same = await call("GET", url, user="u1"), await call("GET", "/api/inbox?state=unread&limit=2", user="u1")
    assert (first.status, first.json) == (200, same.json)
    assert first.headers["ratelimit-limit"] == "300"
    rest = await call("GET", f"{url}&cursor={first.json['nextCursor']}", user="u1")
    assert (len(first.json["items"]), len(rest.json["items"]), rest.json["nextCursor"]) == (2, 1, None)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("state=accepted", "state"),
        ("userId=u2", "userId"),
        ("category=NEWS", "category"),
        ("templateCode=NEWS", "templateCode"),
        ("limit=500", "limit"),
        ("cursor=nonsense", "cursor"),
        ("cursor=0", "cursor"),
        ("cursor=9999999999999999999", "cursor"),
    ],
)
async def test_a_user_token_cannot_use_the_filters_of_servers(call: Client, query: str, field: str) -> None:
    reply = await call("GET", f"/api/notifications?{query}", user="u1")
    assert (reply.status, [error["field"] for error in reply.json["errors"]]) == (422, [field])


@pytest.mark.parametrize("query", ["state=unread", "cursor=12"])
async def test_an_api_key_cannot_use_the_parameters_of_feeds(call: Client, query: str) -> None:
    assert (await call("GET", f"/api/notifications?{query}")).status == 422


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/inbox"),
        ("GET", "/api/inbox/counts"),
        ("POST", "/api/inbox/seen"),
        ("POST", "/api/inbox/read-all"),
        ("POST", "/api/inbox/x/read"),
        ("POST", "/api/inbox/x/snooze"),
    ],
)
async def test_feeds_need_a_user_token(call: Client, method: str, path: str) -> None:
    assert (await call(method, path, key=None)).status == 401
    refused = await call(method, path)
    assert (refused.status, refused.json["code"]) == (403, "needs_user_token")


async def test_an_item_is_seen_read_and_unread_again(call: Client) -> None:
    (item, _) = await deliver(call, 2)
    seen = await call("POST", "/api/inbox/seen", json={"ids": [item.id, "unknown"]}, user="u1")
    assert (seen.status, seen.json) == (200, {"unseen": 1, "unread": 2, "version": 3})
    read = await call("POST", f"/api/inbox/{item.id}/read", user="u1")
    again = await call("POST", f"/api/inbox/{item.id}/read", user="u1")
    assert read.json == again.json == {"unseen": 1, "unread": 1, "version": 4}
    unread = await call("POST", f"/api/inbox/{item.notification_id}/unread", user="u1")
    assert unread.json == {"unseen": 1, "unread": 2, "version": 5}
    assert (await call("POST", f"/api/inbox/{item.id}/seen", user="u1")).json == unread.json


async def test_marking_all_as_read_takes_the_newest_item_shown(call: Client) -> None:
    items = await deliver(call, 3)
    reply = await call("POST", "/api/inbox/read-all", json={"upTo": items[1].id}, user="u1")
    assert (reply.status, reply.json["unread"]) == (200, 1)
    assert (await call("POST", "/api/inbox/read-all", json={"upTo": items[1].id}, user="u1")).json == reply.json
    for boundary in (items[2].notification_id, "nonsense"):
        wrong = await call("POST", "/api/inbox/read-all", json={"upTo": boundary}, user="u1")
        assert (wrong.status, wrong.json["errors"][0]["field"]) == (422, "upTo")


async def test_an_item_is_archived_and_moved_back(call: Client) -> None:
    (item,) = await deliver(call)
    assert (await call("POST", f"/api/inbox/{item.id}/archive", user="u1")).json["unread"] == 0
    archived = (await call("GET", "/api/inbox?state=archived", user="u1")).json["items"]
    assert [(one["id"], one["state"]) for one in archived] == [(item.id, "archived")]
    assert (await call("GET", "/api/inbox", user="u1")).json["items"] == []
    refused = await call("POST", f"/api/inbox/{item.id}/snooze", json={"until": "tomorrow"}, user="u1")
    assert (refused.status, refused.json["code"]) == (409, "item_archived")
    assert (await call("POST", f"/api/inbox/{item.id}/unarchive", user="u1")).json["unread"] == 1
    await call("POST", f"/api/inbox/{item.id}/archive", user="u1")
    call.clock.time += timedelta(days=2)
    late = await call("POST", f"/api/inbox/{item.id}/unarchive", user="u1")
    assert (late.status, late.json["code"]) == (409, "item_expired")


async def test_an_item_snoozed_until_tomorrow_returns_at_nine_in_the_users_zone(call: Client) -> None:
    (item,) = await deliver(call)
    async with call.runtime.broadcaster.subscribe("u1") as events:
        reply = await call("POST", f"/api/inbox/{item.id}/snooze", json={"until": "tomorrow"}, user="u1")
        assert (reply.status, reply.json["unread"]) == (200, 0)
        # Zurich is an hour ahead of UTC in November
        call.clock.time = call.clock.time.replace(day=23, hour=7, minute=59)
        assert await load_counts(call) == (0, 0)
        call.clock.time += timedelta(minutes=1)
        assert await load_counts(call) == (1, 1)
        stream = aiter(events)
        assert [(await anext(stream)).kind for _ in range(2)] == [InboxChangeKind.SNOOZED, InboxChangeKind.RETURNED]


@pytest.mark.parametrize("until", ["2026-11-22T12:00:00Z", "2028-01-01T00:00:00Z", "2026-11-24T12:00:00Z", "soon", 5])
async def test_a_snooze_must_end_in_the_future_and_before_the_expiry(call: Client, until: object) -> None:
    (item,) = await deliver(call)
    reply = await call("POST", f"/api/inbox/{item.id}/snooze", json={"until": until}, user="u1")
    assert reply.status == 422
    assert {error["field"].split(".")[0] for error in reply.json["errors"]} == {"until"}


async def test_a_snooze_is_ended_by_null(call: Client) -> None:
    (item,) = await deliver(call)
    await call("POST", f"/api/inbox/{item.id}/snooze", json={"until": "2026-11-22T18:00:00Z"}, user="u1")
    assert await load_counts(call) == (0, 0)
    assert (await call("POST", f"/api/inbox/{item.id}/snooze", json={"until": None}, user="u1")).json["unread"] == 1
    assert (await call("POST", f"/api/inbox/{item.id}/snooze", json={}, user="u1")).status == 422


async def test_the_counters_are_right_after_an_expiry(call: Client) -> None:
    await deliver(call, 2)
    call.clock.time += timedelta(days=1)
    feed = (await call("GET", "/api/inbox", user="u1")).json
    assert (feed["items"], feed["counts"]["unseen"]) == ([], 0)


@pytest.mark.parametrize("action", ["seen", "read", "unread", "archive", "unarchive"])
async def test_the_items_of_others_are_unknown(call: Client, action: str) -> None:
    (item,) = await deliver(call)
    for item_id in (item.id, item.notification_id, "nonsense"):
        reply = await call("POST", f"/api/inbox/{item_id}/{action}", user="u2")
        assert (reply.status, reply.json["code"]) == (404, "unknown_item")
    assert await load_counts(call) == (1, 1)


async def test_opening_a_push_message_reads_the_item_that_arrives_later(call: Client) -> None:
    planned = await create_planned_notification(call.runtime.store, "u1")
    notification_id = planned.notification.id
    assert (await call("POST", f"/api/inbox/{notification_id}/read", user="u1")).status == 200
    assert (await call("POST", f"/api/inbox/{notification_id}/archive", user="u1")).status == 404
    await call.runtime.inbox.deliver(item_for(call, "u1", notification_id))
    assert await load_counts(call) == (0, 0)


async def test_a_recall_removes_the_items_and_may_be_repeated(call: Client) -> None:
    notification = make_notification()
    async with call.runtime.store.transaction() as tx:
        await call.runtime.store.notifications.add_many(tx, [notification])
    for user_id in ("u1", "u2"):
        await call.runtime.inbox.deliver(item_for(call, user_id, notification.id))
    url = f"/api/notifications/{notification.id}/recall"
    assert (await call("POST", url, user="u1")).status == 403
    async with call.runtime.broadcaster.subscribe("u2") as events:
        reply = await call("POST", url)
        assert (reply.status, reply.json) == (200, {"id": notification.id, "recalled": 2})
        removed = await anext(aiter(events))
    assert isinstance(removed, InboxChange)
    assert (removed.kind, removed.counts.unread, removed.counts.version) == (InboxChangeKind.REMOVED, 0, 2)
    assert (await call("POST", url)).json["recalled"] == 0
    assert (await call("GET", f"/api/notifications/{notification.id}")).json["status"] == "cancelled"
    assert (await call("POST", "/api/notifications/nonsense/recall")).status == 404


async def test_changes_are_published_after_the_commit_with_absolute_counters(call: Client) -> None:
    async with call.runtime.broadcaster.subscribe("u1") as events:
        items = await deliver(call, 2)
        await deliver(call, 1, "u2")
        await call("POST", "/api/inbox/read-all", json={"upTo": items[1].id}, user="u1")
        stream = aiter(events)
        found: list[Any] = [await anext(stream) for _ in range(3)]
    assert [(one.kind, one.counts.unread, one.counts.version) for one in found] == [
        (InboxChangeKind.ADDED, 1, 1),
        (InboxChangeKind.ADDED, 2, 2),
        (InboxChangeKind.READ_ALL, 0, 3),
    ]
    assert [one.items[0].id for one in found[:2]] == [item.id for item in items]


async def test_the_document_describes_both_callers_of_the_list(call: Client) -> None:
    document = (await call("GET", "/openapi.json", key=None)).json
    listing = document["paths"]["/api/notifications"]["get"]
    assert sorted(name for one in listing["security"] for name in one) == ["apiKey", "userToken"]
    assert "/api/inbox/{item_id}/snooze" in document["paths"]


async def test_maintenance_deletes_items_beyond_the_retention(call: Client) -> None:
    await deliver(call)
    call.clock.time += timedelta(days=call.runtime.settings.retention_days + 1)
    await deliver(call)
    await call.runtime.run_maintenance()
    assert len((await call("GET", "/api/users/u1")).json["inbox"]) == 1
    assert await load_counts(call) == (1, 1)
