"""Ordinary calls that arrive at the same time: one result for each, no 500 and no deadlock."""

import asyncio
import base64
import os
from collections import Counter
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import text
from tests.support.asgi_client import Client, Reply

from tidings.api.http.problem_details import http_status
from tidings.errors import MissingReference, TransactionConflict
from tidings.model.inbox import InboxItem
from tidings.model.preference import Preference
from tidings.model.user import User
from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.testing.contracts.inbox_contract import make_item

EVENT = {"title": "Recital", "startDate": "2027-06-21T19:00:00Z", "status": "ACTIVE"}


@pytest.fixture(params=[8, pytest.param(40, marks=pytest.mark.extended)], ids=["few", "many"])
def rounds(request: pytest.FixtureRequest) -> int:
    """How often the calls are made at the same time."""
    number: int = request.param
    return number


def make_device(name: str) -> dict[str, Any]:
    point = ec.generate_private_key(ec.SECP256R1()).public_key()
    p256dh = point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    keys = {
        "p256dh": base64.urlsafe_b64encode(p256dh).decode(),
        "auth": base64.urlsafe_b64encode(os.urandom(16)).decode(),
    }
    return {
        "endpoint": f"http://127.0.0.1:9/push/{name}",
        "keys": {key: value.rstrip("=") for key, value in keys.items()},
    }


async def add_users(call: Client, *user_ids: str) -> None:
    for user_id in user_ids:
        assert (await call("PUT", f"/api/users/{user_id}", json={})).status in (200, 201)


async def run_together(*calls: Coroutine[Any, Any, Reply]) -> list[int]:
    """Return the statuses of calls that run at the same time."""
    return [reply.status for reply in await asyncio.gather(*calls)]


async def test_two_tabs_that_report_one_subscription_create_it_once(call: Client, rounds: int) -> None:
    await add_users(call, "ana")
    results = Counter[tuple[int, ...]]()
    for number in range(rounds):
        call.clock.time += timedelta(minutes=1)  # so that the rate limit does not apply
        device = make_device(str(number))
        tabs = [call("POST", "/api/push/subscribe", json=device, user="ana") for _ in range(2)]
        results[tuple(sorted(await run_together(*tabs)))] += 1
    assert results == {(200, 201): rounds}
    assert len((await call("GET", "/api/push/subscriptions", user="ana")).json["items"]) == rounds


async def test_two_tabs_that_replace_each_others_endpoint_do_not_deadlock(call: Client, rounds: int) -> None:
    await add_users(call, "ana")
    for number in range(rounds):
        call.clock.time += timedelta(minutes=1)
        one, other = make_device(f"one-{number}"), make_device(f"other-{number}")
        for device in (one, other):
            await call("POST", "/api/push/subscribe", json=device, user="ana")
        statuses = await run_together(
            call("POST", "/api/push/subscribe", json=one | {"replaces": other["endpoint"]}, user="ana"),
            call("POST", "/api/push/subscribe", json=other | {"replaces": one["endpoint"]}, user="ana"),
        )
        assert sorted(statuses) in ([200, 200], [200, 201])


async def test_two_calls_that_create_one_user_report_it_as_created_once(call: Client, rounds: int) -> None:
    results = Counter[tuple[int, ...]]()
    for number in range(rounds):
        puts = [call("PUT", f"/api/users/new-{number}", json={}) for _ in range(2)]
        results[tuple(sorted(await run_together(*puts)))] += 1
    assert results == {(200, 201): rounds}


