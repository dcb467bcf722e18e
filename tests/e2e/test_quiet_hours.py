"""Quiet hours with real servers: a held message is sent when the schedule or a time zone changes, without waiting.

On SQLite in one process, and on PostgreSQL and Valkey with an API process and a worker.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from tests.support.cluster import ServerProcess
from tests.support.server import TidingsServer, eventually

from tidings.mockpush import SpawnedMockPush
from tidings.testing.postgres import PostgresServer
from tidings.testing.valkey import ValkeyServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]
WORDS = {"templateCode": "MESSAGE", "variables": {"title": "Doors", "body": "Open at six"}}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["sqlite", "scaled"])
async def api(
    request: pytest.FixtureRequest, push: SpawnedMockPush, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[TidingsServer]:
    folder = tmp_path_factory.mktemp("quiet") / "data"
    settings = {"TIDINGS_PUSH_EXTRA_HOSTS": push.origin.removeprefix("http://"), "TIDINGS_INAPP__ENABLED": "true"}
    async with AsyncExitStack() as stack:
        if request.param == "sqlite":
            yield await stack.enter_async_context(TidingsServer(folder, settings=settings))
            return
        postgres = stack.enter_context(PostgresServer(settings=("fsync=off",)))
        valkey = stack.enter_context(ValkeyServer())
        settings |= {"TIDINGS_DATABASE": postgres.create_database(), "TIDINGS_REDIS": valkey.url}
        server, worker = (ServerProcess(role, folder, settings=settings) for role in ("api", "worker"))
        await asyncio.gather(stack.enter_async_context(server), stack.enter_async_context(worker))
        yield server


def quiet_around_now(timezone: str = "UTC") -> Json:
    """Return a schedule whose quiet hours in UTC began two hours ago and end in two."""
    start, end = (f"{datetime.now(UTC) + timedelta(hours=hours):%H:%M}" for hours in (-2, 2))
    return {"timezone": timezone, "quietHours": [{"start": start, "end": end, "channels": ["webpush"]}]}


async def sign_up(api: TidingsServer, push: SpawnedMockPush, user: str, **device: str) -> Json:
    await api.expect(201, "PUT", f"/api/users/{user}", {})
    body = {**await push.control.subscription(user), **device}
    await api.expect(201, "POST", "/api/push/subscribe", body, token=api.user_token(user))
    return body


async def notify(api: TidingsServer, user: str, **options: str) -> str:
    body = {"userId": user, **WORDS, "options": options}
    notification: str = (await api.expect(202, "POST", "/api/notifications", body)).read(Json)["id"]
    return notification


async def wait_for_states(api: TidingsServer, notification: str, states: Json) -> Sequence[Json]:
    """Wait until the deliveries are in these states, by channel, and return them."""
    path = f"/api/notifications/{notification}/deliveries"

    async def reached() -> Sequence[Json] | None:
        items: list[Json] = (await api.expect(200, "GET", path)).read(Json)["items"]
        return items if {one["channel"]: one["state"] for one in items} == states else None

    return await eventually(reached, within=60, pause=0.1)


async def test_c29_a_held_message_is_sent_when_the_user_ends_the_quiet_hours(
    api: TidingsServer, push: SpawnedMockPush
) -> None:
    await sign_up(api, push, "ana")
    token = api.user_token("ana")
    saved = await api.expect(200, "PUT", "/api/users/me/schedule", quiet_around_now(), token=token)
    assert (await api.expect(200, "GET", "/api/users/ana/schedule")).read(Json) == saved.read(Json)
    notification = await notify(api, "ana")
    items = await wait_for_states(api, notification, {"inapp": "delivered", "webpush": "pending"})
    [held] = [one for one in items if one["channel"] == "webpush"]
    assert held["detail"]["timezone"] == "UTC"
    assert held["attempts"] == []
    urgent = await notify(api, "ana", priority="urgent")
    await wait_for_states(api, urgent, {"inapp": "delivered", "webpush": "delivered"})
    await api.expect(200, "PUT", "/api/users/me/schedule", {"quietHours": []}, token=token)
    await wait_for_states(api, notification, {"inapp": "delivered", "webpush": "delivered"})


async def test_c29_a_held_message_is_sent_when_the_device_reports_another_zone(
    api: TidingsServer, push: SpawnedMockPush
) -> None:
    device = await sign_up(api, push, "ben", timezone="Etc/GMT")
    await api.expect(200, "PUT", "/api/users/ben/schedule", quiet_around_now("Asia/Tokyo"))
    notification = await notify(api, "ben")
    items = await wait_for_states(api, notification, {"inapp": "delivered", "webpush": "pending"})
    assert [one["detail"]["timezoneFrom"] for one in items if one["channel"] == "webpush"] == ["device"]
    abroad = device | {"timezone": "Etc/GMT+10"}
    await api.expect(200, "POST", "/api/push/subscribe", abroad, token=api.user_token("ben"))
    await wait_for_states(api, notification, {"inapp": "delivered", "webpush": "delivered"})


async def test_c30_what_was_cancelled_or_superseded_meanwhile_is_not_sent_at_the_release(
    api: TidingsServer, push: SpawnedMockPush
) -> None:
    await sign_up(api, push, "cleo")
    before = len(await push.control.messages(device="cleo"))
    await api.expect(200, "PUT", "/api/users/cleo/schedule", quiet_around_now())
    waiting = {"inapp": "delivered", "webpush": "pending"}
    older, newer, cancelled = [
        await notify(api, "cleo", subject=subject) for subject in ("doors", "doors", "something else")
    ]
    await wait_for_states(api, newer, waiting)
    await wait_for_states(api, cancelled, waiting)
    await api.expect(200, "DELETE", f"/api/notifications/{cancelled}")
    await api.expect(200, "PUT", "/api/users/cleo/schedule", {})
    await wait_for_states(api, newer, {"inapp": "delivered", "webpush": "delivered"})

    async def has_ended() -> bool:
        found = []
        for notification in (older, cancelled):
            path = f"/api/notifications/{notification}/deliveries"
            items = (await api.expect(200, "GET", path)).read(Json)["items"]
            found += [one["state"] for one in items if one["channel"] == "webpush"]
        return set(found) <= {"skipped", "cancelled"} and "cancelled" in found

    await eventually(has_ended, within=60, pause=0.1)
    assert len(await push.control.messages(device="cleo")) == before + 1
