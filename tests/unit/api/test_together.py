"""Accepting in groups: what callers at the same time get is what each would have got alone."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from tidings.errors import BackendError, Invalid
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
    """How many notifications each transaction was asked for."""
    sizes: list[int] = []
    accept_many = call.runtime.pipeline.accept_many

    async def counted(tx: Transaction, requests: Sequence[NotifyRequest]) -> list[Notification | Invalid]:
        sizes.append(len(requests))
        made: list[Notification | Invalid] = await accept_many(tx, requests)
        return made

    monkeypatch.setattr(call.runtime.pipeline, "accept_many", counted)
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


async def test_each_answer_belongs_to_its_request(call: Any) -> None:
    replies = await asyncio.gather(*(notify(call, message(f"t{number}"), f"k{number}") for number in range(20)))
    for number, reply in enumerate(replies):
        shown = (await call("GET", f"/api/notifications/{reply.json['id']}")).json
        assert shown["variables"]["title"] == f"t{number}"


async def test_bad_requests_fail_alone_and_name_their_own_fault(call: Any) -> None:
    bodies = [
        message("a"),
        message("b", userId="nobody"),
        message("c", templateCode="NOPE"),
        message("d"),
        message("e", options={"expiresAt": "2020-01-01T00:00:00Z"}),
    ]
    replies = await asyncio.gather(*(notify(call, body) for body in bodies))
    assert [reply.status for reply in replies] == [202, 422, 422, 202, 422]
    faults = [reply.json["errors"][0]["field"] for reply in replies if reply.status == 422]
    assert faults == ["userId", "templateCode", "options.expiresAt"]
    assert await titles(call) == ["a", "d"]


async def test_a_refused_request_leaves_its_key_free_and_the_others_done_once(call: Any) -> None:
    wanted = [("a", "k1"), ("bad", "k2"), ("c", "k3"), ("d", None)]
    replies = await asyncio.gather(
        *(notify(call, message(title, userId="nobody" if title == "bad" else "u1"), key) for title, key in wanted)
    )
    assert [reply.status for reply in replies] == [202, 422, 202, 202]
    assert await titles(call) == ["a", "c", "d"]
    assert (await notify(call, message("mended"), "k2")).status == 202
    again = await notify(call, message("a"), "k1")
    assert (again.body, again.headers["idempotency-replayed"]) == (replies[0].body, "true")


async def test_one_key_fifty_times_at_once_is_done_once(call: Any) -> None:
    replies = await asyncio.gather(*(notify(call, message("once"), "k") for _ in range(50)))
    assert {reply.status for reply in replies} == {202}
    assert len({reply.body for reply in replies}) == 1
    assert sum("idempotency-replayed" not in reply.headers for reply in replies) == 1
    assert await titles(call) == ["once"]


async def test_one_key_with_different_bodies_at_once_does_the_first(call: Any) -> None:
    replies = await asyncio.gather(*(notify(call, message(f"t{number}"), "k") for number in range(10)))
    assert sorted(reply.status for reply in replies) == [202] + [422] * 9
    assert {reply.json["code"] for reply in replies if reply.status == 422} == {"idempotency_key_reused"}
    assert len(await titles(call)) == 1


async def test_an_unforeseen_error_reaches_its_caller_alone(
    call: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_many = call.runtime.store.notifications.add_many

    async def stumbling(tx: Transaction, notifications: Sequence[Notification]) -> None:
        await add_many(tx, notifications)
        if any(one.variables["title"] == "bug" for one in notifications):
            raise ZeroDivisionError

    monkeypatch.setattr(call.runtime.store.notifications, "add_many", stumbling)
    replies = await asyncio.gather(*(notify(call, message(title), f"k-{title}") for title in ("a", "bug", "c")))
    assert [reply.status for reply in replies] == [202, 500, 202]
    assert "ZeroDivisionError" in capsys.readouterr().out
    assert await titles(call) == ["a", "c"]


async def test_a_database_that_is_away_is_told_to_all_and_nothing_is_kept(
    call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_tx: Transaction, _notifications: Sequence[Notification]) -> None:
        raise BackendError("the database does not answer", retry_after=3)

    with monkeypatch.context() as patched:
        patched.setattr(call.runtime.store.notifications, "add_many", away)
        replies = await asyncio.gather(*(notify(call, message(), f"k{number}") for number in range(5)))
    assert {(reply.status, reply.headers["retry-after"]) for reply in replies} == {(503, "3")}
    assert await titles(call) == []
    assert (await notify(call, message(), "k0")).status == 202


async def test_nothing_is_answered_before_the_commit(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, there = asyncio.Event(), asyncio.Event()
    add = call.runtime.store.outbox.add

    async def held(tx: Transaction, tasks: Sequence[Any]) -> None:
        await add(tx, tasks)
        there.set()
        await gate.wait()

    monkeypatch.setattr(call.runtime.store.outbox, "add", held)
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


async def test_a_batch_with_a_key_is_done_once_refused_lines_and_all(call: Any) -> None:
    body = b"\n".join(map(msgspec.json.encode, (message("a"), message("b", userId="nobody"), message("c"))))
    headers = NDJSON | {"Idempotency-Key": "k"}
    replies = await asyncio.gather(
        *(call("POST", "/api/notifications/batch", body=body, headers=headers) for _ in range(5))
    )
    assert {reply.status for reply in replies} == {200}
    assert len({reply.body for reply in replies}) == 1
    assert [line["status"] for line in replies[0].lines] == ["accepted", "refused", "accepted"]
    assert await titles(call) == ["a", "c"]


async def test_the_largest_list_of_users_is_accepted_and_who_is_unknown_is_named(call: Any) -> None:
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


async def test_a_method_the_route_does_not_have_is_refused_as_everywhere(call: Any) -> None:
    reply = await call("PUT", "/api/notifications", json=message())
    assert (reply.status, reply.json["code"]) == (405, "method_not_allowed")


async def test_the_route_is_described(call: Any) -> None:
    operation = (await call("GET", "/openapi.json", key=None)).json["paths"]["/api/notifications"]["post"]
    assert set(operation["responses"]) >= {"200", "202", "4XX"}
    assert operation["security"] == [{"apiKey": []}]
    assert operation["parameters"][0]["name"] == "Idempotency-Key"
    assert "userIds" in str(operation["requestBody"])


@pytest.mark.parametrize(("key", "status"), [(None, 401), ("tdg_wrong", 401)])
async def test_the_route_asks_who_calls(call: Callable[..., Any], key: str | None, status: int) -> None:
    assert (await call("POST", "/api/notifications", json=message(), key=key)).status == status


async def test_a_user_token_may_not_notify(call: Any) -> None:
    assert (await call("POST", "/api/notifications", json=message(), user="u1")).status == 403
