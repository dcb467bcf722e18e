"""Events of providers are applied to addresses, once and in the transaction that stores them, on both databases."""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from itertools import permutations
from pathlib import Path

import pytest
from msgspec import structs

from tidings.flow.record.provider_events import ProviderEventRecorder
from tidings.flow.record.soft_refusals import SOURCE, SoftRefusalRecorder
from tidings.model.alert import AlertName
from tidings.model.contact_point import ContactPoint
from tidings.model.ids import new_id
from tidings.model.outcome import PermanentFailure
from tidings.model.receipt import EventCause, ProviderEvent, ReceiptStatus
from tidings.model.suppression import SoftBouncePolicy, Suppression, SuppressionFilter, SuppressionReason
from tidings.model.user import User
from tidings.ports.alerts import NoAlerts
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.postgres import create_engines as postgres_engines
from tidings.stores.engine.sqlite import create_engines
from tidings.stores.store import SqlStore
from tidings.testing.clock import FrozenClock
from tidings.testing.contracts.provider_events_contract import make_event
from tidings.testing.contracts.samples import NOW, make_attempt_result, make_claimed_delivery, make_notification

DAY = timedelta(days=1)
POLICY = SoftBouncePolicy(bounces=2, within=14 * DAY, suppressed_for=7 * DAY)
SOFT = {"cause": EventCause.SOFT_BOUNCE, "status": ReceiptStatus.BOUNCED}
HARD = {"cause": EventCause.HARD_BOUNCE, "status": ReceiptStatus.BOUNCED}


class AlertRecorder(NoAlerts):
    """Remembers the alerts."""

    def __init__(self) -> None:
        self.raised: list[AlertName] = []

    def raise_alert(self, name: AlertName, subject: str, detail: str, *, lasts: timedelta | None = None) -> None:
        self.raised.append(name)


class Recorder:
    """Records events and returns the suppressions that result."""

    def __init__(self, store: SqlStore) -> None:
        self.store = store
        self.clock = FrozenClock()
        self.alerts = AlertRecorder()
        self._recorder = ProviderEventRecorder(store, self.clock, self.alerts, lambda _event: None)

    async def record(self, *events: ProviderEvent) -> list[SuppressionReason]:
        """Record events. Returns the reasons of the active suppressions of Ana's address."""
        await self._recorder.record(events, POLICY)
        return [one.reason for one in await self.list_active()]

    async def list_active(self) -> Sequence[Suppression]:
        """Return the active suppressions."""
        async with self.store.read_snapshot() as tx:
            return await self.store.suppressions.page(
                tx, SuppressionFilter(), before=None, limit=9, now=self.clock.now()
            )


@pytest.fixture(params=["sqlite", "postgresql"])
async def recorder(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Recorder]:
    if request.param == "sqlite":
        engines = create_engines(tmp_path / "tidings.db")
    else:
        engines = postgres_engines(request.getfixturevalue("postgres_url"), pool_size=2)
    store = SqlStore(*engines, FieldCipher("a secret for the tests"), {})
    await store.upgrade()
    yield Recorder(store)
    await store.close()


async def test_c53_a_bounce_suppresses_once_however_often_it_is_reported(recorder: Recorder) -> None:
    for _ in range(3):
        assert await recorder.record(make_event(**HARD)) == [SuppressionReason.HARD_BOUNCE]
    [suppression] = await recorder.list_active()
    assert (suppression.count, suppression.source, suppression.address) == (1, "postmark", "ana@example.org")


async def test_c54_a_bounce_suppresses_exactly_its_recipient(recorder: Recorder) -> None:
    await recorder.record(
        make_event("a", recipient="a@example.org", **HARD),
        make_event("b", recipient="b@example.org", status=ReceiptStatus.DELIVERED),
        make_event("c", recipient=None, **HARD),
    )
    assert [one.address for one in await recorder.list_active()] == ["a@example.org"]


async def test_c55_soft_bounces_suppress_when_they_repeat_and_count_anew_after_a_lift(recorder: Recorder) -> None:
    assert await recorder.record(make_event("1", message_id="m1", **SOFT)) == []
    later = make_event("2", message_id="m2", occurred_at=NOW + DAY, **SOFT)
    assert await recorder.record(later) == [SuppressionReason.SOFT_BOUNCES]
    [suppression] = await recorder.list_active()
    assert suppression.expires_at == recorder.clock.now() + POLICY.suppressed_for
    recorder.clock.advance(2 * DAY)
    async with recorder.store.transaction() as tx:
        await recorder.store.suppressions.lift(
            tx, suppression.id, by="key", reason="there is room again", now=recorder.clock.now()
        )
    again = [make_event(name, message_id=name, occurred_at=recorder.clock.now() + DAY, **SOFT) for name in "34"]
    assert await recorder.record(again[0]) == []
    assert await recorder.record(again[1]) == [SuppressionReason.SOFT_BOUNCES]
    recorder.clock.advance(POLICY.suppressed_for)
    assert await recorder.list_active() == [], "it has expired"


