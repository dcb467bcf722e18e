"""Jobs of other services are carried out or fail with the reason; what is wrong with one harms no other."""

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from tidings.flow.intake.outside import Part, Parts
from tidings.model.priority import Priority
from tidings.model.user import User
from tidings.testing.server import eventually

if TYPE_CHECKING:
    from tests.contract.intake.conftest import Shop

WORDS = {"templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "You"}}


async def test_a_job_of_one_user_comes_back_with_the_id_of_its_notification(shop: "Shop") -> None:
    async with shop.intake():
        data = {"userId": "u1", **WORDS, "options": {"actionUrl": "/orders/1"}}
        job_id = await shop.add("publish-notification", data, priority=1)
        answer = await shop.answer(job_id)
    [made] = await shop.notifications()
    assert answer == {"id": made.id, "accepted": 1, "failed": []}
    assert (made.priority, made.action_url) == (Priority.URGENT, "/orders/1")
    assert made.source == f"job:publish-notification:{job_id}"
    assert await shop.told() == ["u1"]


async def test_jobs_that_wait_are_accepted_together(shop: "Shop", monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    accept = Parts.accept

    async def counted(self: Parts, parts: Sequence[Part]) -> object:
        sizes.append(len(parts))
        return await accept(self, parts)

    monkeypatch.setattr(Parts, "accept", counted)
    ids = [await shop.add("send-notification", {"userId": f"u{number}", **WORDS}) for number in range(10)]
    async with shop.intake():
        for one in ids:
            assert (await shop.answer(one))["accepted"] == 1
    assert sizes == [10]
    assert await shop.told() == [f"u{number}" for number in range(10)]


async def test_a_batch_tells_everybody_it_can_and_lists_the_others(shop: "Shop") -> None:
    named = ["u0", "nobody", "u1", "a/b", "u2", 7, "u3", "stranger", "u4"]
    async with shop.intake(batch_size=2):
        answer = await shop.answer(await shop.add("publish-batch-notification", {"userIds": named, **WORDS}))
    assert answer["ids"] == [one.id for one in await shop.notifications()]
    assert answer["accepted"] == 5
    assert [one["userId"] for one in answer["failed"]] == ["a/b", "7", "nobody", "stranger"]
    reasons = [one["reason"] for one in answer["failed"]]
    assert reasons[1:] == ["must be a string", *["no such user; PUT /api/users/ID first"] * 2]
    assert await shop.told() == [f"u{number}" for number in range(5)]


async def test_a_batch_of_strangers_is_carried_out_for_nobody(shop: "Shop") -> None:
    async with shop.intake(batch_size=1):
        answer = await shop.answer(await shop.add("batch-notification", {"userIds": ["x", "y"], **WORDS}))
    assert (answer["ids"], answer["accepted"], len(answer["failed"])) == ([], 0, 2)
    assert await shop.notifications() == []


async def test_a_batch_that_cannot_be_carried_out_for_anybody_fails(shop: "Shop") -> None:
    async with shop.intake(batch_size=1):
        unknown = await shop.add("batch-notification", {"userIds": ["u1", "u2"], "templateCode": "MESAGE"})
        no_ids = await shop.add("batch-notification", {"userIds": ["a/b", 7], **WORDS})
        assert await shop.refusal(unknown) == "templateCode: no template 'MESAGE'; did you mean 'MESSAGE'?"
        assert (await shop.refusal(no_ids)).startswith("userIds: none is a user id: 'a/b' must not contain /")
    assert await shop.notifications() == []


async def test_malformed_jobs_fail_at_once_and_the_others_are_carried_out(shop: "Shop") -> None:
    wrong = {
        "templateCode: is required": ("publish-notification", {"userId": "u1"}),
        "userId: no such user: 'nobody'": ("publish-notification", {"userId": "nobody", **WORDS}),
        "variables.body: is missing": ("publish-notification", {"userId": "u1", "templateCode": "MESSAGE"}),
        "channels[0]: unknown channel 'pigeon'": (
            "send-notification",
            {"userId": "u1", **WORDS, "channels": ["pigeon"]},
        ),
        "name: no kind of job is called 'publish'": ("publish", {"userId": "u1", **WORDS}),
        "data: must be a JSON object": ("publish-notification", ["u1"]),
        "to: no user has the e-mail address": ("SEND_EMAIL", {"to": "x@example.org", "subject": "S", "text": "T"}),
    }
    ids = {reason: await shop.add(*job, attempts=5) for reason, job in wrong.items()}
    good = [await shop.add("publish-notification", {"userId": "u1", **WORDS}) for _ in range(3)]
    async with shop.intake():
        for reason, job_id in ids.items():
            assert (await shop.refusal(job_id)).startswith(reason)
            # not tried again, however many tries its producer allows
            assert (await shop.job(job_id)).attemptsMade <= 1
        for one in good:
            assert (await shop.answer(one))["accepted"] == 1
    assert await shop.told() == ["u1"] * 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data", "{no json"),
        ("data", "[" * 5_000),
        ("opts", '"text"'),
        ("opts", "[]"),
        ("opts", '{"attempts": 18446744073709551616}'),
        ("opts", '{"fpof": 18446744073709551616}'),
        ("timestamp", str(10**18)),
        ("timestamp", "soon"),
        ("priority", "1e999"),
        ("name", ""),
    ],
)
async def test_what_cannot_be_read_fails_with_the_reason_and_stops_nobody(shop: "Shop", field: str, value: str) -> None:
    job_id = await shop.add("publish-notification", {"userId": "u1", **WORDS})
    good = await shop.add("publish-notification", {"userId": "u1", **WORDS})
    await shop.queue.client.hset(f"bull:{shop.queue.name}:{job_id}", field, value)
    async with shop.intake():
        # the stock client cannot read it either
        reason = await _field(shop, job_id, "failedReason")
        assert (await shop.answer(good))["accepted"] == 1
    assert reason.startswith("data: ")


async def test_a_reason_that_quotes_half_a_character_fails_the_job_all_the_same(shop: "Shop") -> None:
    job_id = await shop.add("publish-notification", {"userId": "\ud800", **WORDS})
    good = await shop.add("publish-notification", {"userId": "u1", **WORDS})
    async with shop.intake():
        assert await _field(shop, job_id, "failedReason")
        assert (await shop.answer(good))["accepted"] == 1


async def _field(shop: "Shop", job_id: str, field: str) -> str:
    async def there() -> str | None:
        value: str | None = await shop.queue.client.hget(f"bull:{shop.queue.name}:{job_id}", field)
        return value

    return await eventually(there)


async def test_the_older_jobs_find_the_user_by_the_address(shop: "Shop") -> None:
    await shop.people(
        User("ana", email="ana@example.org", phone="+41441234567"),
        User("ben", email="both@example.org"),
        User("cem", email="both@example.org"),
    )
    mail = {"subject": "Your order", "html": "<p>It is on its way.</p>"}
    async with shop.intake():
        ana = await shop.add("SEND_EMAIL", {"to": "ana@example.org", **mail})
        sms = await shop.add("SEND_SMS", {"to": "+41 44 123 45 67", "message": "Code 1234"})
        both = await shop.add("SEND_EMAIL", {"to": "both@example.org", **mail})
        said = await shop.add("SEND_EMAIL", {"to": "both@example.org", "userId": "cem", **mail})
        none = await shop.add("SEND_SMS", {"to": "+41440000000", "message": "Code"})
        assert (await shop.answer(ana))["accepted"] == (await shop.answer(sms))["accepted"] == 1
        assert (await shop.answer(said))["accepted"] == 1
        assert await shop.refusal(both) == (
            "to: 2 users have the e-mail address both@example.org; name the one who is meant in userId"
        )
        assert "no user has the phone number +41440000000; PUT /api/users/ID with it first" in await shop.refusal(none)
    made = {one.channels: one for one in await shop.notifications()}
    assert made["sms",].variables["body"] == "Code 1234"
    assert made["email",].variables == {"title": "Your order", "body": "It is on its way."}
    assert sorted(await shop.told()) == ["ana", "ana", "cem"]


async def test_no_more_batches_at_once_than_the_settings_say(shop: "Shop", monkeypatch: pytest.MonkeyPatch) -> None:
    now, most = 0, 0
    full, go_on = asyncio.Event(), asyncio.Event()
    accept = Parts.accept

    async def held(self: Parts, parts: Sequence[Part]) -> object:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if now == 3:
            full.set()
        await go_on.wait()
        now -= 1
        return await accept(self, parts)

    monkeypatch.setattr(Parts, "accept", held)
    ids = [await shop.add("batch-notification", {"userIds": ["u1", "u2"], **WORDS}) for _ in range(8)]
    async with shop.intake(batch_jobs=3):
        async with asyncio.timeout(10):
            await full.wait()
        go_on.set()
        for one in ids:
            assert (await shop.answer(one))["accepted"] == 2
    assert most == 3


async def test_all_workers_together_keep_the_limit(shop: "Shop") -> None:
    ids = [await shop.add("publish-notification", {"userId": "u1", **WORDS}) for _ in range(45)]
    began = time.monotonic()
    async with shop.intake(per_second=20), shop.intake(per_second=20):
        for one in ids:
            await shop.job(one)
    # 20 at the start, 20 after a second, the rest after two
    assert time.monotonic() - began > 1.9
    assert len(await shop.told()) == 45
