"""Access control: users reach only their own resources, API keys only what their scopes allow."""

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
import pytest_asyncio
from tests.support.server import USER_SECRET, TidingsServer

from tidings.mockpush import SpawnedMockPush

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]

#: route → scopes that grant access (admin grants all), or `public` or `user`
ROUTES = {
    ("POST", "/api/notifications"): "notify",
    ("POST", "/api/notifications/batch"): "notify",
    ("GET", "/api/notifications"): "read user",
    ("GET", "/api/notifications/{notification_id}"): "notify read",
    ("GET", "/api/notifications/{notification_id}/deliveries"): "read",
    ("GET", "/api/notifications/{notification_id}/trace"): "read",
    ("DELETE", "/api/notifications/{notification_id}"): "notify",
    ("POST", "/api/notifications/{notification_id}/recall"): "notify",
    ("POST", "/api/notifications/process"): "notify",
    ("PUT", "/api/notifications/process"): "notify",
    ("GET", "/api/queues"): "read",
    ("GET", "/api/providers"): "read",
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
    ("PATCH", "/api/users/{user_id}/preferences"): "notify",
    ("GET", "/api/users/me/preferences"): "user",
    ("PUT", "/api/users/me/preferences"): "user",
    ("GET", "/api/users/me/topics"): "user",
    ("GET", "/api/users/me/topics/{topic}"): "user",
    ("PUT", "/api/users/me/topics/{topic}"): "user",
    ("DELETE", "/api/users/me/topics/{topic}"): "user",
    ("GET", "/api/users/{user_id}/topics"): "read",
    ("GET", "/api/users/{user_id}/topics/{topic}"): "read",
    ("PUT", "/api/users/{user_id}/topics/{topic}"): "notify",
    ("DELETE", "/api/users/{user_id}/topics/{topic}"): "notify",
    ("GET", "/api/users/{user_id}/schedule"): "read",
    ("PUT", "/api/users/{user_id}/schedule"): "notify",
    ("GET", "/api/users/me/schedule"): "user",
    ("PUT", "/api/users/me/schedule"): "user",
    ("PATCH", "/api/users/me/preferences"): "user",
    ("GET", "/api/users/me/contact-points"): "user",
    ("POST", "/api/users/me/contact-points"): "user",
    ("DELETE", "/api/users/me/contact-points/{contact_point_id}"): "user",
    ("POST", "/api/users/me/contact-points/{contact_point_id}/rotate-secret"): "user",
    ("POST", "/api/users/me/contact-points/{contact_point_id}/enable"): "user",
    ("POST", "/api/users/me/contact-points/{contact_point_id}/replay"): "user",
    ("GET", "/api/users/{user_id}/contact-points"): "notify read",
    ("POST", "/api/users/{user_id}/contact-points"): "notify",
    ("DELETE", "/api/users/{user_id}/contact-points/{contact_point_id}"): "notify",
    ("POST", "/api/users/{user_id}/contact-points/{contact_point_id}/rotate-secret"): "notify",
    ("POST", "/api/users/{user_id}/contact-points/{contact_point_id}/enable"): "notify",
    ("POST", "/api/users/{user_id}/contact-points/{contact_point_id}/replay"): "notify",
    ("GET", "/api/push/public-key"): "public",
    ("POST", "/api/push/subscribe"): "user",
    ("POST", "/api/push/renew"): "proof",
    ("POST", "/api/push/receipts"): "proof",
    ("DELETE", "/api/push/unsubscribe"): "user",
    ("GET", "/api/push/subscriptions"): "user",
    ("GET", "/api/inbox"): "user",
    ("GET", "/api/inbox/counts"): "user",
    ("POST", "/api/inbox/seen"): "user",
    ("POST", "/api/inbox/read-all"): "user",
    ("POST", "/api/inbox/{item_id}/seen"): "user",
    ("POST", "/api/inbox/{item_id}/read"): "user",
    ("POST", "/api/inbox/{item_id}/unread"): "user",
    ("POST", "/api/inbox/{item_id}/archive"): "user",
    ("POST", "/api/inbox/{item_id}/unarchive"): "user",
    ("POST", "/api/inbox/{item_id}/snooze"): "user",
    ("POST", "/api/tickets"): "user",
    ("GET", "/api/streams/clients"): "read",
    ("GET", "/api/streams/{event_id}"): "read user",
    ("PUT", "/api/streams/{event_id}"): "notify user",
    ("GET", "/api/streams/{event_id}/clients"): "read user",
    ("GET", "/api/users/me/stream-settings"): "user",
    ("PUT", "/api/users/me/stream-settings"): "user",
    ("GET", "/api/templates"): "read notify",
    ("GET", "/api/channels"): "read",
    ("POST", "/api/channels/{channel}/test"): "admin",
    ("GET", "/api/audiences"): "read notify",
    ("GET", "/api/audiences/{name}"): "read notify",
    ("PUT", "/api/audiences/{name}"): "notify",
    ("DELETE", "/api/audiences/{name}"): "notify",
    ("POST", "/api/audiences/estimate"): "read notify",
    ("GET", "/api/audiences/{name}/estimate"): "read notify",
    ("GET", "/api/audiences/{name}/stats"): "read notify",
    ("GET", "/api/recurring"): "read notify",
    ("GET", "/api/recurring/{name}"): "read notify",
    ("PUT", "/api/recurring/{name}"): "notify",
    ("DELETE", "/api/recurring/{name}"): "notify",
    ("POST", "/api/recurring/{name}/pause"): "notify",
    ("POST", "/api/recurring/{name}/resume"): "notify",
    ("POST", "/api/recurring/{name}/run"): "notify",
    ("GET", "/api/recurring/{name}/runs"): "read notify",
    ("GET", "/api/recurring/{name}/runs/{run_id}"): "read notify",
    ("POST", "/api/recurring/{name}/runs/{run_id}/repeat"): "notify",
    ("GET", "/api/suppressions"): "read",
    ("POST", "/api/suppressions"): "admin",
    ("DELETE", "/api/suppressions"): "admin",
    ("DELETE", "/api/suppressions/{suppression_id}"): "admin",
    ("GET", "/api/provider-events"): "read",
    ("GET", "/api/explain"): "read",
    ("GET", "/api/digests"): "read",
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
    ("POST", "/hooks/{channel}/{provider}"): "hook",
    ("POST", "/api/domain-events"): "notify",
    ("POST", "/api/orders"): "notify",
    ("GET", "/api/orders/{order_id}"): "read",
    ("POST", "/api/orders/{order_id}/ship"): "notify",
    ("POST", "/api/orders/{order_id}/deliver"): "notify",
    ("POST", "/api/payments/{payment_id}/capture"): "notify",
    ("POST", "/api/payments/{payment_id}/fail"): "notify",
    ("POST", "/api/inventory/{sku}"): "notify",
    ("PUT", "/api/stock-keepers/{user_id}"): "notify",
    ("DELETE", "/api/stock-keepers/{user_id}"): "notify",
    ("POST", "/api/customers/{user_id}/welcome"): "notify",
    ("GET", "/health/live"): "public",
    ("GET", "/health/ready"): "public",
    ("GET", "/health/queue"): "public",
    ("GET", "/health/worker"): "public",
    ("GET", "/metrics"): "public",
}
#: routes without credentials: `public`, with a proof in the body that belongs to the resource, or a hook of a provider,
#: which is not there unless its secret is set
OPEN = {"public", "proof", "hook"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keys(server: TidingsServer) -> dict[str, str]:
    """One API key per scope, created on the command line while the server runs."""
    created = {}
    for scope in ("read", "notify"):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tidings.cli", "keys", "create", "--scope", scope, "--label", scope, "--json"),
            env=server.environment,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        created[scope] = json.loads(output)["key"]
    return created


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
    # an id that does not exist: an unauthorised caller must not learn this
    path = route.replace("{user_id}", "nobody-knows")
    for name in ("notification_id", "event_id", "contact_point_id", "item_id"):
        path = path.replace(f"{{{name}}}", "01a20000-0000-7000-8000-000000000000")
    return path.replace("{topic}", "jazz")


async def test_each_scope_grants_access_to_its_routes_only(server: TidingsServer, keys: dict[str, str]) -> None:
    failures = []
    for (method, route), needed in ROUTES.items():
        for scope, key in keys.items():
            answer = await server.call(method, _path(route), {} if method != "GET" else None, token=key)
            allowed = scope in needed.split() or needed in OPEN
            refused = answer.status == 403
            if allowed == refused or answer.status in (401, 500):
                failures.append((method, route, scope, answer.status))
    assert failures == []


async def test_a_user_token_grants_access_to_user_routes_only(server: TidingsServer) -> None:
    failures = []
    for (method, route), needed in ROUTES.items():
        answer = await server.call(
            method, _path(route), {} if method != "GET" else None, token=server.user_token("ana")
        )
        expected = {
            "user": answer.status not in (401, 403, 500),
            "public": answer.status == 200,
            "proof": answer.status == 422,
            "hook": answer.status == 404,
        }
        key = "user" if "user" in needed.split() else needed
        if not expected.get(key, answer.status == 403):
            failures.append((method, route, answer.status))
    assert failures == []


async def test_unauthenticated_requests_are_rejected(server: TidingsServer) -> None:
    now = datetime.now(UTC)
    hour = timedelta(hours=1)
    claims = {"sub": "ana", "exp": int((now + hour).timestamp())}
    invalid_tokens = {
        "nothing": None,
        "made-up key": "tdg_" + "A" * 49,
        "another secret": jwt.encode(claims, "another secret that is long enough for it", algorithm="HS256"),
        "no signature": jwt.encode(claims, "", algorithm="none"),
        "expired": jwt.encode({**claims, "exp": int((now - hour).timestamp())}, USER_SECRET, algorithm="HS256"),
        "for ever": jwt.encode({"sub": "ana"}, USER_SECRET, algorithm="HS256"),
        "nobody": jwt.encode({**claims, "sub": ""}, USER_SECRET, algorithm="HS256"),
    }
    failures = []
    for who, token in invalid_tokens.items():
        for (method, route), needed in ROUTES.items():
            if needed in OPEN:
                continue
            answer = await server.call(method, _path(route), {} if method != "GET" else None, token=token)
            if answer.status != 401 or "www-authenticate" not in answer.headers:
                failures.append((who, method, route, answer.status))
    assert failures == []


async def test_a_user_reads_and_changes_only_their_own_resources(server: TidingsServer, push: SpawnedMockPush) -> None:
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


async def test_a_token_of_an_erased_user_is_rejected(server: TidingsServer, push: SpawnedMockPush) -> None:
    await server.expect(201, "PUT", "/api/users/carl", {})
    token = server.user_token("carl")
    body = await push.control.subscription("carl")
    await server.expect(201, "POST", "/api/push/subscribe", body, token=token)
    await server.expect(204, "DELETE", "/api/users/carl")
    assert (await server.call("POST", "/api/push/subscribe", body, token=token)).status == 404
    assert (await server.call("GET", "/api/users/me/preferences", token=token)).status == 404
    assert (await server.expect(200, "GET", "/api/push/subscriptions", token=token)).read(Json)["items"] == []
