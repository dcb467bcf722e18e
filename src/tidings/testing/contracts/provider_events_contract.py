"""Suite for `ports.provider_events`: receipts, suppressions, and claims of deliveries to suppressed addresses."""

from dataclasses import replace
from datetime import timedelta

from msgspec import structs

from tidings.model.audience import users
from tidings.model.contact_point import ContactPoint, ContactPointState
from tidings.model.delivery import PlannedDelivery
from tidings.model.ids import new_id
from tidings.model.notification import Notification
from tidings.model.outcome import Accepted, InvalidTarget
from tidings.model.priority import Lane
from tidings.model.receipt import EventCause, ProviderEvent, ReceiptStatus
from tidings.model.suppression import (
    BOUNCE_REASONS,
    OPT_OUT_REASONS,
    Suppression,
    SuppressionFilter,
    SuppressionReason,
)
from tidings.model.user import User
from tidings.ports.store import Store, Transaction
from tidings.testing.contracts.samples import LEASE, NOW, make_attempt_result, make_notification

MINUTE = timedelta(minutes=1)
EVERYTHING = SuppressionFilter(include_ended=True)


def make_suppression(
    reason: SuppressionReason = SuppressionReason.HARD_BOUNCE, address: str = "ana@example.org", channel: str = "email"
) -> Suppression:
    """Return a suppression of an address for all senders and categories."""
    return Suppression(new_id(NOW), channel, reason, address, NOW, NOW, source="postmark")


def make_event(event_id: str = "e1", **fields: object) -> ProviderEvent:
    """Return an event about the message `m1` to Ana."""
    event = ProviderEvent(
        "email", "postmark", event_id, NOW, ReceiptStatus.SENT, message_id="m1", recipient="ana@example.org"
    )
    return structs.replace(event, **fields)


