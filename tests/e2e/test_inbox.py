"""Feeds over real HTTP: two devices of one user at the same time, and what arrives meanwhile."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from tests.support.server import SECRET_KEY, TidingsServer, eventually

from tidings.config.settings import Settings
from tidings.container import AppContainer
from tidings.model.inbox import InboxItem
from tidings.testing.contracts.inbox_contract import make_item

pytestmark = pytest.mark.asyncio(loop_scope="module")


def make_items(number: int) -> list[InboxItem]:
    now = datetime.now(UTC)
    return [replace(make_item("ana"), created_at=now, expires_at=now + timedelta(days=3)) for _ in range(number)]


async def test_two_devices_and_arrivals_at_once_leave_counters_that_equal_the_feed(server: TidingsServer) -> None:
    assert (await server.call("PUT", "/api/users/ana", {})).status == 201
    token = server.user_token("ana")

    async def call(method: str, path: str, body: object = None) -> Any:
        response = await server.call(method, path, body, token=token)
        assert response.status == 200, response.body
        return response.read(dict[str, Any])

    settings = Settings(data_dir=server.data_dir, secret_key=SECRET_KEY)
    # another process of the installation, which delivers
    async with AppContainer.open(settings) as runtime:
        items = make_items(12)
        for item in items:
            await runtime.inbox.deliver(item)
        ids = [item.id for item in items]
        results = await asyncio.gather(
            *(call("POST", "/api/inbox/seen", {"ids": ids[:8]}) for _ in range(2)),
            *(call("POST", f"/api/inbox/{item_id}/read") for item_id in ids[:4] for _ in range(2)),
            call("POST", f"/api/inbox/{ids[11]}/archive"),
            call("POST", f"/api/inbox/{ids[10]}/snooze", {"until": "tomorrow"}),
            *(runtime.inbox.deliver(item) for item in make_items(3)),
        )
    versions = [one["version"] for one in results if one is not None]
    feed = await call("GET", "/api/inbox?limit=100")
    assert feed["counts"] == await call("GET", "/api/inbox/counts")
    assert feed["counts"]["version"] >= max(versions)
    assert len(feed["items"]) == 13
    assert feed["counts"]["unseen"] == sum(item["seenAt"] is None for item in feed["items"]) == 5
    assert feed["counts"]["unread"] == sum(item["readAt"] is None for item in feed["items"]) == 9

    shown: list[str] = []
    page = await call("GET", "/api/notifications?state=all&limit=5")
    while True:
        shown += [item["id"] for item in page["items"]]
        if page["nextCursor"] is None:
            break
        page = await call("GET", f"/api/notifications?state=all&limit=5&cursor={page['nextCursor']}")
    assert shown == [item["id"] for item in feed["items"]]
    done = await call("POST", "/api/inbox/read-all", {"upTo": shown[0]})
    assert (done["unseen"], done["unread"]) == (0, 0)


async def test_a_snoozed_item_returns_without_a_request(server: TidingsServer) -> None:
    await server.expect(201, "PUT", "/api/users/ben", {})
    settings = Settings(data_dir=server.data_dir, secret_key=SECRET_KEY)
    async with AppContainer.open(settings) as runtime:
        (item,) = (replace(one, user_id="ben") for one in make_items(1))
        await runtime.inbox.deliver(item)
        until = (datetime.now(UTC) + timedelta(seconds=0.5)).isoformat()
        path, token = f"/api/inbox/{item.id}/snooze", server.user_token("ben")
        await server.expect(200, "POST", path, {"until": until}, token=token)

        async def has_returned() -> bool:
            # reads the rows: a request for the feed would itself return the item
            async with runtime.store.read_once() as tx:
                return (await runtime.store.inbox.get_counts(tx, "ben")).unread == 1

        await eventually(has_returned)
