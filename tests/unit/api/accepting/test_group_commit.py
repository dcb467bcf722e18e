"""Group commit: concurrent callers get the same results as single callers."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from tidings.errors import BackendError, ValidationFailed
from tidings.model.notification import Notification
from tidings.model.request import NotifyRequest
from tidings.ports.store import Transaction

NDJSON = {"Content-Type": "application/x-ndjson"}


def message(title: str = "Hi", **other: object) -> dict[str, Any]:
    return {"userId": "u1", "templateCode": "MESSAGE", "variables": {"title": title, "body": "You"}, **other}


async def notify(call: Any, body: object, key: str | None = None) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await call("POST", "/api/notifications", json=body, headers=headers)


async def titles(call: Any) -> list[str]:
    items = (await call("GET", "/api/notifications?limit=500")).json["items"]
    return sorted(one["variables"]["title"] for one in items)


@pytest.fixture
def transactions(call: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of requests of each transaction."""
    sizes: list[int] = []
    accept_many = call.runtime.pipeline.accept_many

    async def count_requests(
        tx: Transaction, requests: Sequence[NotifyRequest]
    ) -> list[Notification | ValidationFailed]:
        sizes.append(len(requests))
        results: list[Notification | ValidationFailed] = await accept_many(tx, requests)
        return results

    monkeypatch.setattr(call.runtime.pipeline, "accept_many", count_requests)
    return sizes


async def test_callers_at_the_same_time_share_transactions(call: Any, transactions: list[int]) -> None:
    replies = await asyncio.gather(*(notify(call, message(f"t{number:02}")) for number in range(40)))
    assert {reply.status for reply in replies} == {202}
    assert len({reply.json["id"] for reply in replies}) == 40
    assert await titles(call) == [f"t{number:02}" for number in range(40)]
    assert sum(transactions) == 40
    assert len(transactions) < 10
    for reply in replies:
        assert reply.headers["location"] == f"/api/notifications/{reply.json['id']}"


async def test_each_response_belongs_to_its_request(call: Any) -> None:
    replies = await asyncio.gather(*(notify(call, message(f"t{number}"), f"k{number}") for number in range(20)))
    for number, reply in enumerate(replies):
        stored = (await call("GET", f"/api/notifications/{reply.json['id']}")).json
        assert stored["variables"]["title"] == f"t{number}"


async def test_invalid_requests_fail_separately_with_their_own_errors(call: Any) -> None:
    bodies = [
        message("a"),
        message("b", userId="nobody"),
        message("c", templateCode="NOPE"),
        message("d"),
        message("e", options={"expiresAt": "2020-01-01T00:00:00Z"}),
    ]
    replies = await asyncio.gather(*(notify(call, body) for body in bodies))
    assert [reply.status for reply in replies] == [202, 422, 422, 202, 422]
    fields = [reply.json["errors"][0]["field"] for reply in replies if reply.status == 422]
    assert fields == ["userId", "templateCode", "options.expiresAt"]
    assert await titles(call) == ["a", "d"]


async def test_a_rejected_request_releases_its_key_and_the_others_are_accepted_once(call: Any) -> None:
    wanted = [("a", "k1"), ("bad", "k2"), ("c", "k3"), ("d", None)]
    replies = await asyncio.gather(
        *(notify(call, message(title, userId="nobody" if title == "bad" else "u1"), key) for title, key in wanted)
    )
    assert [reply.status for reply in replies] == [202, 422, 202, 202]
    assert await titles(call) == ["a", "c", "d"]
    assert (await notify(call, message("mended"), "k2")).status == 202
    again = await notify(call, message("a"), "k1")
    assert (again.body, again.headers["idempotency-replayed"]) == (replies[0].body, "true")


async def test_one_key_in_fifty_concurrent_requests_is_accepted_once(call: Any) -> None:
    replies = await asyncio.gather(*(notify(call, message("once"), "k") for _ in range(50)))
    assert {reply.status for reply in replies} == {202}
    assert len({reply.body for reply in replies}) == 1
    assert sum("idempotency-replayed" not in reply.headers for reply in replies) == 1
    assert await titles(call) == ["once"]


async def test_one_key_with_different_concurrent_bodies_accepts_the_first(call: Any) -> None:
    replies = await asyncio.gather(*(notify(call, message(f"t{number}"), "k") for number in range(10)))
    assert sorted(reply.status for reply in replies) == [202] + [422] * 9
    assert {reply.json["code"] for reply in replies if reply.status == 422} == {"idempotency_key_reused"}
    assert len(await titles(call)) == 1


