"""Jobs of other services are accepted or fail with a reason; a faulty job does not affect others."""

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest
from tests.support.server import eventually

from tidings.flow.accept.external_jobs import ExternalJobAcceptor, JobPart
from tidings.model.priority import Priority
from tidings.model.user import User

if TYPE_CHECKING:
    from tests.adapters.job_intake.conftest import Shop

WORDS = {"templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "You"}}


async def test_a_job_for_one_user_returns_the_id_of_its_notification(shop: "Shop") -> None:
    async with shop.intake():
        data = {"userId": "u1", **WORDS, "options": {"actionUrl": "/orders/1"}}
        job_id = await shop.add("publish-notification", data, priority=1)
        result = await shop.result(job_id)
    [notification] = await shop.notifications()
    assert result == {"id": notification.id, "accepted": 1, "failed": []}
    assert (notification.priority, notification.action_url) == (Priority.URGENT, "/orders/1")
    assert notification.source == f"job:publish-notification:{job_id}"
    assert await shop.notified_users() == ["u1"]


async def test_waiting_jobs_are_accepted_together(shop: "Shop", monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    accept = ExternalJobAcceptor.accept

    async def count_parts(self: ExternalJobAcceptor, parts: Sequence[JobPart]) -> object:
        sizes.append(len(parts))
        return await accept(self, parts)

    monkeypatch.setattr(ExternalJobAcceptor, "accept", count_parts)
    ids = [await shop.add("send-notification", {"userId": f"u{number}", **WORDS}) for number in range(10)]
    async with shop.intake():
        for job_id in ids:
            assert (await shop.result(job_id))["accepted"] == 1
    assert sizes == [10]
    assert await shop.notified_users() == [f"u{number}" for number in range(10)]


async def test_a_batch_notifies_known_users_and_lists_the_others(shop: "Shop") -> None:
    user_ids = ["u0", "nobody", "u1", "a/b", "u2", 7, "u3", "stranger", "u4"]
    async with shop.intake(batch_size=2):
        result = await shop.result(await shop.add("publish-batch-notification", {"userIds": user_ids, **WORDS}))
    assert result["ids"] == [one.id for one in await shop.notifications()]
    assert result["accepted"] == 5
    assert [one["userId"] for one in result["failed"]] == ["a/b", "7", "nobody", "stranger"]
    reasons = [one["reason"] for one in result["failed"]]
    assert reasons[1:] == ["must be a string", *["no such user; PUT /api/users/ID first"] * 2]
    assert await shop.notified_users() == [f"u{number}" for number in range(5)]


async def test_a_batch_of_unknown_users_completes_without_a_notification(shop: "Shop") -> None:
    async with shop.intake(batch_size=1):
        result = await shop.result(await shop.add("batch-notification", {"userIds": ["x", "y"], **WORDS}))
    assert (result["ids"], result["accepted"], len(result["failed"])) == ([], 0, 2)
    assert await shop.notifications() == []


async def test_a_batch_that_is_invalid_for_every_user_fails(shop: "Shop") -> None:
    async with shop.intake(batch_size=1):
        unknown = await shop.add("batch-notification", {"userIds": ["u1", "u2"], "templateCode": "MESAGE"})
        no_ids = await shop.add("batch-notification", {"userIds": ["a/b", 7], **WORDS})
        assert await shop.failure_reason(unknown) == "templateCode: no template 'MESAGE'; did you mean 'MESSAGE'?"
        assert (await shop.failure_reason(no_ids)).startswith(
            "userIds: contains no valid user id: 'a/b' must not contain /"
        )
    assert await shop.notifications() == []


async def test_malformed_jobs_fail_at_once_and_the_others_are_accepted(shop: "Shop") -> None:
    malformed = {
        "templateCode: is required": ("publish-notification", {"userId": "u1"}),
        "userId: no such user: 'nobody'": ("publish-notification", {"userId": "nobody", **WORDS}),
        "variables.body: is missing": ("publish-notification", {"userId": "u1", "templateCode": "MESSAGE"}),
        "channels[0]: unknown channel 'pigeon'": (
            "send-notification",
            {"userId": "u1", **WORDS, "channels": ["pigeon"]},
        ),
        "name: unknown job name 'publish'": ("publish", {"userId": "u1", **WORDS}),
        "data: must be a JSON object": ("publish-notification", ["u1"]),
        "to: no user has the e-mail address": ("SEND_EMAIL", {"to": "x@example.org", "subject": "S", "text": "T"}),
    }
    ids = {reason: await shop.add(*job, attempts=5) for reason, job in malformed.items()}
    good = [await shop.add("publish-notification", {"userId": "u1", **WORDS}) for _ in range(3)]
    async with shop.intake():
        for reason, job_id in ids.items():
            assert (await shop.failure_reason(job_id)).startswith(reason)
            # not retried, whatever number of attempts its producer allows
            assert (await shop.finished_job(job_id)).attemptsMade <= 1
        for job_id in good:
            assert (await shop.result(job_id))["accepted"] == 1
    assert await shop.notified_users() == ["u1"] * 3


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
async def test_an_undecodable_job_fails_with_the_reason_and_blocks_no_other(
    shop: "Shop", field: str, value: str
) -> None:
    job_id = await shop.add("publish-notification", {"userId": "u1", **WORDS})
    good = await shop.add("publish-notification", {"userId": "u1", **WORDS})
    await shop.queue.client.hset(f"bull:{shop.queue.name}:{job_id}", field, value)
    async with shop.intake():
        # the stock client cannot decode the job either, so the field is read from Redis
        reason = await _field(shop, job_id, "failedReason")
        assert (await shop.result(good))["accepted"] == 1
    assert reason.startswith("data: ")


async def test_a_job_with_a_lone_surrogate_in_its_data_still_fails(shop: "Shop") -> None:
    job_id = await shop.add("publish-notification", {"userId": "\ud800", **WORDS})
    good = await shop.add("publish-notification", {"userId": "u1", **WORDS})
    async with shop.intake():
        assert await _field(shop, job_id, "failedReason")
        assert (await shop.result(good))["accepted"] == 1


async def _field(shop: "Shop", job_id: str, field: str) -> str:
    async def read() -> str | None:
        value: str | None = await shop.queue.client.hget(f"bull:{shop.queue.name}:{job_id}", field)
        return value

    return await eventually(read)


async def test_legacy_jobs_find_the_user_by_address(shop: "Shop") -> None:
    await shop.add_users(
        User("ana", email="ana@example.org", phone="+41441234567"),
        User("ben", email="both@example.org"),
        User("cem", email="both@example.org"),
    )
    mail = {"subject": "Your order", "html": "<p>It is on its way.</p>"}
    async with shop.intake():
        ana = await shop.add("SEND_EMAIL", {"to": "ana@example.org", **mail})
        sms = await shop.add("SEND_SMS", {"to": "+41 44 123 45 67", "message": "Code 1234"})
        both = await shop.add("SEND_EMAIL", {"to": "both@example.org", **mail})
        by_id = await shop.add("SEND_EMAIL", {"to": "both@example.org", "userId": "cem", **mail})
        unknown = await shop.add("SEND_SMS", {"to": "+41440000000", "message": "Code"})
        assert (await shop.result(ana))["accepted"] == (await shop.result(sms))["accepted"] == 1
        assert (await shop.result(by_id))["accepted"] == 1
        assert await shop.failure_reason(both) == (
            "to: 2 users have the e-mail address both@example.org; set userId to select one"
        )
        reason = await shop.failure_reason(unknown)
        assert "no user has the phone number +41440000000; PUT /api/users/ID with it first" in reason
    by_channel = {notification.channels: notification for notification in await shop.notifications()}
    assert by_channel["sms",].variables["body"] == "Code 1234"
    assert by_channel["email",].variables == {"title": "Your order", "body": "It is on its way."}
    assert sorted(await shop.notified_users()) == ["ana", "ana", "cem"]


async def test_a_legacy_job_for_an_unconfigured_channel_fails_with_the_reason(shop: "Shop") -> None:
    await shop.add_users(User("ana", email="ana@example.org", phone="+41441234567"))
    async with shop.intake(channels=("webpush", "sms")):
        sms = await shop.add("SEND_SMS", {"to": "+41441234567", "message": "Code 1234"})
        mail = await shop.add("SEND_EMAIL", {"to": "ana@example.org", "subject": "S", "text": "T"}, attempts=3)
        assert (await shop.result(sms))["accepted"] == 1
        assert await shop.failure_reason(mail) == (
            "name: SEND_EMAIL needs the channel email, which is not configured on this server "
            "(configured: sms, webpush); nothing was sent"
        )
        # further attempts would change nothing
        assert (await shop.finished_job(mail)).attemptsMade <= 1
    assert await shop.notified_users() == ["ana"]


async def test_concurrent_batches_are_limited_by_the_settings(shop: "Shop", monkeypatch: pytest.MonkeyPatch) -> None:
    running, max_running = 0, 0
    limit_reached, proceed = asyncio.Event(), asyncio.Event()
    accept = ExternalJobAcceptor.accept

    async def accept_when_allowed(self: ExternalJobAcceptor, parts: Sequence[JobPart]) -> object:
        nonlocal running, max_running
        running += 1
        max_running = max(max_running, running)
        if running == 3:
            limit_reached.set()
        await proceed.wait()
        running -= 1
        return await accept(self, parts)

    monkeypatch.setattr(ExternalJobAcceptor, "accept", accept_when_allowed)
    ids = [await shop.add("batch-notification", {"userIds": ["u1", "u2"], **WORDS}) for _ in range(8)]
    async with shop.intake(batch_jobs=3):
        async with asyncio.timeout(10):
            await limit_reached.wait()
        proceed.set()
        for job_id in ids:
            assert (await shop.result(job_id))["accepted"] == 2
    assert max_running == 3


async def test_all_workers_together_keep_the_rate_limit(shop: "Shop") -> None:
    ids = [await shop.add("publish-notification", {"userId": "u1", **WORDS}) for _ in range(45)]
    started = time.monotonic()
    async with shop.intake(per_second=20), shop.intake(per_second=20):
        for job_id in ids:
            await shop.finished_job(job_id)
    # 20 at the start, 20 after one second, the rest after two
    assert time.monotonic() - started > 1.9
    assert len(await shop.notified_users()) == 45
