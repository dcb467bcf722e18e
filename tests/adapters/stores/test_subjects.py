"""Notifications on one subject to different users, on each database: none loses what only another one superseded."""

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.unit.conftest import NEWS, FakeChannel, Process

from tidings.flow.catalog import Catalog
from tidings.model.audience import Audience, everyone, users
from tidings.model.notification import Notification
from tidings.model.outcome import Accepted, PermanentFailure, RetryLater
from tidings.model.plan_options import DigestOptions
from tidings.model.subject import SubjectRequest
from tidings.model.user import User
from tidings.packs import core
from tidings.ports.operations import DeadLetterFilter
from tidings.stores.store import SqlStore
from tidings.testing.clock import FrozenClock

MINUTE = timedelta(minutes=1)
DIGEST = DigestOptions(window_seconds=600)


@pytest.fixture(params=["sqlite", "postgresql"])
def any_store(request: pytest.FixtureRequest) -> SqlStore:
    store: SqlStore = request.getfixturevalue("store" if request.param == "sqlite" else "postgres_store")
    return store


@pytest.fixture
async def process(any_store: SqlStore, clock: FrozenClock) -> Process:
    catalog = Catalog.from_packs([core.pack, NEWS], channels=("webpush",), known_channels=("webpush",))
    opened = Process(any_store, clock, catalog, FakeChannel(), exclusive=True)
    await opened.add_users("ana", "ben", "cleo")
    return opened


async def notify(
    process: Process,
    audience: Audience,
    title: str = "Hello",
    *,
    subject: SubjectRequest | str = "document:d-1",
    digest: DigestOptions | None = None,
) -> Notification:
    subject = SubjectRequest(subject) if isinstance(subject, str) else subject
    request = process.build_request(audience)
    request = replace(request, variables={"title": title, "body": ""}, subject=subject, digest=digest)
    async with process.store.transaction() as tx:
        [accepted] = await process.pipeline.accept_many(tx, [request])
    assert isinstance(accepted, Notification)
    return accepted


async def get_superseding(process: Process, *notifications: Notification) -> list[str | None]:
    """Return the id of the newer notification per notification."""
    async with process.store.read_snapshot() as tx:
        found = {one.id: one for one in await process.store.notifications.get_many(tx, [n.id for n in notifications])}
    return [found[one.id].superseded_by for one in notifications]


def list_sent(process: Process) -> list[tuple[str, str]]:
    return sorted((one.target.user_id, one.payload.decode()) for one in process.channel.sent)


async def test_only_lists_within_the_newer_list_are_superseded(process: Process) -> None:
    ana, ben = await notify(process, users("ana")), await notify(process, users("ben"))
    both = await notify(process, users("ana", "cleo"))
    last = await notify(process, users("ana") | users("ben"))
    assert await get_superseding(process, ana, ben, both, last) == [both.id, last.id, None, None]
    described = await notify(process, everyone())
    assert await get_superseding(process, both, last) == [described.id, described.id]
    late = await notify(process, users("ana"))
    assert await get_superseding(process, described, late) == [late.id, None]


async def test_an_older_version_that_arrives_late_is_superseded_by_any_newer_one_to_its_users(
    process: Process,
) -> None:
    key = "order:7"
    newer = await notify(process, users("ana", "ben"), subject=SubjectRequest(key, 5))
    newest = await notify(process, users("ben"), subject=SubjectRequest(key, 6))
    ana = await notify(process, users("ana"), subject=SubjectRequest(key, 4))
    ben = await notify(process, users("ben"), subject=SubjectRequest(key, 4))
    cleo = await notify(process, users("ana", "cleo"), subject=SubjectRequest(key, 4))
    described = await notify(process, everyone(), subject=SubjectRequest(key, 4))
    found = [ana.superseded_by, ben.superseded_by, cleo.superseded_by, described.superseded_by]
    assert found == [newer.id, newest.id, None, newest.id]


async def test_subjects_below_are_superseded_for_the_same_users(process: Process) -> None:
    ana = await notify(process, users("ana"), subject="document:d-1/comment:7")
    ben = await notify(process, users("ben"), subject="document:d-1/comment:8")
    above = await notify(process, users("ana"), subject=SubjectRequest("document:d-1", includes_below=True))
    assert await get_superseding(process, ana, ben) == [above.id, None]


async def test_held_messages_and_retries_are_skipped_for_the_users_of_the_newer_one(process: Process) -> None:
    process.channel.respond = lambda _message: RetryLater(process.clock.now() + MINUTE, "answered 503", 503)
    older = await notify(process, users("ana", "ben"), "older")
    await process.process_queue()
    process.channel.respond = lambda _message: Accepted()
    process.channel.sent.clear()
    newer = await notify(process, users("ana", "cleo"), "newer")
    async with process.store.read_snapshot() as tx:
        found = [await process.store.subjects.find_newer_for_user(tx, older.id, name) for name in ("ana", "ben")]
    assert found == [newer.id, None]
    process.clock.advance(2 * MINUTE)
    await process.pipeline.batch_due()
    await process.process_queue()
    assert list_sent(process) == [("ana", "newer: "), ("ben", "older: "), ("cleo", "newer: ")]
    assert await process.count_by_state(older) == {"delivered": 1, "skipped": 1}


async def test_dead_letters_of_other_users_are_still_replayed(process: Process) -> None:
    process.channel.respond = lambda _message: PermanentFailure("answered 403", status=403)
    older = await notify(process, users("ana", "ben"), "older")
    await process.process_queue()
    process.channel.respond = lambda _message: Accepted()
    await notify(process, users("ana"), "newer")
    async with process.store.transaction() as tx:
        now = process.clock.now()
        await process.store.dead_letters.replay(
            tx, DeadLetterFilter(notification_id=older.id), due_at=now, limit=10, now=now
        )
    process.channel.sent.clear()
    await process.pipeline.batch_due()
    await process.process_queue()
    assert list_sent(process) == [("ana", "newer: "), ("ben", "older: ")]


async def test_a_digest_keeps_what_was_superseded_for_others(process: Process) -> None:
    for number in (1, 2, 3):
        await notify(process, users("ana"), f"to ana {number}", subject=f"document:d-{number}", digest=DIGEST)
    await notify(process, users("ana", "ben"), "to both", subject="document:d-1", digest=DIGEST)
    await notify(process, users("ben"), "to ben", subject="document:d-1", digest=DIGEST)
    process.clock.advance(10 * MINUTE)
    await process.pipeline.close_due_digests()
    await process.process_queue()
    texts = {user_id: set(text.partition(": ")[2].splitlines()) for user_id, text in list_sent(process)}
    assert texts["ana"] == {"to both", "to ana 2", "to ana 3"}
    assert [text for user_id, text in list_sent(process) if user_id == "ben"] == ["to ben: "]


async def test_long_lists_are_not_read_for_a_notification_to_one_user(process: Process) -> None:
    many = [f"user-{number:04}" for number in range(300)]
    async with process.store.transaction() as tx:
        await process.store.users.upsert(tx, [User(name) for name in many], process.clock.now())
    long = await notify(process, users(*many))
    other = await notify(process, users("ben"))
    last = await notify(process, users(many[0]))
    assert await get_superseding(process, long, other, last) == [None, None, None]
