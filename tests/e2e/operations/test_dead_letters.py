"""Dead letters over HTTP: permanently failed deliveries are listed, replayed after a fix, or discarded."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from tests.support.installation import Installation, to_utc
from tests.support.server import HttpResponse, eventually

from tidings.mockpush import ResponseRule

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    # differences of PostgreSQL are covered by `DeadLettersContract`
    pytest.mark.parametrize("site", ["serve", pytest.param("fleet", marks=pytest.mark.extended)], indirect=True),
]

Json = dict[str, Any]
FORBIDDEN = "the push service answered 403: no entry"
WRONG = "the push service answered 400: bad words"


async def create_dead_letters(
    site: Installation, *users: str, status: int = 403, body: str = "no entry", **options: object
) -> str:
    """Notify users whose push service rejects them; return the notification once all deliveries are dead letters."""
    await site.push_service.control.set_rules(*(ResponseRule(status=status, body=body, device=user) for user in users))
    notification = await site.send_message(*users, **options)
    assert (await site.api.wait_until_finished(notification)).by_state == {"refused": len(users)}
    return notification


async def list_dead_letters(site: Installation, **query: object) -> list[Json]:
    items: list[Json] = (await site.api.expect(200, "GET", f"/api/dead-letters?{urlencode(query)}")).read(Json)["items"]
    return items


async def replay(site: Installation, **body: object) -> Json:
    return (await site.api.expect(202, "POST", "/api/dead-letters/replay", body)).read(Json)


async def preview(site: Installation, **body: object) -> Json:
    return (await site.api.expect(200, "POST", "/api/dead-letters/replay", {**body, "dryRun": True})).read(Json)


async def count_received(site: Installation) -> Counter[str]:
    counts: Counter[str] = Counter()
    for device, _, count in await site.push_service.control.receipts():
        counts[device] += count
    return counts


async def test_a_dead_letter_is_listed_with_its_reason(site: Installation) -> None:
    await site.register_users("list-ana", "list-ben")
    before = datetime.now(UTC)
    notification = await create_dead_letters(site, "list-ana", "list-ben")
    items = await list_dead_letters(site, notificationId=notification)
    assert {item["userId"] for item in items} == {"list-ana", "list-ben"}
    for item in items:
        assert (item["error"], item["status"], item["attempts"], item["crashes"]) == (FORBIDDEN, 403, 1, 0)
        assert (item["notificationId"], item["templateCode"], item["channel"]) == (notification, "MESSAGE", "webpush")
        assert before <= to_utc(item["diedAt"]) <= datetime.now(UTC)
        assert to_utc(item["expiresAt"]) > datetime.now(UTC)


async def test_filters_narrow_the_list_and_the_groups(site: Installation) -> None:
    await site.register_users("fil-ana", "fil-ben", "fil-cleo")
    start = datetime.now(UTC)
    many = await create_dead_letters(site, "fil-ana", "fil-ben")
    middle = datetime.now(UTC)
    few = await create_dead_letters(site, "fil-cleo", status=400, body="bad words")

    async def found(**query: object) -> set[str]:
        return {item["userId"] for item in await list_dead_letters(site, since=start.isoformat(), **query)}

    assert await found() == {"fil-ana", "fil-ben", "fil-cleo"}
    assert await found(error=WRONG) == {"fil-cleo"}
    assert await found(notificationId=many) == {"fil-ana", "fil-ben"}
    assert await found(userId="fil-ben") == {"fil-ben"}
    assert await found(until=middle.isoformat()) == {"fil-ana", "fil-ben"}
    assert await found(templateCode="MESSAGE", channel="webpush", error=FORBIDDEN) == {"fil-ana", "fil-ben"}
    # a prefix of the error text matches; any other part of it does not
    assert await found(error=FORBIDDEN.partition(": ")[0]) == {"fil-ana", "fil-ben"}
    assert await found(error=FORBIDDEN[:-1]) == await found(error="the push service") == set()
    assert await found(templateCode="NEW_EVENT") == await found(channel="email") == await found(error="no") == set()
    path = f"/api/dead-letters/errors?{urlencode({'since': start.isoformat()})}"
    groups = (await site.api.expect(200, "GET", path)).read(Json)["items"]
    assert [(group["error"], group["count"]) for group in groups] == [(FORBIDDEN, 2), (WRONG, 1)]
    assert (
        groups[1]["firstAt"] == groups[1]["lastAt"] == (await list_dead_letters(site, notificationId=few))[0]["diedAt"]
    )
    assert len((await site.api.expect(200, "GET", f"{path}&limit=1")).read(Json)["items"]) == 1


async def test_dead_letters_are_listed_in_pages(site: Installation) -> None:
    users = [f"page-{number}" for number in range(5)]
    await site.register_users(*users)
    notification = await create_dead_letters(site, *users)
    sizes, ids, cursor = list[int](), list[str](), ""
    while True:
        query = urlencode({"notificationId": notification, "limit": 2}) + (f"&cursor={quote(cursor)}" if cursor else "")
        page = (await site.api.expect(200, "GET", f"/api/dead-letters?{query}")).read(Json)
        sizes.append(len(page["items"]))
        ids += [item["id"] for item in page["items"]]
        if not (cursor := page["nextCursor"]):
            break
    assert sizes == [2, 2, 1]
    assert ids == sorted(set(ids), reverse=True)


async def test_a_dry_run_reports_the_effect_and_changes_nothing(site: Installation) -> None:
    users = [f"dry-{number}" for number in range(3)]
    await site.register_users(*users)
    notification = await create_dead_letters(site, *users)
    before = datetime.now(UTC)
    shown = await preview(site, notificationId=notification, ratePerSecond=0.5)
    assert (shown["matching"], shown["replayable"], shown["expired"], shown["cancelled"]) == (3, 3, 0, 0)
    assert (shown["dryRun"], shown["more"], len(shown["sample"])) == (True, False, 3)
    # at one every two seconds, the third is due after four
    assert timedelta(seconds=4) <= to_utc(shown["until"]) - before < timedelta(seconds=8)
    everything = await preview(site)
    assert everything["matching"] >= 3
    discard = {"notificationId": notification, "dryRun": True}
    assert (await site.api.expect(200, "POST", "/api/dead-letters/discard", discard)).read(Json)["matching"] == 3
    assert (await site.api.get_progress(notification)).by_state == {"refused": 3}


async def test_a_replay_is_spread_over_time(site: Installation) -> None:
    users = [f"rate-{number}" for number in range(3)]
    await site.register_users(*users)
    notification = await create_dead_letters(site, *users)
    await site.push_service.control.set_rules()
    answer = await replay(site, notificationId=notification, ratePerSecond=0.1)
    assert (answer["replayed"], answer["more"]) == (3, False)
    waiting = await site.query(
        "SELECT due_at, attempts FROM deliveries"
        f" WHERE notification_id = '{notification}' AND state = 'pending' ORDER BY due_at"
    )
    due = [to_utc(at) for at, _ in waiting]
    # the first is being sent, or has been sent
    assert due[-1] - due[-2] == timedelta(seconds=10)
    assert due[-1] == to_utc(answer["until"])
    assert due[-1] - datetime.now(UTC) < timedelta(seconds=20)
    assert {attempts for _, attempts in waiting} == {0}
    await eventually(lambda: _is(site, notification, {"delivered": 1, "pending": 2}))
    await site.api.expect(200, "DELETE", f"/api/notifications/{notification}")


async def _is(site: Installation, notification: str, by_state: dict[str, int]) -> bool:
    return (await site.api.get_progress(notification)).by_state == by_state


async def test_after_a_fix_all_dead_letters_are_delivered_in_batches(site: Installation) -> None:
    users = [f"mend-{number}" for number in range(5)]
    await site.register_users(*users)
    notification = await create_dead_letters(site, *users)
    await site.push_service.control.set_rules()
    first = await replay(site, notificationId=notification, error=FORBIDDEN, limit=3)
    assert (first["replayed"], first["more"]) == (3, True)
    second = await replay(
        site, ids=[item["id"] for item in await list_dead_letters(site, notificationId=notification)], limit=3
    )
    assert (second["replayed"], second["more"]) == (2, False)
    assert (await site.api.wait_until_finished(notification)).by_state == {"delivered": 5}
    assert await list_dead_letters(site, notificationId=notification) == []
    counts = await count_received(site)
    assert [counts[name] for name in users] == [1] * 5
    nothing = await replay(site, notificationId=notification)
    assert (nothing["replayed"], nothing["until"], nothing["more"]) == (0, None, False)


async def test_cancelled_and_expired_dead_letters_are_not_replayed_and_counted(site: Installation) -> None:
    await site.register_users("stay-ana", "stay-ben", "stay-cleo")
    soon = datetime.now(UTC) + timedelta(seconds=4)
    late = await create_dead_letters(site, "stay-cleo", expiresAt=soon.isoformat())
    await site.push_service.control.set_rules(
        ResponseRule(status=403, body="no entry", device="stay-ana"),
        ResponseRule(status=429, retry_after=3600, device="stay-ben"),
    )
    notification = await site.send_message("stay-ana", "stay-ben")
    await eventually(lambda: _is(site, notification, {"refused": 1, "pending": 1}))
    await site.api.expect(200, "DELETE", f"/api/notifications/{notification}")
    ids = [item["id"] for which in (notification, late) for item in await list_dead_letters(site, notificationId=which)]
    assert len(ids) == 2

    async def expired() -> bool:
        return bool((await preview(site, ids=ids))["expired"])

    await eventually(expired)
    found = await preview(site, ids=ids)
    assert (found["matching"], found["replayable"], found["cancelled"], found["until"]) == (2, 0, 1, None)
    answer = await replay(site, ids=ids)
    assert answer == {"replayed": 0, "until": None, "expired": 1, "cancelled": 1, "more": False, "unknownIds": []}
    assert (
        len(await list_dead_letters(site, notificationId=notification))
        == len(await list_dead_letters(site, notificationId=late))
        == 1
    )


async def test_discarded_dead_letters_leave_the_list_and_keep_their_trace(site: Installation) -> None:
    users = [f"off-{number}" for number in range(3)]
    await site.register_users(*users)
    notification = await create_dead_letters(site, *users)
    body = {"notificationId": notification, "limit": 2}
    first = (await site.api.expect(200, "POST", "/api/dead-letters/discard", body)).read(Json)
    assert first == {"discarded": 2, "more": True, "unknownIds": []}
    second = (await site.api.expect(200, "POST", "/api/dead-letters/discard", body)).read(Json)
    assert second == {"discarded": 1, "more": False, "unknownIds": []}
    assert await list_dead_letters(site, notificationId=notification) == []
    assert (await site.api.get_progress(notification)).by_state == {"discarded": 3}
    assert (await replay(site, notificationId=notification))["replayed"] == 0
    items = (await site.api.expect(200, "GET", f"/api/notifications/{notification}/deliveries")).read(Json)["items"]
    assert [[tried["status"] for tried in item["attempts"]] for item in items] == [[403]] * 3


async def test_a_repeated_replay_request_returns_the_response_without_a_second_replay(site: Installation) -> None:
    users = [f"once-{number}" for number in range(3)]
    await site.register_users(*users)
    notification = await create_dead_letters(site, *users)
    headers = {"Idempotency-Key": f"replay {notification}"}

    async def request_replay(**more: object) -> HttpResponse:
        body = {"notificationId": notification, **more}
        return await site.api.call("POST", "/api/dead-letters/replay", body, headers=headers)

    first = await request_replay()
    assert (first.status, first.read(Json)["replayed"]) == (202, 3)
    # they fail again, so that a second replay would find them
    await eventually(lambda: _is(site, notification, {"refused": 3}))
    again = await request_replay()
    assert (again.status, again.body) == (202, first.body)
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert (await site.api.get_progress(notification)).by_state == {"refused": 3}
    items = (await site.api.expect(200, "GET", f"/api/notifications/{notification}/deliveries")).read(Json)["items"]
    assert [len(item["attempts"]) for item in items] == [2] * 3
    other = await request_replay(limit=1)
    assert (other.status, other.read(Json)["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize("keyed", [False, True])
async def test_fifty_concurrent_replays_send_each_dead_letter_once(site: Installation, keyed: bool) -> None:
    users = [f"fifty-{keyed}-{number}" for number in range(12)]
    await site.register_users(*users)
    notification = await create_dead_letters(site, *users)
    await site.push_service.control.set_rules()
    headers = {"Idempotency-Key": f"fifty {notification}"} if keyed else {}
    body = {"notificationId": notification}
    calls = (site.api.call("POST", "/api/dead-letters/replay", body, headers=headers) for _ in range(50))
    answers = await asyncio.gather(*calls)
    done = [answer.read(Json) for answer in answers if answer.status == 202]
    if keyed:
        assert {answer.status for answer in answers} <= {202, 409}
        assert {answer["replayed"] for answer in done} == {12}
    else:
        assert len(done) == 50
        assert sum(answer["replayed"] for answer in done) == 12
    assert (await site.api.wait_until_finished(notification)).by_state == {"delivered": 12}
    counts = await count_received(site)
    assert [counts[name] for name in users] == [1] * 12


LOCAL = "2026-11-22T19:30:00"
BAD_QUERIES = {
    "limit=0": "limit",
    "limit=501": "limit",
    "limit=many": "limit",
    "since=yesterday": "since",
    f"until={LOCAL}": "until",
    "error=a%00b": "error",
    "userId=" + "u" * 301: "userId",
    "notificationId=" + "n" * 301: "notificationId",
    "cursor=%00": "cursor",
    "cursor=nonsense": "cursor",
}
BAD_BODIES: dict[str, tuple[Json, str]] = {
    "no filter": ({}, "all"),
    "all and a filter": ({"all": True, "userId": "ana"}, "all"),
    "an unknown field": ({"all": True, "colour": "red"}, "colour"),
    "no rate": ({"all": True, "ratePerSecond": 0}, "ratePerSecond"),
    "a rate as text": ({"all": True, "ratePerSecond": "fast"}, "ratePerSecond"),
    "too many": ({"all": True, "limit": 10_001}, "limit"),
    "none": ({"all": True, "limit": 0}, "limit"),
    "no ids": ({"ids": []}, "ids"),
    "many ids": ({"ids": ["x"] * 1_001}, "ids"),
    "an empty id": ({"ids": [""]}, "ids[0]"),
    "no id": ({"ids": ["nonsense"]}, "ids[0]"),
    "a local time": ({"since": LOCAL}, "since"),
    "an error that is long": ({"error": "x" * 301}, "error"),
}


async def test_invalid_requests_name_the_field(site: Installation) -> None:
    """One test for all invalid requests: none changes anything, and each takes a millisecond."""
    failures = []
    for query, field in BAD_QUERIES.items():
        for path in ("/api/dead-letters", "/api/dead-letters/errors"):
            if path.endswith("errors") and field == "cursor":
                continue
            answer = await site.api.call("GET", f"{path}?{query}")
            failures += _lacks_field(answer, field, f"{path}?{query}"[:80])
    for name, (body, field) in BAD_BODIES.items():
        answer = await site.api.call("POST", "/api/dead-letters/replay", body)
        failures += _lacks_field(answer, field, name)
    answer = await site.api.call("POST", "/api/dead-letters/discard", {"all": True, "ratePerSecond": 1})
    failures += _lacks_field(answer, "ratePerSecond", "a rate of discarding")
    assert failures == []


def _lacks_field(answer: HttpResponse, field: str, what: str) -> list[tuple[str, int, bytes]]:
    fields = [error["field"] for error in answer.read(Json).get("errors", [])]
    return [] if (answer.status, fields) == (422, [field]) else [(what, answer.status, answer.body[:200])]


async def test_unmatched_filters_find_no_dead_letter(site: Installation) -> None:
    for query in ("notificationId=nonsense", "userId=nobody", "channel=pigeon"):
        found = (await site.api.expect(200, "GET", f"/api/dead-letters?{query}")).read(Json)
        assert found == {"items": [], "nextCursor": None}


async def test_unknown_dead_letter_ids_are_named(site: Installation) -> None:
    await site.register_users("named-ana")
    notification = await create_dead_letters(site, "named-ana")
    [dead] = [item["id"] for item in await list_dead_letters(site, notificationId=notification)]
    assert (await preview(site, ids=[notification, dead]))["unknownIds"] == [notification], (
        "a notification id is not a dead letter id"
    )
    await site.push_service.control.set_rules()
    answer = await replay(site, ids=[dead, notification])
    assert (answer["replayed"], answer["unknownIds"]) == (1, [notification])
    await site.api.wait_until_finished(notification)
    body = {"ids": [dead]}
    gone = (await site.api.expect(200, "POST", "/api/dead-letters/discard", body)).read(Json)
    assert gone == {"discarded": 0, "more": False, "unknownIds": [dead]}
    odd = await site.api.call("POST", "/api/dead-letters/replay", {"ids": [dead, "nonsense"]})
    assert not _lacks_field(odd, "ids[1]", "nonsense")


async def test_a_misspelt_filter_is_rejected(site: Installation) -> None:
    answer = await site.api.call("GET", "/api/dead-letters?erorr=x&limit=1")
    assert not _lacks_field(answer, "erorr", "a misspelt filter")
    assert "known are: limit, cursor, error, notificationId" in answer.read(Json)["errors"][0]["message"]
    answer = await site.api.call("GET", "/api/notifications?priority=x")
    assert not _lacks_field(answer, "priority", "no filter")
