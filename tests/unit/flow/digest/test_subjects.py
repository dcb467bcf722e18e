"""Preferences about single subjects decide on each item of a digest, per channel, until it is handed over."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.unit.conftest import NEWS, FakeChannel, Process
from tests.unit.flow.digest.test_closing import explain_to_ana

from tidings.flow.catalog import Catalog
from tidings.model.audience import users
from tidings.model.decision import Skip
from tidings.model.delivery import DeliveryState, SkipReason
from tidings.model.notification import Notification
from tidings.model.outcome import Accepted, RetryLater
from tidings.model.plan_options import DigestOptions, Step
from tidings.model.preference import Condition, Operator, Preference
from tidings.model.subject import SubjectRequest
from tidings.observability.explain import Verdict
from tidings.packs import core
from tidings.ports.pack import RuleInput
from tidings.stores.store import SqlStore
from tidings.testing.clock import FrozenClock
from tidings.testing.contracts.contact_points_contract import make_contact_point

TEN_MINUTES = timedelta(minutes=10)
OFF, ON = Preference("NEWS", "", enabled=False), Preference("NEWS", "", enabled=True)


def about(subject: str, *, enabled: bool, channel: str = "") -> Preference:
    """Return an entry for a subject."""
    return Preference("NEWS", channel, enabled, subject)


def not_by_email_if_secret(given: RuleInput) -> Skip | None:
    """A rule of a pack that is about an item and a channel."""
    is_secret = given.notification.variables.get("title") == "Secret"
    return Skip(SkipReason.PACK_RULE) if is_secret and given.channel == "email" else None


@pytest.fixture
async def process(store: SqlStore, clock: FrozenClock, channel: FakeChannel) -> Process:
    """ana has a device and an e-mail address."""
    names = ("webpush", "email")
    pack = replace(NEWS, rules={"not_by_email_if_secret": not_by_email_if_secret})
    catalog = Catalog.from_packs([core.pack, pack], channels=names, known_channels=names)
    process = Process(store, clock, catalog, channel, channels={"webpush": channel, "email": FakeChannel()})
    await process.add_users("ana")
    async with store.transaction() as tx:
        await store.contact_points.add(tx, [make_contact_point("ana", "ana@example.org", "email")], clock.now())
    return process


async def trigger(process: Process, title: str, subject: str | None = None, **fields: object) -> Notification:
    request = process.build_request(users("ana"))
    request = replace(
        request,
        variables={"title": title, "body": ""} | dict(fields.pop("more", {})),  # type: ignore[call-overload]  # a mapping
        digest=DigestOptions(window_seconds=600),
        subject=None if subject is None else SubjectRequest(subject),
        **fields,  # type: ignore[arg-type]  # checked by tests
    )
    async with process.store.transaction() as tx:
        [accepted] = await process.pipeline.accept_many(tx, [request])
    assert isinstance(accepted, Notification)
    if subject is not None:
        await process.plan(accepted)
    return accepted


async def prefer(process: Process, *entries: Preference) -> None:
    async with process.store.transaction() as tx:
        await process.store.users.set_preferences(tx, "ana", entries)


async def close(process: Process) -> None:
    process.clock.advance(TEN_MINUTES)
    assert await process.pipeline.close_due_digests() == 1


async def send(process: Process) -> Mapping[str, list[str]]:
    """Send what is due, and return channel → texts of all messages so far."""
    await process.process_queue()
    channels = process.sender._channels
    return {name: [one.payload.decode() for one in channel.sent] for name, channel in channels.items()}  # type: ignore[attr-defined]  # fakes


async def skips(process: Process) -> dict[str, str | None]:
    """Return channel → reason for which the digest's notification was skipped, at planning or just before the send."""
    async with process.store.read_snapshot() as tx:
        [digest] = await process.store.digests.list_page(tx, before=None, limit=10, user_id="ana")
        of_digest = (tx, digest.notification_id or "")
        found = await process.store.deliveries.list_skips(*of_digest, user_id="ana", after=None, limit=10)
        unsent = await process.store.deliveries.list_with_attempts(*of_digest, user_id="ana", after=None, limit=10)
    planned = {trace.channel: trace.why for trace in unsent if trace.state is DeliveryState.SKIPPED}
    return planned | {skip.channel: skip.reason for skip in found}


async def test_c24_a_subject_that_is_on_in_a_category_that_is_off_is_received(process: Process) -> None:
    await trigger(process, "Other", "event:1")
    await trigger(process, "Wanted", "event:9")
    await prefer(process, OFF, about("event:9", enabled=True))
    await close(process)
    assert await send(process) == {"webpush": ["Wanted: "], "email": ["Wanted: "]}


async def test_c9_an_item_is_shown_on_the_channels_on_which_it_is_permitted(process: Process) -> None:
    await trigger(process, "One", "event:1")
    muted = await trigger(process, "Nine", "event:9")
    await prefer(process, about("event:9", enabled=False, channel="email"))
    await close(process)
    assert await send(process) == {"webpush": ["2 updates: One\nNine"], "email": ["One: "]}
    told = await explain_to_ana(process, muted)
    assert told.verdict is Verdict.DIGESTED
    assert "It is not shown on email: ana turned off NEWS about event:9 on email." in told.sentences[0]


