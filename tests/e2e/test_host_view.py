"""What a host product sees: one call reaches a user on four channels, and `explain` tells what happened on each.

On SQLite in one process, and on PostgreSQL and Valkey with an API process and a worker.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from bullmq import Job, Queue  # type: ignore[import-untyped]  # ships no types
from tests.support.cluster import ServerProcess
from tests.support.server import TidingsServer, eventually

from tidings.mockmail import MailRule, MockMail
from tidings.mockpush import SpawnedMockPush
from tidings.testing.postgres import PostgresServer
from tidings.testing.valkey import ValkeyServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]
PHONE = "+15005550100"
WORDS = {"templateCode": "MESSAGE", "variables": {"title": "Doors", "body": "Open at six"}}
CHANNELS = {"email", "inapp", "sms", "webpush"}
INTAKE = "{tidings-intake}"
#: an API process and a worker on PostgreSQL and Valkey
SCALED = "scaled"


@dataclass(frozen=True)
class Site:
    """A running installation, and what its providers received."""

    api: TidingsServer
    mail: MockMail
    #: None = the queue is in memory
    redis_url: str | None

    async def explain(self, user: str, notification: str) -> Json:
        path = f"/api/explain?userId={user}&notificationId={notification}"
        return (await self.api.expect(200, "GET", path)).read(Json)

    async def notify(self, user: str) -> str:
        accepted = await self.api.expect(202, "POST", "/api/notifications", {"userId": user, **WORDS})
        notification: str = accepted.read(Json)["id"]
        return notification


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["sqlite", SCALED])
async def site(
    request: pytest.FixtureRequest, push: SpawnedMockPush, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    folder = tmp_path_factory.mktemp("host") / "data"
    async with AsyncExitStack() as stack:
        mail = await stack.enter_async_context(MockMail())
        settings = {
            "TIDINGS_PUSH_EXTRA_HOSTS": push.origin.removeprefix("http://"),
            "TIDINGS_SMTP_URL": mail.address.smtp_url,
            "TIDINGS_EMAIL_FROM": "Jazz Club <news@jazz.example>",
            "TIDINGS_SMS_URL": mail.address.sms_url,
            "TIDINGS_INAPP__ENABLED": "true",
        }
        if request.param == "sqlite":
            server = await stack.enter_async_context(TidingsServer(folder, settings=settings))
            yield Site(server, mail, None)
            return
        postgres = stack.enter_context(PostgresServer(settings=("fsync=off",)))
        valkey = stack.enter_context(ValkeyServer())
        settings |= {"TIDINGS_DATABASE": postgres.create_database(), "TIDINGS_REDIS": valkey.url}
        api, worker = (ServerProcess(role, folder, settings=settings) for role in ("api", "worker"))
        await asyncio.gather(stack.enter_async_context(api), stack.enter_async_context(worker))
        yield Site(api, mail, valkey.url)


async def sign_up(site: Site, push: SpawnedMockPush, user: str, profile: Mapping[str, str]) -> None:
    await site.api.expect(201, "PUT", f"/api/users/{user}", profile)
    device = await push.control.subscription(user)
    await site.api.expect(201, "POST", "/api/push/subscribe", device, token=site.api.user_token(user))


async def test_one_call_reaches_a_user_on_four_channels_and_explain_tells_of_each(
    site: Site, push: SpawnedMockPush
) -> None:
    await sign_up(site, push, "ana", {"email": "ana@example.org", "phone": PHONE})
    before = len(await push.control.messages(device="ana"))
    notification = await site.notify("ana")
    assert (await site.api.wait_until_finished(notification)).by_state == {"delivered": 4}
    [message] = (await push.control.messages(device="ana"))[before:]
    assert message.payload is not None
    assert "Open at six" in str(message.payload)
    [mail] = site.mail.list_mails("ana@example.org")
    assert mail.content.subject == "Doors"
    [sms] = site.mail.list_texts(PHONE)
    assert sms.text == "Doors\nOpen at six"
    items = (await site.api.expect(200, "GET", "/api/inbox", token=site.api.user_token("ana"))).read(Json)["items"]
    assert [one["title"] for one in items] == ["Doors"]
    explained = await site.explain("ana", notification)
    assert explained["verdict"] == "delivered"
    deliveries = {one["channel"]: one for one in explained["deliveries"]}
    assert set(deliveries) == CHANNELS
    for channel in CHANNELS:
        [attempt] = deliveries[channel]["attempts"]
        assert (attempt["outcome"], attempt["why"] != "") == ("delivered", True), channel
        assert any(channel in sentence or _noun(channel) in sentence for sentence in explained["sentences"]), channel


def _noun(channel: str) -> str:
    return {"email": "e-mail", "inapp": "feed", "sms": "SMS", "webpush": "device"}[channel]


async def test_explain_tells_the_channels_apart_when_one_refuses_and_one_was_turned_off(
    site: Site, push: SpawnedMockPush
) -> None:
    await sign_up(site, push, "ben", {"email": "gone@example.org", "phone": "+15005550101"})
    site.mail.set_rules(MailRule(to="gone@example.org", reply="550 5.1.1 no such user"))
    choices = [{"category": "MESSAGE", "channel": "sms", "enabled": False}]
    await site.api.expect(200, "PUT", "/api/users/ben/preferences", {"preferences": choices})
    notification = await site.notify("ben")
    progress = await site.api.wait_until_finished(notification)
    assert (progress.by_state, progress.skipped) == ({"delivered": 2, "gone": 1}, 1)
    explained = await site.explain("ben", notification)
    told = " ".join(explained["sentences"])
    assert "no such user" in told or "5.1.1" in told
    assert [(one["channel"], one["reason"]) for one in explained["skips"]] == [("sms", "preference_off")]
    assert site.mail.list_texts("+15005550101") == []


@pytest.mark.parametrize("site", [SCALED], indirect=True)
async def test_m26_the_older_jobs_send_an_email_and_an_sms(site: Site) -> None:
    await site.api.expect(201, "PUT", "/api/users/old", {"email": "old@example.org", "phone": "+15005550102"})
    queue = Queue(INTAKE, {"connection": site.redis_url})
    try:
        html = "<style>p{}</style><p>It is <b>on its way</b>.</p>"
        jobs = [
            await queue.add("SEND_EMAIL", {"to": "Old <old@example.org>", "subject": "Your order", "html": html}, {}),
            await queue.add("SEND_SMS", {"to": "+1 500 555 0102", "message": "Code 1234"}, {}),
        ]
        await site.mail.wait_for(1, "old@example.org", timeout=60)
        await site.mail.wait_for(1, "+15005550102", timeout=60)
        results = [await _read_result(queue, job.id) for job in jobs]
    finally:
        await queue.close()
    [mail], [sms] = site.mail.list_mails("old@example.org"), site.mail.list_texts("+15005550102")
    assert mail.content.subject == "Your order"
    assert mail.content.text is not None
    assert "It is on its way." in mail.content.text
    assert sms.text == "Code 1234", "an SMS has no title"
    for result in results:
        assert (await site.api.wait_until_finished(result["id"])).by_state == {"delivered": 1}


async def _read_result(queue: Queue, job_id: str) -> Json:
    async def has_ended() -> Job | None:
        job = await Job.fromId(queue, job_id)
        return job if job is not None and job.finishedOn else None

    job = await eventually(has_ended, within=60)
    assert job.failedReason is None
    result: Json = job.returnvalue
    return result
