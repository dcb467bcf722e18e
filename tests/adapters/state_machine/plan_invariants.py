"""Invariants of digests, held messages and steps once all work has ended."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, select
from tests.adapters.state_machine.fake_channel import ProviderResponse
from tests.adapters.state_machine.invariants import Rows, check_delivery
from tests.adapters.state_machine.plan_world import (
    ADDRESSES,
    CHANNELS,
    DAILY_AT,
    DIGESTS,
    MAX_ITEMS,
    MAX_SLIDE,
    WINDOW,
    ZONES,
    PlanWorld,
    UserActions,
)

from tidings.flow.plan.digest_content import MAX_SHOWN_ITEMS
from tidings.model.plan_options import PlanOptions, Step
from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.digest_tables import digest_items, digests
from tidings.stores.schema.step_tables import waiting_steps
from tidings.stores.schema.tables import attempts, deliveries, inbox_items, notifications, skips

AnyRow = Row[*tuple[Any, ...]]


@dataclass(frozen=True)
class Trigger:
    """A request, and how many notifications must exist for it."""

    user_ids: Collection[str]
    #: name of its digest
    mode: str
    steps: Sequence[Step]
    #: whether a digest may collect it
    is_collected: bool
    expected_count: int


@dataclass(frozen=True)
class PlanRows:
    """All rows that the invariants cover."""

    notifications: Rows
    deliveries: Rows
    skips: Rows
    attempts: Rows
    digests: Rows
    items: Rows
    steps: Rows
    inbox: Rows

    def check(self, triggers: Mapping[str, Trigger], world: PlanWorld, replay_counts: Counter[str]) -> None:
        """Assert all invariants."""
        by_source = Counter(row.source for row in self.notifications if row.source in triggers)
        assert by_source == {key: one.expected_count for key, one in triggers.items() if one.expected_count}
        recorded = Counter(row.delivery_id for row in self.attempts)
        for delivery in self.deliveries:
            check_delivery(delivery, recorded[delivery.id], world.provider_log, replay_counts[delivery.id])
        for notification in self.notifications:
            _NotificationCheck(self, notification, triggers.get(notification.source)).run()
        self._check_digests(triggers, world.actions)
        for pair, steps in self._group_steps().items():
            self._check_steps(pair, steps, world)
        self._check_sends(world.actions)
        self._check_reasons(world)
        self._check_feeds()

    def _check_digests(self, triggers: Mapping[str, Trigger], actions: UserActions) -> None:
        items: defaultdict[str, list[AnyRow]] = defaultdict(list)
        for item in self.items:
            items[item.digest_id].append(item)
        made = {row.id: row for row in self.notifications if row.source not in triggers}
        assert len(made) == len([row for row in self.digests if row.state == "closed"]), "a digest was made twice"
        by_id = {row.id: row for row in self.notifications}
        for digest in self.digests:
            of_digest = sorted(items[digest.id], key=lambda item: (item.accepted_at, item.notification_id))
            kept = [item for item in of_digest if item.state == "digested"]
            assert {item.state for item in of_digest} <= {"digested", "left_out"}
            assert digest.item_count - digest.sent_count == len(of_digest), "its count differs from its items"
            assert digest.state == ("closed" if kept else "empty")
            _check_window(digest)
            for item in of_digest:
                trigger = by_id[item.notification_id]
                assert (item.user_id, triggers[trigger.source].mode) == (digest.user_id, digest.key)
                assert trigger.template_code == digest.template_code
            if kept:
                message = made[digest.notification_id]
                assert message.source == f"digest:{digest.id}"
                assert message.variables["count"] == len(kept), "the count of a digest differs from its items"
                shown = [item["notificationId"] for item in message.variables["items"]]
                in_order = [item.notification_id for item in kept]
                assert shown == [one for one in in_order if one in shown], "the items are not in order"
                # more, if some are left out on one of the channels
                assert len(shown) >= min(len(kept), MAX_SHOWN_ITEMS), "an item is not shown"
        digested = {(item.notification_id, item.user_id) for item in self.items if item.state == "digested"}
        assert not digested & actions.must_leave_digest, "seen or cancelled before, and still in the digest"

    def _group_steps(self) -> Mapping[tuple[str, str], list[AnyRow]]:
        grouped: defaultdict[tuple[str, str], list[AnyRow]] = defaultdict(list)
        for row in sorted(self.steps, key=lambda row: row.step):
            grouped[row.notification_id, row.user_id].append(row)
        return grouped

    def _check_steps(self, pair: tuple[str, str], steps: Sequence[AnyRow], world: PlanWorld) -> None:
        """Assert that each step ended for a reason, and that its clock started when the step before was handed over."""
        later = {channel for step in steps for channel in step.channels}
        handed_over: dict[str, datetime] = {}
        for received in world.provider_log.received:
            message = received.message
            if (message.notification_id, message.target.user_id) == pair and (
                received.response is ProviderResponse.ACCEPTED
            ):
                handed_over.setdefault(getattr(message.target, "channel", ""), received.at)
        is_cancelled = next(row for row in self.notifications if row.id == pair[0]).state == "cancelled"
        before = set(CHANNELS) - later
        for step in steps:
            assert step.started_at is not None or step.ended_at is not None
            if step.ended_by == "notification_cancelled":
                assert is_cancelled
            elif step.ended_by in ("seen", "read"):
                assert pair in world.actions.marked
            elif step.ended_by == "event":
                assert pair[1] in world.actions.paid
            else:
                assert step.ended_by in (None, "delivered")
            times = [handed_over[channel] for channel in before if channel in handed_over]
            if step.started_at is not None and step.cause == "handed_over":
                assert times, "its clock started without a hand-over"
                earliest = min(times) + timedelta(seconds=step.after_seconds) - world.total_set_back
                assert step.started_at >= earliest, f"step {step.step} started before {earliest}"
            elif step.started_at is not None and step.cause == "not_handed_over":
                states = {
                    row.state
                    for row in self.deliveries
                    if (row.notification_id, row.user_id) == pair and row.channel in before
                }
                assert "delivered" not in states, "it did not wait although the step before was handed over"
            if step.started_at is not None:
                before = set(step.channels)

    def _check_sends(self, actions: UserActions) -> None:
        categories = {row.id: row.category for row in self.notifications}
        for send in actions.sends:
            category = categories[send.notification_id]
            assert category == "DUTY" or category not in send.opted_out, f"sent after the user opted out: {send}"

    def _check_reasons(self, world: PlanWorld) -> None:
        """Assert that nothing was skipped or left out for a reason that never applied."""
        rows = [
            *((row.notification_id, row.user_id, row.channel, row.reason) for row in self.skips),
            *((row.notification_id, row.user_id, None, row.reason) for row in self.items if row.reason is not None),
            *(
                (row.notification_id, row.user_id, row.channel, row.why)
                for row in self.deliveries
                if row.state == "skipped"
            ),
        ]
        by_id = {row.id: row for row in self.notifications}
        actions = world.actions
        # also by an outcome that was rejected because its lease had expired
        gone = {
            (received.message.target.user_id, getattr(received.message.target, "channel", ""))
            for received in world.provider_log.received
            if received.response is ProviderResponse.GONE
        }
        for notification_id, user, channel, reason in rows:
            notification = by_id[notification_id]
            match reason:
                case "no_contact_point":
                    lacks = channel not in ADDRESSES[user] or (user, channel) in gone
                    assert channel is None or lacks, f"{user} has an address on {channel}"
                case "preference_off":
                    assert user in actions.ever_opted_out
                    assert notification.category == "NEWS"
                case "seen":
                    assert (notification_id, user) in actions.marked
                case "cancelled":
                    assert notification.state == "cancelled"
                case "step_cancelled":
                    assert (notification_id, user) in actions.marked or user in actions.paid
                case _:
                    assert reason == "expired", reason

    def _check_feeds(self) -> None:
        arrived = Counter((row.notification_id, row.user_id) for row in self.inbox)
        assert set(arrived.values()) <= {1}
        delivered = {
            (row.notification_id, row.user_id)
            for row in self.deliveries
            if (row.channel, row.state) == ("inapp", "delivered")
        }
        stored = {(row.notification_id, row.user_id) for row in self.inbox if row.state != "expected"}
        assert delivered <= stored, "delivered, but not in the feed"


@dataclass(frozen=True)
class _NotificationCheck:
    """What happened to one notification."""

    rows: PlanRows
    notification: AnyRow
    #: None = a digest became it
    trigger: Trigger | None

    def run(self) -> None:
        key, notification = self.notification.id, self.notification
        deliveries_ = [row for row in self.rows.deliveries if row.notification_id == key]
        skips_ = [row for row in self.rows.skips if row.notification_id == key]
        items = {row.user_id for row in self.rows.items if row.notification_id == key}
        assert notification.state in ("fanned_out", "cancelled")
        assert (notification.deliveries, notification.skipped, notification.collected) == (
            len(deliveries_),
            len(skips_),
            len(items),
        ), "its counts differ from its rows"
        targets = Counter((row.user_id, row.channel, row.target_id) for row in deliveries_)
        assert set(targets.values()) <= {1}, "a step started twice"
        skip_keys = Counter((row.user_id, row.channel) for row in skips_)
        assert set(skip_keys.values()) <= {1}, "skipped twice"
        sent = {(row.user_id, row.channel) for row in deliveries_}
        assert not (both := sent & skip_keys.keys()), f"{both}: both sent and skipped: {notification}, {skips_}"
        if self.trigger is not None:
            assert not items or self.trigger.is_collected
        reached = {user for user, _ in sent | skip_keys.keys()} | items
        users = self._list_users()
        assert reached <= users
        if notification.state != "fanned_out":
            return
        assert reached == users, "a user has neither a delivery, nor a skip, nor an item of a digest"
        for user in users:
            decided = {channel for who, channel in sent | skip_keys.keys() if who == user}
            self._check_user(user, decided, is_collected=user in items)

    def _list_users(self) -> set[str]:
        if self.trigger is not None:
            return set(self.trigger.user_ids)
        return {row.user_id for row in self.rows.digests if row.notification_id == self.notification.id}

    def _check_user(self, user: str, decided: set[str], *, is_collected: bool) -> None:
        """Assert that a user got each channel exactly once: in a digest, sent alone, or skipped."""
        steps = PlanOptions.from_json(self.notification.plan).steps
        digest = None if self.trigger is None else DIGESTS[self.trigger.mode]
        requested = set(self.notification.channels or CHANNELS)
        if is_collected:
            assert digest is not None
            collected = set(digest.channels or CHANNELS)
            assert not decided & collected, "both in a digest and sent alone"
            assert decided == (set() if steps else requested - collected)
            return
        if not steps:
            assert decided == requested, "a channel has neither a delivery nor a skip"
            return
        rows = {
            row.step: row
            for row in self.rows.steps
            if (row.notification_id, row.user_id) == (self.notification.id, user)
        }
        for position, step in enumerate(steps):
            is_decided = position not in rows or rows[position].started_at is not None
            assert (set(step.channels) <= decided) == is_decided, f"step {position} of {user}: {decided}"


def _check_window(digest: AnyRow) -> None:
    opened_for = digest.closes_at - digest.opened_at
    match digest.key:
        case "fixed" | "first" | "email" | "overflow":
            assert opened_for == timedelta(seconds=WINDOW), "a fixed window was moved"
        case "sliding":
            assert opened_for <= timedelta(seconds=MAX_SLIDE)
        case "full":
            assert opened_for <= timedelta(hours=1)
            is_full = digest.item_count >= MAX_ITEMS
            assert is_full == (opened_for < timedelta(hours=1)), "it closes early if it is full, and only then"
        case "daily":
            assert any(
                (digest.closes_at + timedelta(minutes=offset)).strftime("%H:%M:%S") == f"{DAILY_AT}:00"
                for _, offset in ZONES
            ), "it does not close at its time in a zone of its user"
    assert digest.closed_at >= digest.closes_at - timedelta(seconds=2)


async def read_plan_rows(tx: Transaction) -> PlanRows:
    """Read all rows that the invariants cover."""
    tables = (notifications, deliveries, skips, attempts, digests, digest_items, waiting_steps, inbox_items)
    return PlanRows(*[(await connection_of(tx).execute(select(table))).all() for table in tables])
