"""The oracle of the chaos tests: compares the push services' receipts with the rows in PostgreSQL."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from tidings.mockpush import SpawnedMockPush
from tidings.model.delivery import FINAL_STATES

#: outcomes of which each recipient of a notification has exactly one
RecipientKey = tuple[str, str]

_DELIVERIES = "SELECT notification_id, user_id, state FROM deliveries"
_SKIPS = "SELECT notification_id, count(*) FROM skips GROUP BY 1"
_NOTIFICATIONS = "SELECT id, recipients, deliveries, skipped FROM notifications"


@dataclass(frozen=True)
class DeliveryAudit:
    """Receipts and rows at one moment. Each user has one device with the name of the user."""

    #: (device, topic) → accepted messages; a topic belongs to one notification
    receipts: Mapping[RecipientKey, int]
    #: (notification, user, state) of each delivery
    delivery_rows: Sequence[tuple[str, str, str]]
    #: notification → its stored counts: recipients, deliveries, skipped
    counts: Mapping[str, tuple[int, int, int]]
    #: notification → stored skips
    skip_counts: Mapping[str, int]

    @property
    def duplicates(self) -> int:
        """Number of messages accepted after the first of each device and notification."""
        return sum(self.receipts.values()) - len(self.receipts)

    @property
    def state_counts(self) -> Mapping[str, int]:
        """State → number of deliveries."""
        return Counter(state for _, _, state in self.delivery_rows)

    def check(self, user_ids: Collection[str], *, notifications: int = 1, max_duplicates: int = 0) -> None:
        """Assert that every user received every notification, that counts agree, and that duplicates are bounded.

        max_duplicates: the guaranteed bound of messages that were sent again.
        """
        self.check_consistency()
        assert len(self.counts) == notifications, f"{len(self.counts)} notifications, not {notifications}"
        assert self.state_counts == {"delivered": len(user_ids) * notifications}
        assert {(notification, user) for notification, user, _ in self.delivery_rows} == {
            (notification, user) for notification in self.counts for user in user_ids
        }
        got = Counter(device for device, _ in self.receipts)
        assert got == dict.fromkeys(user_ids, notifications), "receipts and rows name other recipients"
        assert self.duplicates <= max_duplicates, f"{self.duplicates} sent again, promised are {max_duplicates}"

    def check_consistency(self) -> None:
        """Assert one final state for each recipient, and that the notifications' counts match the rows."""
        entries = Counter((notification, user) for notification, user, _ in self.delivery_rows)
        assert {entry: times for entry, times in entries.items() if times > 1} == {}, "more than one row"
        open_rows = [row for row in self.delivery_rows if row[2] not in FINAL_STATES]
        assert open_rows == [], "not final"
        stored = Counter(notification for notification, _, _ in self.delivery_rows)
        for notification, (recipients, deliveries, skipped) in self.counts.items():
            assert deliveries == stored[notification]
            assert skipped == self.skip_counts.get(notification, 0)
            assert recipients == deliveries + skipped


async def read_delivery_audit(database_url: str, push_services: Sequence[SpawnedMockPush]) -> DeliveryAudit:
    """Read receipts and rows. push_services: every push service that was used."""
    receipts: Counter[RecipientKey] = Counter()
    for push in push_services:
        for device, topic, count in await push.control.receipts():
            receipts[device, topic] += count
    connection = await asyncpg.connect(database_url)
    try:
        rows = [(str(row[0]), row[1], row[2]) for row in await connection.fetch(_DELIVERIES)]
        counts = {str(row[0]): (row[1], row[2], row[3]) for row in await connection.fetch(_NOTIFICATIONS)}
        skips = {str(row[0]): row[1] for row in await connection.fetch(_SKIPS)}
    finally:
        await connection.close()
    return DeliveryAudit(receipts, rows, counts, skips)
