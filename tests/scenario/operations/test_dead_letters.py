"""Dead letters over HTTP: what a push service refuses is listed, sent again when it is mended, or put away (M9)."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from tidings.testing.installation import Installation, instant
from tidings.testing.mock_push import Rule
from tidings.testing.server import Answer, eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

Json = dict[str, Any]
FORBIDDEN = "the push service answered 403: no entry"
WRONG = "the push service answered 400: bad words"


async def refused(site: Installation, *users: str, status: int = 403, body: str = "no entry", **options: object) -> str:
    """Tell users whose push service refuses them; return the notification once all of them are dead letters."""
    await site.push.control.behave(*(Rule(status=status, body=body, device=user) for user in users))
    one = await site.tell(*users, **options)
    assert (await site.api.finished(one)).by_state == {"refused": len(users)}
    return one


async def listed(site: Installation, **query: object) -> list[Json]:
    items: list[Json] = (await site.api.expect(200, "GET", f"/api/dead-letters?{urlencode(query)}")).read(Json)["items"]
    return items


async def replay(site: Installation, **body: object) -> Json:
    return (await site.api.expect(202, "POST", "/api/dead-letters/replay", body)).read(Json)


async def survey(site: Installation, **body: object) -> Json:
    return (await site.api.expect(200, "POST", "/api/dead-letters/replay", {**body, "dryRun": True})).read(Json)


async def received(site: Installation) -> Counter[str]:
    counts: Counter[str] = Counter()
    for device, _, count in await site.push.control.receipts():
        counts[device] += count
    return counts


async def test_what_is_refused_is_listed_with_the_reason(site: Installation) -> None:
    await site.sign_up("list-ana", "list-ben")
    before = datetime.now(UTC)
    one = await refused(site, "list-ana", "list-ben")
    items = await listed(site, notificationId=one)
    assert {item["userId"] for item in items} == {"list-ana", "list-ben"}
    for item in items:
        assert (item["error"], item["status"], item["attempts"], item["crashes"]) == (FORBIDDEN, 403, 1, 0)
        assert (item["notificationId"], item["templateCode"], item["channel"]) == (one, "MESSAGE", "webpush")
        assert before <= instant(item["diedAt"]) <= datetime.now(UTC)
        assert instant(item["expiresAt"]) > datetime.now(UTC)


async def test_filters_narrow_the_list_and_the_groups(site: Installation) -> None:
    await site.sign_up("fil-ana", "fil-ben", "fil-cleo")
    start = datetime.now(UTC)
    many = await refused(site, "fil-ana", "fil-ben")
    middle = datetime.now(UTC)
    few = await refused(site, "fil-cleo", status=400, body="bad words")

    async def found(**query: object) -> set[str]:
        return {item["userId"] for item in await listed(site, since=start.isoformat(), **query)}

    assert await found() == {"fil-ana", "fil-ben", "fil-cleo"}
    assert await found(error=WRONG) == {"fil-cleo"}
    assert await found(notificationId=many) == {"fil-ana", "fil-ben"}
    assert await found(userId="fil-ben") == {"fil-ben"}
    assert await found(until=middle.isoformat()) == {"fil-ana", "fil-ben"}
    assert await found(templateCode="MESSAGE", channel="webpush", error=FORBIDDEN) == {"fil-ana", "fil-ben"}
    # what stands before the answer's own words will do; a part of it is another error
    assert await found(error=FORBIDDEN.partition(": ")[0]) == {"fil-ana", "fil-ben"}
    assert await found(error=FORBIDDEN[:-1]) == await found(error="the push service") == set()
    assert await found(templateCode="NEW_EVENT") == await found(channel="email") == await found(error="no") == set()
    path = f"/api/dead-letters/errors?{urlencode({'since': start.isoformat()})}"
    groups = (await site.api.expect(200, "GET", path)).read(Json)["items"]
    assert [(group["error"], group["count"]) for group in groups] == [(FORBIDDEN, 2), (WRONG, 1)]
    assert groups[1]["firstAt"] == groups[1]["lastAt"] == (await listed(site, notificationId=few))[0]["diedAt"]
    assert len((await site.api.expect(200, "GET", f"{path}&limit=1")).read(Json)["items"]) == 1


async def test_the_list_goes_in_pages(site: Installation) -> None:
    people = [f"page-{number}" for number in range(5)]
    await site.sign_up(*people)
    one = await refused(site, *people)
    sizes, ids, cursor = list[int](), list[str](), ""
    while True:
        query = urlencode({"notificationId": one, "limit": 2}) + (f"&cursor={quote(cursor)}" if cursor else "")
        page = (await site.api.expect(200, "GET", f"/api/dead-letters?{query}")).read(Json)
        sizes.append(len(page["items"]))
        ids += [item["id"] for item in page["items"]]
        if not (cursor := page["nextCursor"]):
            break
    assert sizes == [2, 2, 1]
    assert ids == sorted(set(ids), reverse=True)


async def test_a_dry_run_says_what_would_be_done_and_does_nothing(site: Installation) -> None:
    people = [f"dry-{number}" for number in range(3)]
    await site.sign_up(*people)
    one = await refused(site, *people)
    before = datetime.now(UTC)
    shown = await survey(site, notificationId=one, ratePerSecond=0.5)
    assert (shown["matching"], shown["replayable"], shown["expired"], shown["cancelled"]) == (3, 3, 0, 0)
    assert (shown["dryRun"], shown["more"], len(shown["sample"])) == (True, False, 3)
    # at one in two seconds the third has its turn after four
    assert timedelta(seconds=4) <= instant(shown["until"]) - before < timedelta(seconds=8)
    everything = await survey(site)
    assert everything["matching"] >= 3
    discard = {"notificationId": one, "dryRun": True}
    assert (await site.api.expect(200, "POST", "/api/dead-letters/discard", discard)).read(Json)["matching"] == 3
    assert (await site.api.progress(one)).by_state == {"refused": 3}


async def test_a_replay_is_spread_over_time(site: Installation) -> None:
    people = [f"rate-{number}" for number in range(3)]
    await site.sign_up(*people)
    one = await refused(site, *people)
    await site.push.control.behave()
    answer = await replay(site, notificationId=one, ratePerSecond=0.1)
    assert (answer["replayed"], answer["more"]) == (3, False)
    waiting = await site.rows(
        f"SELECT due_at, attempts FROM deliveries WHERE notification_id = '{one}' AND state = 'pending' ORDER BY due_at"
    )
    due = [instant(at) for at, _ in waiting]
    # the first is on its way, or was
    assert due[-1] - due[-2] == timedelta(seconds=10)
    assert due[-1] == instant(answer["until"])
    assert due[-1] - datetime.now(UTC) < timedelta(seconds=20)
    assert {attempts for _, attempts in waiting} == {0}
    await eventually(lambda: _is(site, one, {"delivered": 1, "pending": 2}))
    await site.api.expect(200, "DELETE", f"/api/notifications/{one}")


async def _is(site: Installation, notification: str, by_state: dict[str, int]) -> bool:
    return (await site.api.progress(notification)).by_state == by_state


async def test_after_the_mending_all_are_delivered_some_at_a_time(site: Installation) -> None:
    people = [f"mend-{number}" for number in range(5)]
    await site.sign_up(*people)
    one = await refused(site, *people)
    await site.push.control.behave()
    first = await replay(site, notificationId=one, error=FORBIDDEN, limit=3)
    assert (first["replayed"], first["more"]) == (3, True)
    second = await replay(site, ids=[item["id"] for item in await listed(site, notificationId=one)], limit=3)
    assert (second["replayed"], second["more"]) == (2, False)
    assert (await site.api.finished(one)).by_state == {"delivered": 5}
    assert await listed(site, notificationId=one) == []
    counts = await received(site)
    assert [counts[name] for name in people] == [1] * 5
    nothing = await replay(site, notificationId=one)
    assert (nothing["replayed"], nothing["until"], nothing["more"]) == (0, None, False)


async def test_what_is_cancelled_or_expired_stays_dead_and_is_counted(site: Installation) -> None:
    await site.sign_up("stay-ana", "stay-ben", "stay-cleo")
    soon = datetime.now(UTC) + timedelta(seconds=4)
    late = await refused(site, "stay-cleo", expiresAt=soon.isoformat())
    await site.push.control.behave(
        Rule(status=403, body="no entry", device="stay-ana"), Rule(status=429, retry_after=3600, device="stay-ben")
    )
    one = await site.tell("stay-ana", "stay-ben")
    await eventually(lambda: _is(site, one, {"refused": 1, "pending": 1}))
    await site.api.expect(200, "DELETE", f"/api/notifications/{one}")
    ids = [item["id"] for which in (one, late) for item in await listed(site, notificationId=which)]
    assert len(ids) == 2

    async def expired() -> bool:
        return bool((await survey(site, ids=ids))["expired"])

    await eventually(expired)
    found = await survey(site, ids=ids)
    assert (found["matching"], found["replayable"], found["cancelled"], found["until"]) == (2, 0, 1, None)
    answer = await replay(site, ids=ids)
    assert answer == {"replayed": 0, "until": None, "expired": 1, "cancelled": 1, "more": False, "unknownIds": []}
    assert len(await listed(site, notificationId=one)) == len(await listed(site, notificationId=late)) == 1


async def test_what_is_discarded_is_off_the_list_and_its_story_stays(site: Installation) -> None:
    people = [f"off-{number}" for number in range(3)]
    await site.sign_up(*people)
    one = await refused(site, *people)
    body = {"notificationId": one, "limit": 2}
    first = (await site.api.expect(200, "POST", "/api/dead-letters/discard", body)).read(Json)
    assert first == {"discarded": 2, "more": True, "unknownIds": []}
    second = (await site.api.expect(200, "POST", "/api/dead-letters/discard", body)).read(Json)
    assert second == {"discarded": 1, "more": False, "unknownIds": []}
    assert await listed(site, notificationId=one) == []
    assert (await site.api.progress(one)).by_state == {"discarded": 3}
    assert (await replay(site, notificationId=one))["replayed"] == 0
    items = (await site.api.expect(200, "GET", f"/api/notifications/{one}/deliveries")).read(Json)["items"]
    assert [[tried["status"] for tried in item["attempts"]] for item in items] == [[403]] * 3


async def test_the_same_order_again_is_answered_and_not_done_again(site: Installation) -> None:
    people = [f"once-{number}" for number in range(3)]
    await site.sign_up(*people)
    one = await refused(site, *people)
    headers = {"Idempotency-Key": f"replay {one}"}

    async def order(**more: object) -> Answer:
        body = {"notificationId": one, **more}
        return await site.api.call("POST", "/api/dead-letters/replay", body, headers=headers)

    first = await order()
    assert (first.status, first.read(Json)["replayed"]) == (202, 3)
    # they are refused again, so that a second replay would find them
    await eventually(lambda: _is(site, one, {"refused": 3}))
    again = await order()
    assert (again.status, again.body) == (202, first.body)
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert (await site.api.progress(one)).by_state == {"refused": 3}
    items = (await site.api.expect(200, "GET", f"/api/notifications/{one}/deliveries")).read(Json)["items"]
    assert [len(item["attempts"]) for item in items] == [2] * 3
    other = await order(limit=1)
    assert (other.status, other.read(Json)["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize("keyed", [False, True])
async def test_fifty_orders_at_once_send_each_letter_once(site: Installation, keyed: bool) -> None:
    people = [f"fifty-{keyed}-{number}" for number in range(12)]
    await site.sign_up(*people)
    one = await refused(site, *people)
    await site.push.control.behave()
    headers = {"Idempotency-Key": f"fifty {one}"} if keyed else {}
    body = {"notificationId": one}
    calls = (site.api.call("POST", "/api/dead-letters/replay", body, headers=headers) for _ in range(50))
    answers = await asyncio.gather(*calls)
    done = [answer.read(Json) for answer in answers if answer.status == 202]
    if keyed:
        assert {answer.status for answer in answers} <= {202, 409}
        assert {answer["replayed"] for answer in done} == {12}
    else:
        assert len(done) == 50
        assert sum(answer["replayed"] for answer in done) == 12
    assert (await site.api.finished(one)).by_state == {"delivered": 12}
    counts = await received(site)
    assert [counts[name] for name in people] == [1] * 12


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
BAD_ORDERS: dict[str, tuple[Json, str]] = {
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


async def test_what_is_wrong_is_named(site: Installation) -> None:
    """One test for all of them: nothing is changed, and each costs a millisecond."""
    wrong = []
    for query, field in BAD_QUERIES.items():
        for path in ("/api/dead-letters", "/api/dead-letters/errors"):
            if path.endswith("errors") and field == "cursor":
                continue
            answer = await site.api.call("GET", f"{path}?{query}")
            wrong += _unnamed(answer, field, f"{path}?{query}"[:80])
    for name, (body, field) in BAD_ORDERS.items():
        answer = await site.api.call("POST", "/api/dead-letters/replay", body)
        wrong += _unnamed(answer, field, name)
    answer = await site.api.call("POST", "/api/dead-letters/discard", {"all": True, "ratePerSecond": 1})
    wrong += _unnamed(answer, "ratePerSecond", "a rate of discarding")
    assert wrong == []


def _unnamed(answer: Answer, field: str, what: str) -> list[tuple[str, int, bytes]]:
    fields = [one["field"] for one in answer.read(Json).get("errors", [])]
    return [] if (answer.status, fields) == (422, [field]) else [(what, answer.status, answer.body[:200])]


async def test_words_of_no_dead_letter_find_none(site: Installation) -> None:
    for query in ("notificationId=nonsense", "userId=nobody", "channel=pigeon"):
        found = (await site.api.expect(200, "GET", f"/api/dead-letters?{query}")).read(Json)
        assert found == {"items": [], "nextCursor": None}


async def test_ids_of_no_dead_letter_are_named(site: Installation) -> None:
    await site.sign_up("named-ana")
    one = await refused(site, "named-ana")
    [dead] = [item["id"] for item in await listed(site, notificationId=one)]
    assert (await survey(site, ids=[one, dead]))["unknownIds"] == [one], "a notification is no dead letter"
    await site.push.control.behave()
    answer = await replay(site, ids=[dead, one])
    assert (answer["replayed"], answer["unknownIds"]) == (1, [one])
    await site.api.finished(one)
    body = {"ids": [dead]}
    gone = (await site.api.expect(200, "POST", "/api/dead-letters/discard", body)).read(Json)
    assert gone == {"discarded": 0, "more": False, "unknownIds": [dead]}
    odd = await site.api.call("POST", "/api/dead-letters/replay", {"ids": [dead, "nonsense"]})
    assert not _unnamed(odd, "ids[1]", "nonsense")


async def test_a_misspelt_filter_does_not_mean_everything(site: Installation) -> None:
    answer = await site.api.call("GET", "/api/dead-letters?erorr=x&limit=1")
    assert not _unnamed(answer, "erorr", "a misspelt filter")
    assert "known are: limit, cursor, error, notificationId" in answer.read(Json)["errors"][0]["message"]
    answer = await site.api.call("GET", "/api/notifications?priority=x")
    assert not _unnamed(answer, "priority", "no filter")