class ProviderEventsContract:
    """Provide a fixture `store`: an empty store of the adapter."""

    async def test_a_suppression_reads_back_and_a_second_cause_is_counted(self, store: Store) -> None:
        suppression = make_suppression()
        later = structs.replace(make_suppression(), address="Ana@Example.org", last_event_at=NOW + MINUTE)
        async with store.transaction() as tx:
            assert await store.suppressions.add(tx, suppression) == suppression
            counted = await store.suppressions.add(tx, later)
            other = await store.suppressions.add(tx, make_suppression(SuppressionReason.COMPLAINT))
            [newest, oldest] = await store.suppressions.page(tx, EVERYTHING, before=None, limit=9, now=NOW)
        assert (counted.id, counted.count, counted.last_event_at) == (suppression.id, 2, NOW + MINUTE)
        assert (newest, oldest) == (other, counted)

    async def test_c56_a_lifted_suppression_keeps_who_lifted_it_and_why(self, store: Store) -> None:
        async with store.transaction() as tx:
            added = await store.suppressions.add(tx, make_suppression())
            assert await store.suppressions.lift(tx, added.id, by="key", reason="mailbox is back", now=NOW + MINUTE)
            assert not await store.suppressions.lift(tx, added.id, by="other", reason="again", now=NOW + MINUTE)
            assert not await store.suppressions.lift(tx, "no id", by="other", reason="again", now=NOW + MINUTE)
            lifted = await store.suppressions.get(tx, added.id)
            assert lifted is not None
            assert (lifted.lifted_at, lifted.lifted_by, lifted.lift_reason) == (NOW + MINUTE, "key", "mailbox is back")
            active = await store.suppressions.page(tx, SuppressionFilter(), before=None, limit=9, now=NOW)
            assert active == []
            # an event of before the lift, which is reported late, does not revive it; a later one does
            assert (await store.suppressions.add(tx, make_suppression())).lifted_at is not None
            again = structs.replace(make_suppression(), last_event_at=NOW + 2 * MINUTE)
            revived = await store.suppressions.add(tx, again)
            assert (revived.lifted_at, revived.lifted_by, revived.count) == (None, None, 2)

    async def test_c56_a_confirmed_delivery_lifts_earlier_bounces_of_its_address_only(self, store: Store) -> None:
        bounce, complaint = make_suppression(), make_suppression(SuppressionReason.COMPLAINT)
        async with store.transaction() as tx:
            for one in (bounce, complaint, make_suppression(address="ben@example.org")):
                await store.suppressions.add(tx, one)
            lifted = [
                await store.suppressions.lift_matching(
                    tx,
                    "email",
                    "ana@example.org",
                    BOUNCE_REASONS,
                    observed_before=at,
                    senders=None,
                    reason="delivered",
                    now=NOW,
                )
                for at in (NOW, NOW + MINUTE)
            ]
            left = await store.suppressions.page(tx, SuppressionFilter(), before=None, limit=9, now=NOW)
        assert lifted == [0, 1]
        assert {(one.address, one.reason) for one in left} == {
            ("ana@example.org", SuppressionReason.COMPLAINT),
            ("ben@example.org", SuppressionReason.HARD_BOUNCE),
        }

    async def test_c66_an_opt_in_lifts_the_opt_outs_of_its_sender_only(self, store: Store) -> None:
        async with store.transaction() as tx:
            for sender in ("+1", "+2"):
                one = make_suppression(SuppressionReason.OPT_OUT, "+41440000000", "sms")
                await store.suppressions.add(tx, structs.replace(one, sender=sender))
            lifted = await store.suppressions.lift_matching(
                tx,
                "sms",
                "+41440000000",
                OPT_OUT_REASONS,
                observed_before=NOW + MINUTE,
                senders=["+1", ""],
                reason="START",
                now=NOW,
            )
            [left] = await store.suppressions.page(tx, SuppressionFilter("sms"), before=None, limit=9, now=NOW)
        assert (lifted, left.sender) == (1, "+2")

    async def test_suppressions_are_listed_by_address_channel_and_page(self, store: Store) -> None:
        async with store.transaction() as tx:
            added = [
                await store.suppressions.add(tx, make_suppression(address=f"user{number}@example.org"))
                for number in range(3)
            ]
            await store.suppressions.add(tx, make_suppression(address="+41440000000", channel="sms"))
            by_address = SuppressionFilter("email", "USER1@example.org")
            [found] = await store.suppressions.page(tx, by_address, before=None, limit=9, now=NOW)
            first = await store.suppressions.page(tx, SuppressionFilter("email"), before=None, limit=2, now=NOW)
            rest = await store.suppressions.page(tx, SuppressionFilter("email"), before=first[-1].id, limit=2, now=NOW)
        assert found == added[1]
        assert [*first, *rest] == added[::-1]

    async def test_a_claim_and_a_reload_have_the_suppressions_of_the_address(self, store: Store) -> None:
        async with store.transaction() as tx:
            _, _, batch = await _plan(store, tx)
            lifted = await store.suppressions.add(tx, make_suppression(SuppressionReason.MANUAL))
            await store.suppressions.lift(tx, lifted.id, by="key", reason="mistake", now=NOW)
            [claimed] = await store.deliveries.claim(tx, [batch], token=new_id(NOW), now=NOW, lease_until=NOW + LEASE)
            assert claimed.suppressions == ()
            active = await store.suppressions.add(tx, make_suppression())
            [reloaded] = await store.deliveries.reload(tx, [claimed])
            assert reloaded.suppressions == (structs.replace(active, address=None),)

    async def test_c67_an_opt_out_with_the_provider_becomes_a_suppression(self, store: Store) -> None:
        async with store.transaction() as tx:
            _, point, batch = await _plan(store, tx)
            [claimed] = await store.deliveries.claim(tx, [batch], token=new_id(NOW), now=NOW, lease_until=NOW + LEASE)
            refused = InvalidTarget("opted out", 400, "suppress", sender="+1")
            assert await store.deliveries.record(tx, [make_attempt_result(claimed, refused)], NOW) == 1
            [found] = await store.suppressions.page(tx, EVERYTHING, before=None, limit=9, now=NOW)
            assert (found.reason, found.address, found.sender) == (
                SuppressionReason.PROVIDER_OPT_OUT,
                point.address,
                "+1",
            )
            [kept] = await store.contact_points.list_by_user(tx, "ana")
            assert kept.is_usable, "START makes it usable again"

    async def test_c68_an_invalid_number_marks_the_contact_points_with_it(self, store: Store) -> None:
        async with store.transaction() as tx:
            people = [User("ana", phone="+41440000000", email="a@example.org"), User("ben", phone="+41440000001")]
            await store.users.upsert(tx, people, NOW)
            assert await store.contact_points.mark_gone(tx, "sms", "+41440000000", NOW) == 1
            points = [
                (point.channel, point.state)
                for user in ("ana", "ben")
                for point in await store.contact_points.list_by_user(tx, user)
            ]
        active, gone = ContactPointState.ACTIVE, ContactPointState.GONE
        assert sorted(points) == [("email", active), ("sms", active), ("sms", gone)]

    async def test_c48_every_event_is_kept_and_a_repeat_is_counted(self, store: Store) -> None:
        bounced = make_event(
            "e2", status=ReceiptStatus.BOUNCED, cause=EventCause.HARD_BOUNCE, code="5.1.1", detail="no such user"
        )
        async with store.transaction() as tx:
            assert [await store.receipts.add(tx, event, NOW) for event in (make_event(), bounced, bounced)] == [
                True,
                True,
                False,
            ]
            [newest, oldest] = await store.receipts.page(tx, channel="email", cause=None, before=None, limit=9)
            [only] = await store.receipts.page(tx, channel=None, cause=EventCause.HARD_BOUNCE, before=None, limit=9)
            assert await store.receipts.page(tx, channel="sms", cause=None, before=None, limit=9) == []
            same = await store.receipts.list_of_message(tx, bounced)
            of_address = await store.receipts.list_of_address(
                tx, "email", "ANA@example.org", since=NOW - MINUTE, limit=9
            )
            purged = [await store.receipts.purge(tx, at) for at in (NOW, NOW + MINUTE)]
        assert (newest.repeats, oldest.repeats) == (1, 0)
        assert (newest.recipient, newest.detail, newest.code) == ("ana@example.org", "no such user", "5.1.1")
        assert only == newest
        assert [one.id for one in same] == [oldest.id, newest.id]
        assert {one.id for one in of_address} == {oldest.id, newest.id}
        assert purged == [0, 2]

    async def test_c48_an_event_is_matched_by_the_providers_id_or_ours_whenever_it_came(self, store: Store) -> None:
        async with store.transaction() as tx:
            notification, _, batch = await _plan(store, tx)
            [claimed] = await store.deliveries.claim(tx, [batch], token=new_id(NOW), now=NOW, lease_until=NOW + LEASE)
            # before the outcome is stored
            await store.receipts.add(tx, make_event("early", status=ReceiptStatus.DELIVERED), NOW)
            by_our_id = make_event("own", status=ReceiptStatus.COMPLAINED, message_id=None, delivery_id=claimed.id)
            await store.receipts.add(tx, by_our_id, NOW)
            await store.receipts.add(tx, make_event("another", message_id="m2"), NOW)
            accepted = Accepted(provider="postmark", message_id="m1", parts=2)
            await store.deliveries.record(tx, [make_attempt_result(claimed, accepted)], NOW)
            [trace] = await store.deliveries.list_with_attempts(tx, notification.id, user_id=None, after=None, limit=9)
        assert {receipt.status for receipt in trace.receipts} == {ReceiptStatus.DELIVERED, ReceiptStatus.COMPLAINED}
        assert trace.receipt_status is ReceiptStatus.COMPLAINED
        assert (trace.parts, trace.attempts[0].message_id) == (2, "m1")

    async def test_the_silence_of_a_provider_begins_with_the_first_message_after_its_last_event(
        self, store: Store
    ) -> None:
        async with store.transaction() as tx:
            assert await store.receipts.find_unanswered(tx, "email", NOW + MINUTE) is None
            for at in (NOW, NOW + MINUTE):
                await store.receipts.record_unanswered(tx, "email", at)
            assert await store.receipts.find_unanswered(tx, "email", NOW) is None
            assert await store.receipts.find_unanswered(tx, "email", NOW + MINUTE) == NOW
            await store.receipts.record_event(tx, "email")
            assert await store.receipts.find_unanswered(tx, "email", NOW + MINUTE) is None
            await store.receipts.record_unanswered(tx, "email", NOW + MINUTE)
            assert await store.receipts.find_unanswered(tx, "email", NOW + 2 * MINUTE) == NOW + MINUTE

    async def test_an_erasure_leaves_only_the_hash_of_a_suppressed_address(self, store: Store) -> None:
        async with store.transaction() as tx:
            await store.users.upsert(
                tx, [User("ana", email="ana@example.org"), User("ben", email="b@example.org")], NOW
            )
            added = await store.suppressions.add(tx, make_suppression())
            await store.suppressions.add(tx, make_suppression(address="b@example.org"))
            await store.receipts.add(tx, make_event(), NOW)
            await store.receipts.add(tx, make_event("ben", recipient="b@example.org", message_id="m2"), NOW)
            assert await store.suppressions.list_of_user(tx, "ana") == [added]
            assert [one.message_id for one in await store.receipts.list_of_user(tx, "ana")] == ["m1"]
            await store.users.erase(tx, "ana")
            left = await store.suppressions.page(tx, EVERYTHING, before=None, limit=9, now=NOW)
            events = await store.receipts.page(tx, channel=None, cause=None, before=None, limit=9)
            # the same address of a new user is still suppressed
            await store.users.upsert(tx, [User("new", email="ana@example.org")], NOW)
            [found] = await store.suppressions.list_of_user(tx, "new")
        assert [one.address for one in left] == ["b@example.org", None]
        assert [one.recipient for one in events] == ["b@example.org"]
        assert (found.id, found.address, found.lifted_at) == (added.id, None, None)


async def _plan(store: Store, tx: Transaction) -> tuple[Notification, ContactPoint, str]:
    """Plan a message to Ana's e-mail address. Returns the notification, her contact point and the batch."""
    notification = replace(make_notification(users("ana")), channels=("email",))
    await store.users.upsert(tx, [User("ana", email="ana@example.org")], NOW)
    [point] = await store.contact_points.list_by_user(tx, "ana")
    await store.notifications.add_many(tx, [notification])
    batch = new_id(NOW)
    planned = PlannedDelivery(new_id(NOW), notification.id, "ana", "email", point.id, batch, Lane.HIGH, NOW, "default")
    await store.deliveries.add(tx, [planned], [], NOW)
    return notification, point, batch
