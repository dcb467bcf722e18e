"""Who may do what: users only their own things, API keys only what their scopes allow, strangers nothing."""

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
import pytest_asyncio

from tidings.testing.mock_push import SpawnedMockPush
from tidings.testing.server import USER_SECRET, TidingsServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]

#: route → the scopes that open it (admin opens all); `public`, `user` for the others
ROUTES = {
    ("POST", "/api/notifications"): "notify",
    ("POST", "/api/notifications/batch"): "notify",
    ("GET", "/api/notifications"): "read",
    ("GET", "/api/notifications/{notification_id}"): "notify read",
    ("GET", "/api/notifications/{notification_id}/deliveries"): "read",
    ("GET", "/api/notifications/{notification_id}/trace"): "read",
    ("DELETE", "/api/notifications/{notification_id}"): "notify",
    ("POST", "/api/notifications/process"): "notify",
    ("PUT", "/api/notifications/process"): "notify",
    ("GET", "/api/queues"): "read",
    ("GET", "/api/dead-letters"): "read",
    ("GET", "/api/dead-letters/errors"): "read",
    ("POST", "/api/dead-letters/replay"): "admin",
    ("POST", "/api/dead-letters/discard"): "admin",
    ("POST", "/api/users/bulk"): "notify",
    ("PUT", "/api/users/{user_id}"): "notify",
    ("GET", "/api/users/{user_id}"): "read",
    ("DELETE", "/api/users/{user_id}"): "admin",
    ("POST", "/api/users/{user_id}/token"): "notify",
    ("GET", "/api/users/{user_id}/preferences"): "read",
    ("PUT", "/api/users/{user_id}/preferences"): "notify",
    ("GET", "/api/users/me/preferences"): "user",
    ("PUT", "/api/users/me/preferences"): "user",
    ("GET", "/api/push/public-key"): "public",
    ("POST", "/api/push/subscribe"): "user",
    ("DELETE", "/api/push/unsubscribe"): "user",
    ("GET", "/api/push/subscriptions"): "user",
    ("GET", "/api/templates"): "read notify",
    ("GET", "/api/explain"): "read",
    ("GET", "/api/events"): "read",
    ("POST", "/api/events"): "notify",
    ("GET", "/api/events/{event_id}"): "read",
    ("PATCH", "/api/events/{event_id}"): "notify",
    ("POST", "/api/events/{event_id}/publish"): "notify",
    ("POST", "/api/events/{event_id}/cancel"): "notify",
    ("POST", "/api/events/{event_id}/notify"): "admin",
    ("POST", "/api/events/{event_id}/tickets"): "notify",
    ("DELETE", "/api/events/{event_id}/tickets"): "notify",
    ("POST", "/api/events/{event_id}/favourites"): "notify",
    ("DELETE", "/api/events/{event_id}/favourites"): "notify",
    ("GET", "/health/live"): "public",
    ("GET", "/health/ready"): "public",
    ("GET", "/health/queue"): "public",
    ("GET", "/health/worker"): "public",
    ("GET", "/metrics"): "public",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keys(server: TidingsServer) -> dict[str, str]:
    """One API key per scope, made on the command line while the server runs."""
    made = {}
    for scope in ("read", "notify"):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tidings.cli", "keys", "create", "--scope", scope, "--label", scope, "--json"),
            env=server.environment,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        made[scope] = json.loads(output)["key"]
    return made


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def users(server: TidingsServer, push: SpawnedMockPush) -> None:
    for name in ("ana", "bob"):
        await server.expect(201, "PUT", f"/api/users/{name}", {})
        device = {**(await push.control.subscription(name)), "device": f"Phone of {name}"}
        await server.expect(201, "POST", "/api/push/subscribe", device, token=server.user_token(name))


async def test_every_route_is_in_the_table(server: TidingsServer) -> None:
    described = (await server.expect(200, "GET", "/openapi.json", token=None)).read(Json)
    found = {(method.upper(), path) for path, methods in described["paths"].items() for method in methods}
    assert found == set(ROUTES)


def _path(route: str) -> str:
    # an id that does not exist: whoever may not call must not learn that
    path = route.replace("{user_id}", "nobody-knows")
    for name in ("notification_id", "event_id"):
        path = path.replace(f"{{{name}}}", "01a20000-0000-7000-8000-000000000000")
    return path


async def test_each_scope_opens_its_routes_and_no_others(server: TidingsServer, keys: dict[str, str]) -> None:
    wrong = []
    for (method, route), needed in ROUTES.items():
        for scope, key in keys.items():
            answer = await server.call(method, _path(route), {} if method != "GET" else None, token=key)
            allowed = scope in needed.split() or needed == "public"
            refused = answer.status == 403
            if allowed == refused or answer.status in (401, 500):
                wrong.append((method, route, scope, answer.status))
    assert wrong == []


async def test_a_user_token_opens_the_users_own_routes_only(server: TidingsServer) -> None:
    wrong = []
    for (method, route), needed in ROUTES.items():
        answer = await server.call(
            method, _path(route), {} if method != "GET" else None, token=server.user_token("ana")
        )
        expected = {"user": answer.status not in (401, 403, 500), "public": answer.status == 200}
        if not expected.get(needed, answer.status == 403):
            wrong.append((method, route, answer.status))
    assert wrong == []


async def test_strangers_are_told_to_say_who_they_are(server: TidingsServer) -> None:
    now = datetime.now(UTC)
    hour = timedelta(hours=1)
    claims = {"sub": "ana", "exp": int((now + hour).timestamp())}
    strangers = {
        "nothing": None,
        "made-up key": "tdg_" + "A" * 49,
        "another secret": jwt.encode(claims, "another secret that is long enough for it", algorithm="HS256"),
        "no signature": jwt.encode(claims, "", algorithm="none"),
        "expired": jwt.encode({**claims, "exp": int((now - hour).timestamp())}, USER_SECRET, algorithm="HS256"),
        "for ever": jwt.encode({"sub": "ana"}, USER_SECRET, algorithm="HS256"),
        "nobody": jwt.encode({**claims, "sub": ""}, USER_SECRET, algorithm="HS256"),
    }
    wrong = []
    for who, token in strangers.items():
        for (method, route), needed in ROUTES.items():
            if needed == "public":
                continue
            answer = await server.call(method, _path(route), {} if method != "GET" else None, token=token)
            if answer.status != 401 or "www-authenticate" not in answer.headers:
                wrong.append((who, method, route, answer.status))
    assert wrong == []


async def test_a_user_sees_and_changes_only_their_own(server: TidingsServer, push: SpawnedMockPush) -> None:
    ana, bob = server.user_token("ana"), server.user_token("bob")
    off = {"preferences": [{"category": "MESSAGE", "channel": "webpush", "enabled": False}]}
    for method, path, body in (
        ("GET", "/api/users/bob", None),
        ("GET", "/api/users/bob/preferences", None),
        ("PUT", "/api/users/bob/preferences", off),
        ("PUT", "/api/users/bob", {"locale": "de"}),
        ("DELETE", "/api/users/bob", None),
        ("POST", "/api/users/bob/token", {}),
    ):
        assert (await server.call(method, path, body, token=ana)).status == 403, (method, path)
    own = (await server.expect(200, "GET", "/api/push/subscriptions", token=ana)).read(Json)["items"]
    assert [one["device"] for one in own] == ["Phone of ana"]
    bobs = {"endpoint": (await push.control.subscription("bob"))["endpoint"]}
    await server.expect(204, "DELETE", "/api/push/unsubscribe", bobs, token=ana)
    await server.expect(200, "PUT", "/api/users/me/preferences", off, token=ana)
    left = (await server.expect(200, "GET", "/api/push/subscriptions", token=bob)).read(Json)["items"]
    assert [one["device"] for one in left] == ["Phone of bob"]
    assert (await server.expect(200, "GET", "/api/users/bob")).read(Json)["preferences"] == []


async def test_a_token_of_an_erased_user_opens_nothing(server: TidingsServer, push: SpawnedMockPush) -> None:
    await server.expect(201, "PUT", "/api/users/carl", {})
    token = server.user_token("carl")
    body = await push.control.subscription("carl")
    await server.expect(201, "POST", "/api/push/subscribe", body, token=token)
    await server.expect(204, "DELETE", "/api/users/carl")
    assert (await server.call("POST", "/api/push/subscribe", body, token=token)).status == 404
    assert (await server.call("GET", "/api/users/me/preferences", token=token)).status == 404
    assert (await server.expect(200, "GET", "/api/push/subscriptions", token=token)).read(Json)["items"] == []