async def test_an_unexpected_error_fails_only_its_own_call(
    call: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_many = call.runtime.store.notifications.add_many

    async def fail_unexpectedly(tx: Transaction, notifications: Sequence[Notification]) -> None:
        await add_many(tx, notifications)
        if any(one.variables["title"] == "bug" for one in notifications):
            raise ZeroDivisionError

    monkeypatch.setattr(call.runtime.store.notifications, "add_many", fail_unexpectedly)
    replies = await asyncio.gather(*(notify(call, message(title), f"k-{title}") for title in ("a", "bug", "c")))
    assert [reply.status for reply in replies] == [202, 500, 202]
    assert "ZeroDivisionError" in capsys.readouterr().out
    assert await titles(call) == ["a", "c"]


async def test_an_unavailable_database_fails_all_calls_and_stores_nothing(
    call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_tx: Transaction, _notifications: Sequence[Notification]) -> None:
        raise BackendError("the database does not answer", retry_after=3)

    with monkeypatch.context() as patched:
        patched.setattr(call.runtime.store.notifications, "add_many", fail)
        replies = await asyncio.gather(*(notify(call, message(), f"k{number}") for number in range(5)))
    assert {(reply.status, reply.headers["retry-after"]) for reply in replies} == {(503, "3")}
    assert await titles(call) == []
    assert (await notify(call, message(), "k0")).status == 202


async def test_no_response_is_sent_before_the_commit(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, there = asyncio.Event(), asyncio.Event()
    add = call.runtime.store.outbox.add

    async def add_slowly(tx: Transaction, tasks: Sequence[Any]) -> None:
        await add(tx, tasks)
        there.set()
        await gate.wait()

    monkeypatch.setattr(call.runtime.store.outbox, "add", add_slowly)
    asked = asyncio.create_task(notify(call, message()))
    await there.wait()
    assert await titles(call) == []
    assert not asked.done()
    gate.set()
    assert (await asked).status == 202
    assert len(await titles(call)) == 1


async def test_lines_of_several_callers_share_transactions(call: Any, transactions: list[int]) -> None:
    def batch(name: str, count: int) -> bytes:
        return b"\n".join(msgspec.json.encode(message(f"{name}{number:03}")) for number in range(count))

    replies = await asyncio.gather(
        *(
            call("POST", "/api/notifications/batch", body=batch(f"n{number}-", 1), headers=NDJSON)
            for number in range(9)
        ),
        call("POST", "/api/notifications/batch", body=batch("many-", 450), headers=NDJSON),
    )
    assert [len(reply.lines) for reply in replies] == [1] * 9 + [450]
    assert {line["status"] for reply in replies for line in reply.lines} == {"accepted"}
    assert [line["line"] for line in replies[-1].lines] == list(range(1, 451))
    assert sum(transactions) == 459
    assert max(transactions) <= 200
    assert len(transactions) < 9


async def test_a_batch_with_a_key_is_accepted_once_including_rejected_lines(call: Any) -> None:
    body = b"\n".join(map(msgspec.json.encode, (message("a"), message("b", userId="nobody"), message("c"))))
    headers = NDJSON | {"Idempotency-Key": "k"}
    replies = await asyncio.gather(
        *(call("POST", "/api/notifications/batch", body=body, headers=headers) for _ in range(5))
    )
    assert {reply.status for reply in replies} == {200}
    assert len({reply.body for reply in replies}) == 1
    assert [line["status"] for line in replies[0].lines] == ["accepted", "refused", "accepted"]
    assert await titles(call) == ["a", "c"]


async def test_the_largest_list_of_users_is_accepted_and_unknown_users_are_named(call: Any) -> None:
    ids = [f"many-{number}" for number in range(10_000)]
    people = b"\n".join(msgspec.json.encode({"id": user_id}) for user_id in ids)
    assert (await call("POST", "/api/users/bulk", body=people)).status == 200
    body = {"templateCode": "MESSAGE", "variables": message()["variables"]}
    accepted = await call("POST", "/api/notifications/batch", json=body | {"userIds": ids})
    assert accepted.status == 202, accepted.body
    strange = await call("POST", "/api/notifications/batch", json=body | {"userIds": [*ids[:-1], "nobody"]})
    assert (strange.status, strange.json["code"]) == (422, "unknown_user")
    assert "'nobody'" in strange.json["errors"][0]["message"]
    too_many = await call("POST", "/api/notifications/batch", json=body | {"userIds": [*ids, "u1"]})
    assert (too_many.status, too_many.json["errors"][0]["field"]) == (422, "userIds")


async def test_an_unsupported_method_is_rejected(call: Any) -> None:
    reply = await call("PUT", "/api/notifications", json=message())
    assert (reply.status, reply.json["code"]) == (405, "method_not_allowed")


async def test_the_route_is_in_the_openapi_document(call: Any) -> None:
    document = (await call("GET", "/openapi.json", key=None)).json
    operation = document["paths"]["/api/notifications"]["post"]
    assert set(operation["responses"]) >= {"200", "202", "4XX"}
    assert operation["security"] == [{"apiKey": []}]
    assert operation["parameters"][0]["name"] == "Idempotency-Key"
    assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/NotifyBody")
    assert "userIds" in document["components"]["schemas"]["NotifyBody"]["properties"]


@pytest.mark.parametrize(("key", "status"), [(None, 401), ("tdg_wrong", 401)])
async def test_the_route_requires_authentication(call: Callable[..., Any], key: str | None, status: int) -> None:
    assert (await call("POST", "/api/notifications", json=message(), key=key)).status == status


async def test_a_user_token_may_not_notify(call: Any) -> None:
    assert (await call("POST", "/api/notifications", json=message(), user="u1")).status == 403
