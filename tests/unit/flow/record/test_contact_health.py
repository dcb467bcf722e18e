"""Contact points that refuse or only fail are disabled, and their owners told."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from msgspec import structs

from tidings.config.settings import Role, Settings
from tidings.container import AppContainer
from tidings.flow.record.contact_health import derive_contact_results
from tidings.model.contact_health import ContactResult
from tidings.model.contact_point import ContactPoint, ContactPointState
from tidings.model.delivery import AttemptResult, SkipReason, SkipRecord
from tidings.model.ids import new_id
from tidings.model.outcome import Accepted, InvalidTarget, Outcome, PermanentFailure, RetryLater, Uncertain
from tidings.model.user import User
from tidings.testing.clock import START, FrozenClock

DAYS = timedelta(days=5)
LATER = RetryLater(START, "it broke", 500)


def make_result(outcome: Outcome | SkipRecord, at: datetime = START, *, target: str = "c-1") -> AttemptResult:
    """Return an attempt on a channel that disables contact points."""
    return AttemptResult(
        "d-1", "n-1", "ana", "webhook", target, "token", 1, outcome, at + DAYS, at, at, target_version=1
    )


def derive(*results: AttemptResult) -> list[ContactResult]:
    return list(derive_contact_results(results, lambda channel: DAYS if channel == "webhook" else None))


def test_c74_failures_are_counted_since_the_last_success() -> None:
    second = START + timedelta(seconds=1)
    failed = ContactResult("c-1", 1, 2, False, START, "it broke", False, DAYS)
    assert derive(make_result(LATER), make_result(LATER, second)) == [failed]
    reached = ContactResult("c-1", 1, 0, True, disable_after=DAYS)
    assert derive(make_result(LATER), make_result(Accepted(), second)) == [reached]
    both = ContactResult("c-1", 1, 1, True, second, "it broke", False, DAYS)
    assert derive(make_result(Accepted()), make_result(LATER, second)) == [both]


@pytest.mark.parametrize(
    "outcome",
    [
        RetryLater(START, "wait", counts_as_attempt=False),
        PermanentFailure("no key", operator_alert=True),
        Uncertain("silence"),
        InvalidTarget("gone"),
        SkipRecord("n-1", "ana", "webhook", SkipReason.CANCELLED),
    ],
)
def test_what_is_not_a_failure_of_the_endpoint_is_not_counted(outcome: Outcome | SkipRecord) -> None:
    assert derive(make_result(outcome)) == []


def test_a_channel_that_disables_nothing_records_nothing() -> None:
    assert derive(structs.replace(make_result(LATER), channel="sms")) == []


async def test_c74_five_days_of_nothing_but_failures_disable_an_endpoint_and_tell_its_owner(
    tmp_path: Path, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDINGS_WEBHOOK__ENABLED", "true")
    monkeypatch.setenv("TIDINGS_INAPP__ENABLED", "true")
    async with AppContainer.open(Settings(data_dir=tmp_path), clock=clock, role=Role.SERVE) as runtime:
        store = runtime.store
        point = ContactPoint(new_id(START), "ana", "webhook", "https://hooks.example/", created_at=START)
        async with store.transaction() as tx:
            await store.users.upsert(tx, [User("ana")], START)
            await store.contact_points.add(tx, [point], START)
        await runtime.pipeline.record([make_result(LATER, clock.now(), target=point.id)])
        clock.advance(DAYS.total_seconds() - 1)
        await runtime.pipeline.record([make_result(LATER, clock.now(), target=point.id)])
        async with store.read_snapshot() as tx:
            assert await store.notifications.list_page(tx, before=None, limit=9) == []
        clock.advance(1)
        await runtime.pipeline.record([make_result(LATER, clock.now(), target=point.id)])
        async with store.read_snapshot() as tx:
            [stored] = await store.contact_points.list_by_user(tx, "ana")
            [notice] = await store.notifications.list_page(tx, before=None, limit=9)
        assert stored.state is ContactPointState.DISABLED
        assert runtime.catalog.get_category(notice.category).mandatory
        assert "webhook" not in notice.channels
        assert "inapp" in notice.channels
        rendered = runtime.render_cache.get_or_render(notice, "inapp", "en", "UTC")
        assert rendered.title == "Your webhook endpoint was disabled"
        assert rendered.body.startswith("Every message to it has failed for 5 days.")
        assert rendered.body.endswith("it broke")
