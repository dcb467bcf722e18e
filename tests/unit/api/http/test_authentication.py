"""Authentication and scopes."""

from datetime import timedelta
from typing import Any

import jwt
import pytest

from tidings.credentials import mint_api_key
from tidings.ports.store import ApiKey


async def _key(call: Any, *scopes: str) -> tuple[str, str]:
    plain, digest, prefix = mint_api_key()
    async with call.runtime.store.transaction() as tx:
        key = ApiKey(f"key-{digest[:8]}", digest, prefix, "test", frozenset(scopes), call.clock.now())
        await call.runtime.store.api_keys.add(tx, key)
    return plain, key.id


@pytest.mark.parametrize(
    ("scope", "method", "url", "status"),
    [
        ("read", "GET", "/api/notifications", 200),
        ("notify", "GET", "/api/notifications", 403),
        ("admin", "GET", "/api/notifications", 200),
        ("read", "POST", "/api/users/u1/token", 403),
        ("notify", "POST", "/api/users/u1/token", 200),
        ("notify", "DELETE", "/api/users/u1", 403),
        ("read", "DELETE", "/api/users/u1", 403),
        ("admin", "DELETE", "/api/users/u1", 204),
    ],
)
async def test_scopes(call: Any, scope: str, method: str, url: str, status: int) -> None:
    plain, _ = await _key(call, scope)
    reply = await call(method, url, key=plain)
    assert reply.status == status
    if status == 403:
        assert reply.json["code"] == "missing_scope"


async def test_a_response_without_credentials_has_a_challenge(call: Any) -> None:
    reply = await call("GET", "/api/notifications", key=None)
    assert reply.status == 401
    assert reply.headers["www-authenticate"] == 'Bearer realm="tidings"'
    assert reply.headers["content-type"] == "application/problem+json"


async def test_authentication_precedes_validation(call: Any) -> None:
    assert (await call("POST", "/api/notifications", body=b"{", key=None)).status == 401


@pytest.mark.parametrize("header", ["Basic dTpw", "Bearer", "Bearer ", "tdg_abc", "Bearer tdg_short", "Bearer x.y.z"])
async def test_other_credentials_are_refused(call: Any, header: str) -> None:
    reply = await call("GET", "/api/notifications", headers={"Authorization": header})
    assert reply.status == 401


async def test_a_key_that_fails_its_checksum_costs_no_query(call: Any) -> None:
    before = call.runtime.store.statement_count
    assert (await call("GET", "/api/notifications", key="tdg_" + "0" * 48 + "z")).json["code"] == "invalid_key"
    assert call.runtime.store.statement_count == before


async def test_an_unknown_key_is_rejected_and_queried_once(call: Any) -> None:
    plain = mint_api_key().plain
    before = call.runtime.store.statement_count
    for _ in range(3):
        assert (await call("GET", "/api/notifications", key=plain)).status == 401
    assert call.runtime.store.statement_count == before + 1


async def test_a_revoked_key_stops_within_seconds(call: Any) -> None:
    plain, key_id = await _key(call, "read")
    assert (await call("GET", "/api/notifications", key=plain)).status == 200
    async with call.runtime.store.transaction() as tx:
        await call.runtime.store.api_keys.revoke(tx, key_id, call.clock.now())
    call.clock.time += timedelta(seconds=5)
    reply = await call("GET", "/api/notifications", key=plain)
    assert reply.status == 401
    assert "revoked" in reply.json["detail"]


async def test_a_user_token_is_rejected_on_a_route_for_servers(call: Any) -> None:
    reply = await call("GET", "/api/templates", user="u1")
    assert (reply.status, reply.json["code"]) == (403, "needs_api_key")


async def test_an_api_key_is_rejected_on_a_route_for_users(call: Any) -> None:
    reply = await call("GET", "/api/push/subscriptions")
    assert (reply.status, reply.json["code"]) == (403, "needs_user_token")


async def test_an_issued_user_token_is_accepted_on_routes_for_users_until_it_expires(call: Any) -> None:
    issued = (await call("POST", "/api/users/u1/token")).json
    assert issued["expiresAt"] == "2026-11-22T13:00:00Z"
    assert (await call("GET", "/api/push/subscriptions", key=issued["token"])).status == 200
    call.clock.time += timedelta(hours=2)
    reply = await call("GET", "/api/push/subscriptions", key=issued["token"])
    assert (reply.status, reply.json["code"]) == (401, "token_expired")


async def test_a_token_with_another_signature_is_rejected(call: Any) -> None:
    token = jwt.encode({"sub": "u1", "exp": 4_000_000_000}, "another secret of 32 characters at least", "HS256")
    assert (await call("GET", "/api/push/subscriptions", key=token)).status == 401


async def test_no_token_is_issued_for_an_unknown_user(call: Any) -> None:
    assert (await call("POST", "/api/users/nobody/token")).json["code"] == "unknown_user"