async def test_two_imports_of_the_same_users_in_another_order_both_succeed(call: Client, rounds: int) -> None:
    lines = [b'{"id": "user-%03d"}' % number for number in range(120)]
    for _ in range(rounds // 4):
        statuses = await run_together(
            *(
                call(
                    "POST",
                    "/api/users/bulk",
                    body=b"\n".join(ordered),
                    headers={"Content-Type": "application/x-ndjson"},
                )
                for ordered in (lines, lines[::-1], lines[60:] + lines[:60])
            )
        )
        assert statuses == [200, 200, 200]


async def test_preferences_saved_in_another_order_do_not_deadlock(call: Client, rounds: int) -> None:
    await add_users(call, "ana")
    choices = [
        {"category": category, "channel": channel, "enabled": True}
        for category in call.runtime.catalog.categories
        for channel in ("webpush", "email", "sms")
    ]
    for _ in range(rounds):
        bodies = ({"preferences": choices}, {"preferences": choices[::-1]})
        assert (
            await run_together(*(call("PUT", "/api/users/ana/preferences", json=body) for body in bodies)) == [200] * 2
        )


WRITES: dict[str, tuple[int, ...]] = {
    # statuses of a write beside an erasure: before it, or after it
    "ticket": (201, 422),
    "favourite": (201, 422),
    "preference": (200, 404),
    "subscription": (201, 404),
    "notification": (202, 422),
}


@pytest.mark.parametrize("kind", WRITES)
async def test_erasing_a_user_while_something_about_the_user_is_stored(call: Client, kind: str, rounds: int) -> None:
    event_id = (await call("POST", "/api/events", json=EVENT)).json["id"]
    for number in range(rounds):
        call.clock.time += timedelta(minutes=1)
        await add_users(call, "ana")
        if number % 2:
            # rows that exist already are updated, and deleted by the erasure
            await _write(call, kind, event_id, make_device(f"first-{number}"))
        writes = [_write(call, kind, event_id, make_device(f"{number}-{index}")) for index in range(2)]
        *written, erased = await run_together(*writes, call("DELETE", "/api/users/ana"))
        assert erased == 204
        assert set(written) <= {200, *WRITES[kind]}, written
    assert (await call("GET", "/api/users/ana")).status == 404


async def test_erasing_a_user_while_the_feed_changes(call: Client, rounds: int) -> None:
    inbox = call.runtime.inbox
    for _ in range(rounds):
        call.clock.time += timedelta(minutes=1)
        await add_users(call, "ana", "ben")
        items = [make_item(user_id) for user_id in ("ana", "ben", "ana")]
        await inbox.deliver(items[0])
        *marked, erased = await run_together(
            call("POST", f"/api/inbox/{items[0].id}/read", user="ana"),
            call("POST", "/api/inbox/read-all", json={"upTo": items[0].id}, user="ana"),
            _deliver(call, *items[1:]),
            call("DELETE", "/api/users/ana"),
        )
        assert erased == 204
        assert set(marked) <= {200, 404, 422}, marked
        assert (await call("GET", "/api/inbox/counts", user="ana")).json == {"unseen": 0, "unread": 0, "version": 0}
    counts = (await call("GET", "/api/inbox/counts", user="ben")).json
    assert (counts["unread"], counts["version"]) == (rounds, rounds)


async def _deliver(call: Client, *items: InboxItem) -> Reply:
    await asyncio.gather(*(call.runtime.inbox.deliver(item) for item in items))
    return Reply(200, {}, b"")


def _write(call: Client, kind: str, event_id: str, device: dict[str, Any]) -> Coroutine[Any, Any, Reply]:
    match kind:
        case "ticket" | "favourite":
            return call("POST", f"/api/events/{event_id}/{kind}s", json={"userId": "ana"})
        case "preference":
            choice = {"category": "MESSAGE", "channel": "webpush", "enabled": True}
            return call("PUT", "/api/users/me/preferences", json={"preferences": [choice]}, user="ana")
        case "subscription":
            return call("POST", "/api/push/subscribe", json=device, user="ana")
        case _:
            body = {"userId": "ana", "templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "There"}}
            return call("POST", "/api/notifications", json=body)


async def test_c22_replacements_at_the_same_time_leave_one_of_them_and_changes_are_kept(
    call: Client, rounds: int
) -> None:
    await add_users(call, "ana")
    path = "/api/users/ana/preferences"

    def build(*names: str) -> dict[str, object]:
        return {"preferences": [{"object": name, "enabled": False} for name in names]}

    for number in range(rounds):
        sets = [{f"{letter}:{number}:{index}" for index in range(3)} for letter in "abc"]
        statuses = await run_together(*(call("PUT", path, json=build(*names)) for names in sets))
        assert statuses == [200] * 3
        stored = {one["object"] for one in (await call("GET", path)).json["preferences"]}
        assert stored in sets
        changes = [f"d:{number}:{index}" for index in range(3)]
        assert await run_together(*(call("PATCH", path, json=build(name)) for name in changes)) == [200] * 3
        merged = {one["object"] for one in (await call("GET", path)).json["preferences"]}
        assert merged == stored | set(changes)


async def test_erasing_users_of_one_notification_at_the_same_time_removes_all_of_them(
    call: Client, rounds: int
) -> None:
    for number in range(rounds // 4):
        people = [f"user-{number}-{index}" for index in range(4)]
        await add_users(call, *people, "rest")
        in_a_year = {"sendAt": "2027-06-01T12:00:00Z"}
        message = {"templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "There"}, "options": in_a_year}
        accepted = [
            (await call("POST", "/api/notifications", json=message | {"userIds": [*order, "rest"]})).json["id"]
            for order in (people, people[::-1])
        ]
        assert await run_together(*(call("DELETE", f"/api/users/{user_id}") for user_id in people)) == [204] * 4
        async with call.runtime.store.read_snapshot() as tx:
            kept = await call.runtime.store.notifications.get_many(tx, accepted)
        assert [one.audience.arguments for one in kept] == [{"userIds": ["rest"]}] * 2  # type: ignore[union-attr]


async def test_a_request_that_was_the_victim_of_a_deadlock_is_repeated(
    call: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_users(call, "ana", "ben")
    has_lock = asyncio.Event()
    store = call.runtime.store
    set_preferences = store.users.set_preferences
    attempts = 0

    async def lock_in_another_order() -> None:
        async with store.transaction() as tx:
            # the database looks for a deadlock in the transaction of the route, which becomes the victim
            await connection_of(tx).execute(text("SET LOCAL deadlock_timeout = '20s'"))
            await connection_of(tx).execute(text("SELECT id FROM users WHERE id = 'ben' FOR UPDATE"))
            has_lock.set()
            await connection_of(tx).execute(text("SELECT id FROM users WHERE id = 'ana' FOR UPDATE"))

    async def set_preferences_of_two(tx: Transaction, user_id: str, choices: list[Preference]) -> None:
        nonlocal attempts
        attempts += 1
        await set_preferences(tx, user_id, choices)
        await has_lock.wait()
        await store.users.upsert(tx, [User("ben", city="Bern")], call.clock.now())

    monkeypatch.setattr(store.users, "set_preferences", set_preferences_of_two)
    other = asyncio.create_task(lock_in_another_order())
    choice = {"category": "MESSAGE", "channel": "webpush", "enabled": True}
    reply = await call("PUT", "/api/users/ana/preferences", json={"preferences": [choice]})
    await other
    assert (reply.status, attempts) == (200, 2)


async def test_a_conflict_that_does_not_end_is_a_503_that_says_so(
    call: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_users(call, "ana")

    async def fail(*_: object) -> None:
        raise TransactionConflict("the database rolled the transaction back: …", backend="database")

    monkeypatch.setattr(call.runtime.store.users, "set_preferences", fail)
    monkeypatch.setattr("tidings.ports.transaction.FIRST_PAUSE", 0.0001)
    choice = {"category": "MESSAGE", "channel": "webpush", "enabled": True}
    reply = await call("PUT", "/api/users/ana/preferences", json={"preferences": [choice]})
    assert (reply.status, reply.json["code"], reply.headers["retry-after"]) == (503, "backend", "5")
    assert "rolled" in reply.json["detail"]
    assert call.runtime.database_health.is_available


async def test_a_missing_user_is_a_404_and_not_an_error_of_the_server(call: Client) -> None:
    store = call.runtime.store
    with pytest.raises(MissingReference) as caught:
        async with store.transaction() as tx:
            await store.users.set_preferences(tx, "nobody", [Preference("MESSAGE", "webpush", True)])
    assert (http_status(caught.value), caught.value.code) == (404, "unknown_user")
