"""Digests: notifications are collected for a user and closed into one, each of them exactly once."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.conftest import NEWS, FakeChannel, Process

from tidings.errors import BackendError, Conflict
from tidings.flow.catalog import Catalog
from tidings.model.audience import everyone, explicit_users_or_none, users
from tidings.model.delivery import SkipReason
from tidings.model.digest import Digest, DigestItem, DigestItemState, DigestState
from tidings.model.notification import Notification, NotificationState
from tidings.model.outcome import Accepted, PermanentFailure, RetryLater
from tidings.model.plan_options import DigestOptions, Step
from tidings.model.preference import Preference
from tidings.model.priority import Priority
from tidings.model.subject import SubjectRequest
from tidings.model.template import RenderedMessage, TemplateText
from tidings.model.waiting_step import WaitingStep
from tidings.observability.explain import Explanation, Verdict, explain
from tidings.observability.explain_query import explain_notification, load_explain_input
from tidings.packs import core
from tidings.ports.operations import DeadLetterFilter
from tidings.rendering.minijinja_renderer import MinijinjaRenderer
from tidings.stores.store import SqlStore
from tidings.testing.clock import FrozenClock
from tidings.testing.contracts.inbox_contract import make_item

if TYPE_CHECKING:
    from tests.unit.conftest import Process

MINUTE = timedelta(minutes=1)
TEN_MINUTES = DigestOptions(window_seconds=600)


@pytest.fixture
async def process(process: Process) -> Process:
    await process.add_users("ana", "ben")
    return process


async def trigger(
    process: Process, *names: str, title: str = "Hello", digest: DigestOptions = TEN_MINUTES, **fields: object
) -> Notification:
    """Accept and plan a notification that is collected."""
    request = process.build_request(users(*names or ("ana",)))
    variables = {**request.variables, "title": title}
    request = replace(request, variables=variables, digest=digest, **fields)  # type: ignore[arg-type]  # checked by tests
    async with process.store.transaction() as tx:
        [notification] = await process.pipeline.accept_many(tx, [request])
    assert isinstance(notification, Notification)
    return notification


async def list_digests(process: Process, user: str = "ana") -> list[Digest]:
    """Return the digests of a user, oldest first."""
    async with process.store.read_snapshot() as tx:
        return list(await process.store.digests.list_page(tx, before=None, limit=100, user_id=user))[::-1]


async def list_items(process: Process, user: str = "ana") -> list[DigestItem]:
    """Return the items of all digests of a user, in their order."""
    digests = [one.id for one in await list_digests(process, user)]
    async with process.store.read_snapshot() as tx:
        return list(await process.store.digests.list_items(tx, digests))


async def close(process: Process, after: timedelta = 10 * MINUTE) -> int:
    """Let time pass, and close what is due."""
    process.clock.advance(after)
    return await process.pipeline.close_due_digests()


async def sent(process: Process) -> list[str]:
    """Send what is planned, and return the texts of all messages so far."""
    await process.process_queue()
    return [message.payload.decode() for message in process.channel.sent]


async def read(process: Process, notification_id: str | None) -> Notification:
    async with process.store.read_snapshot() as tx:
        found = await process.store.notifications.get(tx, notification_id or "")
    assert found is not None
    return found


async def test_ten_updates_become_one_message(process: Process) -> None:
    triggers = [await trigger(process, title=f"Update {number}") for number in range(10)]
    assert await sent(process) == []
    assert await close(process, 10 * MINUTE - timedelta(seconds=1)) == 0
    assert await close(process, timedelta(seconds=1)) == 1
    [message] = await sent(process)
    assert message.startswith("10 updates: Update 0: World\nUpdate 1: World\n")
    [digest] = await list_digests(process)
    assert (digest.state, digest.item_count) == (DigestState.CLOSED, 10)
    made = await read(process, digest.notification_id)
    assert (made.category, made.priority, made.variables["count"]) == ("NEWS", Priority.HIGH, 10)
    assert [item.notification_id for item in await list_items(process)] == [one.id for one in triggers]
    for one in triggers:
        counts = await process.get_counts(one)
        assert (counts.recipients, counts.deliveries, counts.skipped, counts.collected) == (1, 0, 0, 1)
    assert await close(process) == 0
    assert len(await sent(process)) == 1


async def test_a_digest_of_one_item_is_that_item(process: Process) -> None:
    await trigger(process, title="Only")
    await close(process)
    assert await sent(process) == ["Only: World"]


async def test_a_broadcast_is_collected_for_each_recipient(process: Process) -> None:
    for title in ("One", "Two"):
        request = process.build_request(everyone())
        request = replace(request, digest=TEN_MINUTES, variables={"title": title, "body": ""})
        await process.plan(await process.pipeline.submit(request))
    assert await close(process) == 2
    assert await sent(process) == ["2 updates: One\nTwo"] * 2


async def test_an_item_of_a_broadcast_is_decided_for_each_of_its_users(process: Process) -> None:
    await process.add_users("carl")
    await trigger(process, "ana", "ben", "carl")
    await opt_out(process, "carl")
    async with process.store.transaction() as tx:
        for subscription in await process.store.subscriptions.list_by_user(tx, "ben"):
            await process.store.contact_points.remove(tx, "ben", subscription.id)
    assert await close(process) == 3
    assert len(await sent(process)) == 1
    reasons = {user: [item.reason for item in await list_items(process, user)] for user in ("ana", "ben", "carl")}
    assert reasons == {"ana": [None], "ben": [SkipReason.NO_CONTACT_POINT], "carl": [SkipReason.PREFERENCE_OFF]}


async def test_an_urgent_notification_is_not_collected(process: Process) -> None:
    await trigger(process, priority=Priority.URGENT)
    assert await sent(process) == ["Hello: World"]
    assert await list_digests(process) == []


async def test_who_would_get_nothing_is_skipped_and_not_collected(process: Process) -> None:
    await opt_out(process)
    notification = await trigger(process)
    counts = await process.get_counts(notification)
    assert (counts.skipped, counts.collected) == (1, 0)
    assert await list_digests(process) == []


async def opt_out(process: Process, user: str = "ana") -> None:
    async with process.store.transaction() as tx:
        await process.store.users.set_preferences(tx, user, [Preference("NEWS", "webpush", enabled=False)])


async def test_c1_a_new_version_or_window_joins_the_open_digest(process: Process) -> None:
    await trigger(process)
    await trigger(process, digest=DigestOptions(window_seconds=3600, max_items=5))
    await trigger(process, digest=DigestOptions(at="08:00"))
    [digest] = await list_digests(process)
    assert digest.item_count == 3


async def test_c1_other_keys_users_and_channels_have_digests_of_their_own(process: Process) -> None:
    by_title = DigestOptions("title", 600)
    await trigger(process, "ana", "ben", title="A", digest=by_title)
    await trigger(process, title="B", digest=by_title)
    await trigger(process, digest=DigestOptions("body", 600))
    await trigger(process, digest=replace_options(by_title, channels=("webpush",)), title="A")
    assert sorted(one.key.key for one in await list_digests(process)) == ["A", "A", "B", "World"]
    assert [one.key.key for one in await list_digests(process, "ben")] == ["A"]


def replace_options(options: DigestOptions, channels: tuple[str, ...]) -> DigestOptions:
    return DigestOptions(options.key, options.window_seconds, channels=channels)


async def test_c4_a_fixed_window_is_opened_by_the_first_and_immutable(process: Process) -> None:
    await trigger(process)
    process.clock.advance(9 * MINUTE)
    await trigger(process)
    assert await close(process, MINUTE) == 1
    await trigger(process)
    assert await close(process, 9 * MINUTE) == 0
    assert await close(process, MINUTE) == 1


async def test_c4_a_sliding_window_ends_at_its_maximum_from_the_opening(process: Process) -> None:
    sliding = DigestOptions(window_seconds=600, sliding=True, max_seconds=1200)
    for _ in range(3):
        await trigger(process, digest=sliding)
        process.clock.advance(7 * MINUTE)
        if (await list_digests(process))[0].item_count < 3:
            assert await process.pipeline.close_due_digests() == 0
    [digest] = await list_digests(process)
    assert digest.closes_at == digest.opened_at + 20 * MINUTE
    assert await close(process, timedelta()) == 1


async def test_c5_the_first_is_sent_at_once_and_not_repeated(process: Process) -> None:
    leading = DigestOptions(window_seconds=600, first_at_once=True)
    for title in ("First", "Second", "Third"):
        await trigger(process, title=title, digest=leading)
    assert await sent(process) == ["First: World"]
    assert await close(process) == 1
    assert (await sent(process))[1:] == ["2 updates: Second: World\nThird: World"]
    await trigger(process, title="Fourth", digest=leading)
    assert (await sent(process))[2:] == ["Fourth: World"]


async def test_c5_a_window_that_collected_nothing_ends_silently(process: Process) -> None:
    first = await trigger(process, digest=DigestOptions(window_seconds=600, first_at_once=True))
    assert await close(process) == 1
    assert await sent(process) == ["Hello: World"]
    [digest] = await list_digests(process)
    assert (digest.state, digest.item_count) == (DigestState.EMPTY, 0)
    assert (await process.get_counts(first)).collected == 0


async def test_c6_it_closes_early_and_counts_all(process: Process) -> None:
    small = DigestOptions(window_seconds=600, max_items=12)
    for number in range(11):
        await trigger(process, title=f"U{number}", digest=small)
    assert await close(process, timedelta()) == 0
    await trigger(process, title="U11", digest=small)
    assert await close(process, timedelta()) == 1
    [message] = await sent(process)
    assert message.startswith("12 updates: U0: World")
    assert message.endswith("U9: World\nand 2 more")


async def test_c6_only_the_items_that_are_shown_are_rendered_and_users_share_their_texts(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(25):
        await trigger(process, "ana", "ben", title=f"U{number}")
    rendered: list[object] = []
    render = MinijinjaRenderer.render

    def count(renderer: MinijinjaRenderer, *arguments: Any, **options: Any) -> RenderedMessage:
        rendered.append(arguments[1].variables["title"])
        return render(renderer, *arguments, **options)

    monkeypatch.setattr(MinijinjaRenderer, "render", count)
    assert await close(process) == 2
    assert rendered == [f"U{number}" for number in range(10)]


async def test_c7_a_digest_with_nothing_left_is_not_sent(process: Process) -> None:
    notification = await trigger(process)
    await process.pipeline.cancel(notification.id)
    assert await close(process) == 1
    assert await sent(process) == []
    [digest] = await list_digests(process)
    assert (digest.state, digest.notification_id) == (DigestState.EMPTY, None)
    [item] = await list_items(process)
    assert (item.state, item.reason) == (DigestItemState.LEFT_OUT, SkipReason.CANCELLED)


async def test_c9_an_opt_out_leaves_every_item_out(process: Process) -> None:
    await trigger(process, "ana", "ben")
    await trigger(process)
    await opt_out(process)
    assert await close(process) == 2
    assert await sent(process) == ["Hello: World"]  # to ben
    assert {item.reason for item in await list_items(process)} == {SkipReason.PREFERENCE_OFF}


async def test_b14_items_are_looked_at_one_by_one(process: Process) -> None:
    expiring = await trigger(process, title="Expired", expires_at=process.clock.now() + 5 * MINUTE)
    cancelled = await trigger(process, title="Cancelled")
    await trigger(process, title="Kept")
    await process.pipeline.cancel(cancelled.id)
    await close(process)
    assert await sent(process) == ["Kept: World"]
    reasons: Mapping[str, SkipReason | None] = {item.notification_id: item.reason for item in await list_items(process)}
    assert reasons[expiring.id] is SkipReason.EXPIRED
    assert reasons[cancelled.id] is SkipReason.CANCELLED
    assert list(reasons.values()).count(None) == 1


async def test_b19_the_newer_item_of_a_subject_replaces_the_older(process: Process) -> None:
    old = await trigger(process, title="Old", subject=SubjectRequest("order:1"))
    await trigger(process, title="Other")
    await process.plan(await trigger(process, title="New", subject=SubjectRequest("order:1")))
    await close(process)
    assert await sent(process) == ["2 updates: Other: World\nNew: World"]
    [left_out] = [item for item in await list_items(process) if item.state is DigestItemState.LEFT_OUT]
    assert (left_out.notification_id, left_out.reason) == (old.id, SkipReason.SUPERSEDED)


async def test_b19_what_is_taken_back_within_a_window_is_not_told(process: Process) -> None:
    for state, previous in (("B", "A"), ("A", "B")):
        subject = SubjectRequest("order:1", state={"at": state}, previous_state={"at": previous})
        await process.plan(await trigger(process, subject=subject))
    await close(process)
    assert await sent(process) == []
    assert [item.reason for item in await list_items(process)] == [SkipReason.SUPERSEDED]


async def test_c2_the_version_current_at_the_close_is_used(
    process: Process, store: SqlStore, clock: FrozenClock, channel: FakeChannel
) -> None:
    await trigger(process, title="One")
    later = Process(store, clock, publish_version_2(), channel, queue=process.queue)
    await trigger(later, title="Two")
    clock.advance(10 * MINUTE)
    assert await later.pipeline.close_due_digests() == 1
    await later.process_queue()
    assert [message.payload.decode() for message in channel.sent] == ["News! One Two: all of 2"]
    [digest] = await list_digests(process)
    async with store.read_snapshot() as tx:
        explanation = explain(
            await load_explain_input(
                store,
                later.pipeline.catalog,
                tx,
                user_id="ana",
                notification_id=digest.notification_id or "",
                now=clock.now(),
            )
        )
    assert "version 2 of template NEWS.digest, its items with version 2 of NEWS." in " ".join(explanation.sentences)


async def test_c8_what_was_seen_in_the_feed_is_left_out(process: Process) -> None:
    seen = await trigger(process, title="Seen")
    await trigger(process, title="New")
    async with process.store.transaction() as tx:
        await process.store.inbox.add_many(tx, [make_item("ana", seen.id)], process.clock.now())
        await process.store.inbox.set_seen(tx, "ana", [seen.id], process.clock.now())
    await close(process)
    assert await sent(process) == ["New: World"]
    assert [item.reason for item in await list_items(process)] == [SkipReason.SEEN, None]


async def test_c11_a_digest_is_retried_and_its_items_stay_with_it(process: Process) -> None:
    for title in ("One", "Two"):
        await trigger(process, title=title)
    outcomes = [RetryLater(process.clock.now(), "busy") for _ in range(3)]
    process.channel.respond = lambda _message: outcomes.pop() if outcomes else Accepted(status=201)
    await close(process)
    for _ in range(4):
        await sent(process)
        process.clock.advance(10 * MINUTE)
        await process.pipeline.batch_due()
    assert [message.payload.decode() for message in process.channel.sent] == ["2 updates: One: World\nTwo: World"] * 4
    assert {item.state for item in await list_items(process)} == {DigestItemState.DIGESTED}


async def test_c11_a_digest_that_is_given_up_is_a_dead_letter_with_its_items(process: Process) -> None:
    trigger_id = (await trigger(process, title="One")).id
    process.channel.respond = lambda _message: PermanentFailure("refused")
    await close(process)
    await sent(process)
    async with process.store.read_snapshot() as tx:
        [letter] = await process.store.dead_letters.page(tx, DeadLetterFilter(), before=None, limit=10)
    made = await read(process, letter.notification_id)
    assert made.variables["items"] == [
        {
            **(variables := {"title": "One", "body": "World"}),
            "variables": variables,
            "url": "https://shop.example/",
            "notificationId": trigger_id,
        }
    ]


DAILY = DigestOptions(at="08:00")


@pytest.mark.parametrize(
    ("digest", "late"),
    [
        (DAILY, timedelta(days=1)),
        (DigestOptions(at="MON 08:00"), timedelta(days=7)),
        (DigestOptions(at="08:00", catch_up_seconds=3600), timedelta(hours=1)),
        # a window has no time of day that could be missed
        (TEN_MINUTES, timedelta(days=20)),
    ],
)
async def test_c14_an_overdue_digest_is_sent_once_up_to_its_catch_up(
    process: Process, digest: DigestOptions, late: timedelta
) -> None:
    await trigger(process, digest=digest)
    [opened] = await list_digests(process)
    assert await close(process, opened.closes_at + late - process.clock.now()) == 1
    assert await sent(process) == ["Hello: World"]
    assert await close(process, timedelta(days=1)) == 0


@pytest.mark.parametrize(
    "digest", [DAILY, DigestOptions(at="MON 08:00"), DigestOptions(at="08:00", catch_up_seconds=60)]
)
async def test_c14_an_older_one_is_left_out_with_a_reason(process: Process, digest: DigestOptions) -> None:
    notification = await trigger(process, digest=digest)
    [opened] = await list_digests(process)
    catch_up = opened.catch_up or timedelta()
    assert await close(process, opened.closes_at + catch_up + timedelta(seconds=1) - process.clock.now()) == 1
    assert await sent(process) == []
    [item] = await list_items(process)
    assert (item.state, item.reason) == (DigestItemState.LEFT_OUT, SkipReason.DIGEST_OVERDUE)
    told = await explain_to_ana(process, notification)
    assert told.verdict is Verdict.SKIPPED
    assert f"it was due at {opened.closes_at.isoformat()}" in told.sentences[0]
    assert f"(within {catch_up.total_seconds():.0f} s)" in told.sentences[0]


async def test_c14_what_joined_an_overdue_digest_is_sent(process: Process) -> None:
    old = await trigger(process, title="Old", digest=DAILY)
    process.clock.advance(timedelta(days=3))
    await trigger(process, title="New", digest=DAILY)
    assert await close(process, timedelta()) == 1
    assert await sent(process) == ["New: World"]
    reasons = {item.notification_id: item.reason for item in await list_items(process)}
    assert reasons[old.id] is SkipReason.DIGEST_OVERDUE
    await trigger(process, digest=DAILY)
    assert await close(process, timedelta(hours=1)) == 0


async def test_c10_items_are_shown_in_the_order_of_their_acceptance(process: Process) -> None:
    # the first two in one millisecond, and planned in another order than accepted
    requests = [
        replace(process.build_request(users("ana")), variables={"title": title, "body": ""}, digest=TEN_MINUTES)
        for title in ("First", "Second", "Third")
    ]
    accepted = []
    for batch in (requests[:2], requests[2:]):
        async with process.store.transaction() as tx:
            accepted += [await process.pipeline.accept(tx, request) for request in batch]
        process.clock.advance(timedelta(seconds=1))
    for notification in reversed(accepted):
        await process.plan(notification)
    await close(process)
    assert await sent(process) == ["3 updates: First\nSecond\nThird"]


async def test_collected_channels_wait_and_the_others_do_not(
    store: SqlStore, clock: FrozenClock, channel: FakeChannel
) -> None:
    catalog = Catalog.from_packs([core.pack, NEWS], channels=("webpush", "email"), known_channels=("webpush", "email"))
    process = Process(store, clock, catalog, channel)
    await process.add_users("ana")
    notification = await trigger(process, digest=DigestOptions(window_seconds=600, channels=("email",)))
    assert await sent(process) == ["Hello: World"]
    # ana has no address: nothing would be sent on the channel that is collected
    counts = await process.get_counts(notification)
    assert (counts.deliveries, counts.skipped, counts.collected) == (1, 1, 0)


async def test_the_steps_of_a_trigger_are_those_of_its_digest(process: Process) -> None:
    steps = (Step(("webpush",)), Step(("email",), after_seconds=60))
    notification = await trigger(process, steps=steps)
    assert await list_steps(process, notification.id) == []
    await close(process)
    [digest] = await list_digests(process)
    [waiting] = await list_steps(process, digest.notification_id or "")
    assert (await read(process, digest.notification_id)).plan.steps == steps
    assert waiting.user_id == "ana"


async def test_c5_the_first_has_its_steps_and_the_others_do_not(process: Process) -> None:
    steps = (Step(("webpush",)), Step(("email",), after_seconds=60))
    leading = DigestOptions(window_seconds=600, first_at_once=True)
    first, second = [await trigger(process, digest=leading, steps=steps) for _ in range(2)]
    assert len(await list_steps(process, first.id)) == 1
    assert await list_steps(process, second.id) == []


async def list_steps(process: Process, notification_id: str) -> list[WaitingStep]:
    async with process.store.read_snapshot() as tx:
        return list(await process.store.steps.list_of(tx, notification_id, user_ids=["ana"], limit=10))


STEPS = ("notifications.add_many", "deliveries.add", "outbox.add", "digests.close", "commit")


@pytest.mark.parametrize("step", STEPS)
async def test_c3_a_failure_at_any_step_of_the_close_leaves_everything_or_nothing(
    process: Process, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await trigger(process)
    process.clock.advance(10 * MINUTE)
    with monkeypatch.context() as patch:
        fail_at(process, step, patch)
        with pytest.raises(BackendError):
            await process.pipeline.close_due_digests()
    assert [item.state for item in await list_items(process)] == [DigestItemState.COLLECTED]
    assert await process.pipeline.close_due_digests() == 1
    assert await sent(process) == ["Hello: World"]


def fail_at(process: Process, step: str, patch: pytest.MonkeyPatch) -> None:
    async def fail(*_arguments: object, **_options: object) -> None:
        raise BackendError("the process was killed")

    if step != "commit":
        repository, method = step.split(".")
        patch.setattr(getattr(process.store, repository), method, fail)
        return
    close_digests = process.store.digests.close

    async def close_and_fail(*arguments: Any) -> None:
        await close_digests(*arguments)
        await fail()

    patch.setattr(process.store.digests, "close", close_and_fail)


async def test_an_erased_user_takes_the_digests_along(process: Process) -> None:
    shared = await trigger(process, "ana", "ben")
    async with process.store.transaction() as tx:
        await process.store.users.erase(tx, "ana")
    assert await list_digests(process) == []
    assert explicit_users_or_none((await read(process, shared.id)).audience) == ["ben"]
    await close(process)
    assert len(await sent(process)) == 1


async def test_explain_tells_what_became_of_a_trigger(process: Process) -> None:
    kept, cancelled = await trigger(process, title="Kept"), await trigger(process, title="Cancelled")
    waiting = await explain_to_ana(process, kept)
    assert (waiting.verdict, "closes at" in waiting.sentences[0]) == (Verdict.WAITING, True)
    await process.pipeline.cancel(cancelled.id)
    await close(process)
    [digest] = await list_digests(process)
    told = await explain_to_ana(process, kept)
    assert told.verdict is Verdict.DIGESTED
    assert f"became notification {digest.notification_id}" in told.sentences[0]
    told = await explain_to_ana(process, cancelled)
    assert told.verdict is Verdict.CANCELLED
    assert "left it out when it closed: the notification was cancelled" in told.sentences[0]


async def explain_to_ana(process: Process, notification: Notification) -> Explanation:
    return await explain_notification(
        process.store,
        process.pipeline.catalog,
        user_id="ana",
        notification_id=notification.id,
        now=process.clock.now(),
    )


def publish_version_2() -> Catalog:
    """Return a catalog with a second version of NEWS, with a text of its own for digests."""
    [first, *_] = NEWS.templates
    lines = "{% for item in items %}{{ item.title }}\n{% endfor %}"
    second = replace(
        first,
        version=2,
        texts={"en": TemplateText("{{ title }}", "")},
        digest_texts={"en": TemplateText("News! " + lines, "all of {{ count }}")},
    )
    pack = replace(NEWS, templates=(*NEWS.templates, second))
    return Catalog.from_packs([core.pack, pack], channels=("webpush",), known_channels=("webpush",))


async def test_a_digest_whose_pack_is_gone_does_not_stop_the_others(
    process: Process, store: SqlStore, clock: FrozenClock, channel: FakeChannel
) -> None:
    await trigger(process, template_code="DUTY")
    await trigger(process, "ben")
    async with store.transaction() as tx:
        request = replace(process.build_request(everyone()), digest=TEN_MINUTES)
        await process.pipeline.accept(tx, request)
    await process.process_queue()
    rest = replace(NEWS, templates=NEWS.templates[:1])
    catalog = replace(
        Catalog.from_packs([core.pack, rest], channels=("webpush",), known_channels=("webpush",)), audiences={}
    )
    later = Process(store, clock, catalog, channel, queue=process.queue)
    clock.advance(10 * MINUTE)
    # those of ana for DUTY and NEWS, and that of ben, which collected one notification of each audience
    assert await later.pipeline.close_due_digests() == 3
    assert [item.reason for item in await list_items(process)] == [SkipReason.RENDER_FAILED, SkipReason.LEFT_AUDIENCE]
    assert [item.reason for item in await list_items(process, "ben")] == [None, SkipReason.LEFT_AUDIENCE]


async def test_c12_two_closers_send_one_digest(start: Callable[..., Process], process: Process) -> None:
    other = start(queue=process.queue)
    await trigger(process)
    process.clock.advance(10 * MINUTE)
    assert await process.pipeline.close_due_digests() + await other.pipeline.close_due_digests() == 1
    assert len(await sent(process)) == 1


async def test_what_a_digest_has_taken_can_no_longer_be_cancelled(process: Process) -> None:
    notification = await trigger(process)
    await close(process)
    with pytest.raises(Conflict):
        await process.pipeline.cancel(notification.id)
    [digest] = await list_digests(process)
    await process.pipeline.cancel(digest.notification_id or "")
    assert await sent(process) == []
    assert (await read(process, digest.notification_id)).state is NotificationState.CANCELLED
