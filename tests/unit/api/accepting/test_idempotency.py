"""Tests of the `Idempotency-Key` header."""

from typing import Any

import pytest

BODY = {"userId": "u1", "templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "You"}}


async def _count(call: Any) -> int:
    return len((await call("GET", "/api/notifications")).json["items"])


async def test_a_repeated_request_gets_the_stored_response(call: Any) -> None:
    first = await call("POST", "/api/notifications", json=BODY, headers={"Idempotency-Key": "k1"})
    again = await call("POST", "/api/notifications", json=BODY, headers={"Idempotency-Key": "k1"})
    assert (first.status, again.status) == (202, 202)
    assert first.body == again.body
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert await _count(call) == 1


async def test_a_different_request_with_the_same_key_is_rejected(call: Any) -> None:
    await call("POST", "/api/notifications", json=BODY, headers={"Idempotency-Key": "k1"})
    other = await call("POST", "/api/notifications", json=BODY | {"userId": "u2"}, headers={"Idempotency-Key": "k1"})
    assert (other.status, other.json["code"]) == (422, "idempotency_key_reused")
    assert await _count(call) == 1


async def test_a_failed_request_releases_its_key(call: Any) -> None:
    failed = await call(
        "POST", "/api/notifications", json=BODY | {"userId": "nobody"}, headers={"Idempotency-Key": "k1"}
    )
    assert (failed.status, failed.json["code"]) == (422, "unknown_user")
    assert failed.json["errors"][0]["field"] == "userId"
    fixed = await call("POST", "/api/notifications", json=BODY, headers={"Idempotency-Key": "k1"})
    assert fixed.status == 202


async def test_a_key_that_is_taken_by_a_running_request_is_a_conflict(call: Any) -> None:
    store = call.runtime.store
    first = await call("POST", "/api/notifications", json=BODY, headers={"Idempotency-Key": "k1"})
    assert first.status == 202
    async with store.transaction() as tx:
        await store.idempotency_keys.complete(tx, caller="bootstrap", key="k1", status=None, body=b"")
    reply = await call("POST", "/api/notifications", json=BODY, headers={"Idempotency-Key": "k1"})
    assert (reply.status, reply.json["code"]) == (409, "idempotency_key_in_use")


async def test_keys_of_different_callers_are_independent(call: Any) -> None:
    for user in ("u1", "u2"):
        reply = await call("POST", "/demo/api/events/none/cancel", user=user, headers={"Idempotency-Key": "k1"})
        assert reply.status == 404


async def test_a_repeated_request_is_not_validated_against_the_clock_again(call: Any) -> None:
    from datetime import timedelta

    body = BODY | {"options": {"expiresAt": "2026-11-22T12:01:00Z"}}
    first = await call("POST", "/api/notifications", json=body, headers={"Idempotency-Key": "k1"})
    call.clock.time += timedelta(minutes=2)
    again = await call("POST", "/api/notifications", json=body, headers={"Idempotency-Key": "k1"})
    assert (again.status, again.body) == (first.status, first.body)


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "\xe9"])
async def test_invalid_keys_are_rejected(call: Any, key: str) -> None:
    reply = await call("POST", "/api/notifications", json=BODY, headers={"Idempotency-Key": key})
    assert reply.status == 422
    assert reply.json["errors"][0]["field"] == "Idempotency-Key"
