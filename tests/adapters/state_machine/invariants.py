"""Invariants of the database and the provider log once all work has ended."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, select
from tests.adapters.state_machine.fake_channel import ProviderLog, ProviderResponse

from tidings.flow.fanout.limits import WINDOW
from tidings.model.delivery import FINAL_STATES
from tidings.model.outcome import MAX_ATTEMPTS
from tidings.ports.store import MAX_WORKER_CRASHES, Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.tables import attempts, deliveries, notifications, skips

Rows = Sequence[Row[*tuple[Any, ...]]]
#: timestamps of rate limits are rounded to milliseconds, in opposite directions
ROUNDING_ERROR = timedelta(milliseconds=2)


@dataclass(frozen=True)
class ExpectedNotification:
    """A request, and how many notifications must exist for it."""

    user_ids: Collection[str]
    #: whether it counts towards the rate limit of its users
    is_rate_limited: bool
    #: number of notifications that must exist
    expected_count: int = 1


@dataclass(frozen=True)
class StoredRows:
    """All notifications with their deliveries, skips and attempts."""

    notifications: Rows
    deliveries: Rows
    skips: Rows
    attempts: Rows

    def check(
        self, expected: Mapping[str, ExpectedNotification], provider_log: ProviderLog, replay_counts: Counter[str]
    ) -> None:
        """Assert the invariants of each notification and each delivery."""
        counts = Counter(notification.source for notification in self.notifications)
        assert counts == {
            source: request.expected_count for source, request in expected.items() if request.expected_count
        }, "a notification was lost or accepted twice"
        for notification in self.notifications:
            is_cancelled = notification.id in provider_log.received_at_cancellation
            self._check_notification(notification, expected[notification.source].user_ids, is_cancelled)
        recorded = Counter(row.delivery_id for row in self.attempts)
        for delivery in self.deliveries:
            check_delivery(delivery, recorded[delivery.id], provider_log, replay_counts[delivery.id])
        sent_ids = {received.message.delivery_id for received in provider_log.received}
        assert sent_ids <= {delivery.id for delivery in self.deliveries}

    def check_limits(self, expected: Mapping[str, ExpectedNotification], limit: int, clock_set_back: timedelta) -> None:
        """Assert that no user exceeded the limit in any window, and that no user below it was limited.

        clock_set_back: by how much the clock was set back in total; the limit is exact without it.
        """
        limited_ids = {row.id for row in self.notifications if expected[row.source].is_rate_limited}
        times_by_user: defaultdict[str, dict[str, datetime]] = defaultdict(dict)
        for row in self.deliveries:
            if row.notification_id in limited_ids:
                times_by_user[row.user_id][row.notification_id] = row.created_at
        for user, by_notification in times_by_user.items():
            times = sorted(by_notification.values())
            for last in times:
                count = sum(last - WINDOW + clock_set_back < time <= last for time in times)
                assert count <= limit, f"{user} got {count} in the hour before {last}"
        for row in self.skips:
            if row.reason == "rate_limited":
                begin, end = row.created_at - WINDOW - clock_set_back - ROUNDING_ERROR, row.created_at + clock_set_back
                count = sum(begin < time <= end for time in times_by_user[row.user_id].values())
                assert count >= limit, f"{row.user_id} was limited after {count}"

    def _check_notification(
        self, notification: Row[*tuple[Any, ...]], users: Collection[str], is_cancelled: bool
    ) -> None:
        rows = [row for row in self.deliveries if row.notification_id == notification.id]
        skip_rows = [row for row in self.skips if row.notification_id == notification.id]
        assert notification.state in ("fanned_out", "cancelled")
        assert notification.state == "cancelled" or not is_cancelled, "a confirmed cancellation was undone"
        assert (notification.deliveries, notification.skipped) == (len(rows), len(skip_rows)), (
            "its counts differ from its rows"
        )
        reached, skipped = {row.user_id for row in rows}, {row.user_id for row in skip_rows}
        assert not reached & skipped, "a user has both a delivery and a skip"
        assert notification.recipients == len(reached | skipped)
        assert (reached | skipped) <= set(users)
        if notification.state == "fanned_out":
            assert reached | skipped == set(users), "a user has neither a delivery nor a skip"
        targets = Counter((row.user_id, row.channel, row.target_id) for row in rows)
        assert set(targets.values()) <= {1}, "more than one delivery to a device"
        if notification.state != "cancelled":
            assert "cancelled" not in {row.state for row in rows}


def check_delivery(
    delivery: Row[*tuple[Any, ...]], recorded_attempts: int, provider_log: ProviderLog, replay_count: int
) -> None:
    """Assert that a delivery ended once, and that its state and its attempts are those the provider saw."""
    assert delivery.state in FINAL_STATES
    assert (delivery.lease_token, delivery.batch_id) == (None, None)
    responses = Counter(sent.response for sent in provider_log.received if sent.message.delivery_id == delivery.id)
    lost = provider_log.unknown_outcomes[delivery.id]
    assert delivery.attempts <= MAX_ATTEMPTS
    spent = responses.total() - responses[ProviderResponse.THROTTLED]
    assert spent <= MAX_ATTEMPTS * (1 + replay_count) + lost, (
        f"{spent} attempts, of which the outcomes of {lost} were lost"
    )
    assert responses[ProviderResponse.ACCEPTED] <= 1 + lost, "delivered twice without a lost outcome"
    assert responses.total() <= recorded_attempts + lost, "an attempt is not recorded"
    assert delivery.crashes <= MAX_WORKER_CRASHES
    if not lost:
        expected_states = {
            "delivered": ProviderResponse.ACCEPTED in responses,
            "gone": bool(responses[ProviderResponse.GONE] + responses[ProviderResponse.REBIND]),
        }
        for state, is_expected in expected_states.items():
            assert (delivery.state == state) == is_expected, f"{delivery.state}, but {dict(responses)}"
    elif delivery.state == "delivered":
        assert responses[ProviderResponse.ACCEPTED], "the provider never accepted it"


async def read_stored_rows(tx: Transaction) -> StoredRows:
    """Read all rows that the invariants cover."""
    tables = (notifications, deliveries, skips, attempts)
    return StoredRows(*[(await connection_of(tx).execute(select(table))).all() for table in tables])