async def test_c55_automatic_answers_and_policies_change_nothing(recorder: Recorder) -> None:
    for number, cause in enumerate((EventCause.AUTO_REPLY, EventCause.POLICY_BOUNCE) * 5):
        assert await recorder.record(make_event(str(number), cause=cause, status=None)) == []


async def test_c56_a_delivery_that_is_confirmed_later_lifts_a_bounce_and_an_earlier_one_does_not(
    recorder: Recorder,
) -> None:
    delivered = make_event("d", message_id="m2", status=ReceiptStatus.DELIVERED)
    earlier, later = (structs.replace(delivered, event_id=str(at), occurred_at=at) for at in (NOW - DAY, NOW + DAY))
    bounce = SuppressionReason.HARD_BOUNCE
    assert await recorder.record(make_event(**HARD)) == [bounce]
    assert await recorder.record(earlier) == [bounce]
    # of the same message that bounced
    same = make_event("s", occurred_at=NOW + DAY, status=ReceiptStatus.DELIVERED)
    assert await recorder.record(same) == [bounce]
    assert await recorder.record(later) == []


async def test_c48_the_effects_of_delivered_and_bounced_do_not_depend_on_their_order(recorder: Recorder) -> None:
    for number, order in enumerate(permutations((ReceiptStatus.SENT, ReceiptStatus.DELIVERED, ReceiptStatus.BOUNCED))):
        address, message = f"user{number}@example.org", f"m{number}"
        for status in order:
            cause = EventCause.HARD_BOUNCE if status is ReceiptStatus.BOUNCED else EventCause.NONE
            event = make_event(f"{number}{status}", status=status, cause=cause, recipient=address, message_id=message)
            await recorder.record(structs.replace(event, occurred_at=NOW + list(ReceiptStatus).index(status) * DAY))
    assert len(await recorder.list_active()) == 6


async def test_c66_start_lifts_stop_and_an_unclear_answer_is_reported(recorder: Recorder) -> None:
    stop = ProviderEvent("sms", "twilio", "1", NOW, cause=EventCause.OPT_OUT, recipient="+41440000000", sender="+1500")
    start = structs.replace(stop, event_id="2", cause=EventCause.OPT_IN, occurred_at=NOW + DAY)
    assert await recorder.record(stop) == [SuppressionReason.OPT_OUT]
    assert await recorder.record(structs.replace(start, event_id="3", sender="+1999")) == [SuppressionReason.OPT_OUT]
    assert await recorder.record(start) == []
    assert recorder.alerts.raised == []
    await recorder.record(structs.replace(stop, event_id="4", cause=EventCause.REVIEW))
    assert recorder.alerts.raised == [AlertName.REPLY_UNCLEAR]


async def test_c68_an_invalid_number_is_not_used_again(recorder: Recorder) -> None:
    async with recorder.store.transaction() as tx:
        await recorder.store.users.upsert(tx, [User("ana", phone="+41440000000")], NOW)
    event = ProviderEvent(
        "sms", "twilio", "1", NOW, ReceiptStatus.FAILED, EventCause.INVALID_NUMBER, "SM1", None, "+41440000000"
    )
    assert await recorder.record(event) == []
    async with recorder.store.read_snapshot() as tx:
        assert [point.is_usable for point in await recorder.store.contact_points.list_by_user(tx, "ana")] == [False]


async def test_c55_refusals_of_a_mailbox_during_sends_are_soft_bounces(recorder: Recorder) -> None:
    store = recorder.store
    point = ContactPoint(new_id(NOW), "ana", "email", "ana@example.org")
    async with store.transaction() as tx:
        await store.users.upsert(tx, [User("ana")], NOW)
        await store.contact_points.add(tx, [point], NOW)
    refusals = SoftRefusalRecorder(store, {"email": POLICY})
    full = PermanentFailure("mailbox full", 552, is_soft_bounce=True)

    async def record(*outcomes: PermanentFailure, target_id: str = point.id, channel: str = "email") -> int:
        results = [
            structs.replace(
                make_attempt_result(make_claimed_delivery(make_notification()), outcome),
                delivery_id=new_id(NOW),
                user_id="ana",
                target_id=target_id,
                channel=channel,
            )
            for outcome in outcomes
        ]
        for _ in range(2):
            # recorded again after a crash, each counts once
            async with store.transaction() as tx:
                await refusals.record(tx, results, recorder.clock.now())
        return len(await recorder.list_active())

    assert await record(full, PermanentFailure("a policy", 550)) == 0
    # channels without a policy and contact points that were removed count nothing
    assert await record(full, full, channel="webhook") == 0
    assert await record(full, full, target_id=new_id(NOW)) == 0
    assert await record(full) == 1
    [suppression] = await recorder.list_active()
    assert (suppression.reason, suppression.address, suppression.source) == (
        SuppressionReason.SOFT_BOUNCES,
        "ana@example.org",
        SOURCE,
    )