async def test_c9_a_channel_without_a_permitted_item_is_skipped(process: Process) -> None:
    await trigger(process, "Nine", "event:9")
    await prefer(process, about("event:9", enabled=False, channel="email"))
    await close(process)
    assert await send(process) == {"webpush": ["Nine: "], "email": []}
    assert await skips(process) == {"email": SkipReason.PREFERENCE_OFF}


async def test_c9_a_rule_of_a_pack_decides_per_item_and_channel(process: Process) -> None:
    await trigger(process, "Secret")
    await close(process)
    assert await send(process) == {"webpush": ["Secret: "], "email": []}
    assert await skips(process) == {"email": SkipReason.EMPTY_DIGEST}


@pytest.mark.parametrize(
    "entry",
    [about("event:9", enabled=False), OFF, Preference("", "", enabled=False)],
    ids=["subject", "category", "all"],
)
async def test_c23_an_opt_out_after_the_close_stops_the_digest(process: Process, entry: Preference) -> None:
    await trigger(process, "Nine", "event:9")
    await close(process)
    await prefer(process, entry)
    assert await send(process) == {"webpush": [], "email": []}
    assert await skips(process) == dict.fromkeys(("webpush", "email"), SkipReason.PREFERENCE_OFF)


async def test_c23_an_item_that_is_muted_after_the_close_is_not_sent(process: Process) -> None:
    await trigger(process, "One", "event:1")
    await trigger(process, "Nine", "event:9")
    await close(process)
    await prefer(process, about("event:9", enabled=False))
    assert await send(process) == {"webpush": ["One: "], "email": ["One: "]}


async def test_c23_a_retry_leaves_out_what_was_muted_since(process: Process) -> None:
    await trigger(process, "One", "event:1")
    await trigger(process, "Nine", "event:9")
    process.channel.respond = lambda _message: RetryLater(process.clock.now(), "busy")
    await close(process)
    await send(process)
    process.channel.respond = lambda _message: Accepted(status=201)
    await prefer(process, about("event:9", enabled=False))
    process.clock.advance(TEN_MINUTES)
    await process.pipeline.batch_due()
    assert (await send(process))["webpush"] == ["2 updates: One\nNine", "One: "]


async def test_c24_a_condition_is_evaluated_for_each_item_also_after_the_close(process: Process) -> None:
    for title, more in (("Cheap", "3"), ("Dear", "7")):
        await trigger(process, title, more={"more": more})
    await close(process)
    condition = Condition("more", Operator.GREATER_OR_EQUAL, "5")
    await prefer(process, Preference("NEWS", "email", enabled=True, condition=condition))
    assert (await send(process))["email"] == ["Dear: 7"]


async def test_c9_a_later_step_is_planned_for_the_items_that_are_permitted_then(process: Process) -> None:
    steps = (Step(("webpush",)), Step(("email",), after_seconds=60))
    await trigger(process, "One", "event:1", steps=steps)
    await trigger(process, "Nine", "event:9", steps=steps)
    await prefer(process, OFF, about("event:1", enabled=True), about("event:9", enabled=True))
    await close(process)
    assert (await send(process))["webpush"] == ["2 updates: One\nNine"]
    await prefer(process, about("event:1", enabled=False))
    process.clock.advance(TEN_MINUTES)
    await process.pipeline.step_runner.start_due()
    assert (await send(process))["email"] == ["Nine: "]


async def test_c6_each_channel_counts_its_items_and_shows_its_first_ten(process: Process) -> None:
    await prefer(process, about("event:9", enabled=False, channel="email"))
    for number in range(24):
        await trigger(
            process, f"U{number}", "event:9/a" if number == 0 else f"event:9/{number}" if number < 12 else None
        )
    await close(process)
    messages = await send(process)
    [push], [email] = messages["webpush"], messages["email"]
    assert push.splitlines() == ["24 updates: U0", *(f"U{number}" for number in range(1, 10)), "and 14 more"]
    assert email.splitlines() == ["12 updates: U12", *(f"U{number}" for number in range(13, 22)), "and 2 more"]


async def test_c6_the_count_stays_if_all_shown_items_are_muted_after_the_close(process: Process) -> None:
    for number in range(11):
        await trigger(process, f"U{number}", f"event:9/{number}" if number < 10 else None)
    await close(process)
    await prefer(process, about("event:9", enabled=False))
    assert (await send(process))["webpush"] == ["1 updates: and 1 more"]


async def test_c9_the_entries_of_a_user_are_not_all_read_for_each_item(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prefer(process, *(about(f"order:{number}", enabled=False) for number in range(100)))
    for number in range(90, 110):
        await trigger(process, str(number), f"order:{number}")
    # what was muted is skipped, and all others are collected
    await prefer(process, *(about(f"order:{number}", enabled=False) for number in range(5, 105)))
    read: list[Preference] = []
    is_for = Preference.is_for

    def record(entry: Preference, category: str, channel: str, subject: str | None) -> bool:
        read.append(entry)
        return is_for(entry, category, channel, subject)

    monkeypatch.setattr(Preference, "is_for", record)
    await close(process)
    messages = await send(process)
    assert messages["webpush"] == ["5 updates: 105\n106\n107\n108\n109"]
    # of the 10 items, 5 are muted, each by one entry on two channels
    assert len(read) == 10
