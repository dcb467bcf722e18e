"""The oracle of the chaos tests: what push services logged beside what PostgreSQL says, and the rules for both."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from tidings.model.delivery import FINAL_STATES
from tidings.testing.mock_push import SpawnedMockPush

#: one for each recipient of a notification
Entry = tuple[str, str]

_DELIVERIES = "SELECT notification_id, user_id, state FROM deliveries"
_SKIPS = "SELECT notification_id, count(*) FROM skips GROUP BY 1"
_NOTIFICATIONS = "SELECT id, recipients, deliveries, skipped FROM notifications"


@dataclass(frozen=True)
class Books:
    """Both accounts at one moment. Users have one device each, named as its user."""

    #: (device, topic) → messages taken; a topic belongs to one notification
    receipts: Mapping[Entry, int]
    #: (notification, user, state) of each delivery
    rows: Sequence[tuple[str, str, str]]
    #: notification → its own counts: recipients, deliveries, skipped
    counts: Mapping[str, tuple[int, int, int]]
    #: notification → skips stored
    skips: Mapping[str, int]

    @property
    def duplicates(self) -> int:
        """Messages taken beyond the first of each device and notification."""
        return sum(self.receipts.values()) - len(self.receipts)

    @property
    def states(self) -> Mapping[str, int]:
        """State → deliveries."""
        return Counter(state for _, _, state in self.rows)

    def check(self, users: Collection[str], *, notifications: int = 1, at_most_twice: int = 0) -> None:
        """Assert that every user got every notification, that all counts agree, and how much was sent twice.

        at_most_twice: the promised bound of messages sent again.
        """
        self.check_counts()
        assert len(self.counts) == notifications, f"{len(self.counts)} notifications, not {notifications}"
        assert self.states == {"delivered": len(users) * notifications}
        assert {(notification, user) for notification, user, _ in self.rows} == {
            (notification, user) for notification in self.counts for user in users
        }
        got = Counter(device for device, _ in self.receipts)
        assert got == dict.fromkeys(users, notifications), "receipts and rows name other recipients"
        assert self.duplicates <= at_most_twice, f"{self.duplicates} sent again, promised are {at_most_twice}"

    def check_counts(self) -> None:
        """Assert one final state for each recipient, and that the notifications' own counts are those of the rows."""
        entries = Counter((notification, user) for notification, user, _ in self.rows)
        assert {entry: times for entry, times in entries.items() if times > 1} == {}, "more than one row"
        open_rows = [row for row in self.rows if row[2] not in FINAL_STATES]
        assert open_rows == [], "not final"
        stored = Counter(notification for notification, _, _ in self.rows)
        for notification, (recipients, deliveries, skipped) in self.counts.items():
            assert deliveries == stored[notification]
            assert skipped == self.skips.get(notification, 0)
            assert recipients == deliveries + skipped


async def read_books(database: str, pushes: Sequence[SpawnedMockPush]) -> Books:
    """Read both accounts. database: URL; pushes: every service that was sent to."""
    receipts: Counter[Entry] = Counter()
    for push in pushes:
        for device, topic, count in await push.control.receipts():
            receipts[device, topic] += count
    connection = await asyncpg.connect(database)
    try:
        rows = [(str(row[0]), row[1], row[2]) for row in await connection.fetch(_DELIVERIES)]
        counts = {str(row[0]): (row[1], row[2], row[3]) for row in await connection.fetch(_NOTIFICATIONS)}
        skips = {str(row[0]): row[1] for row in await connection.fetch(_SKIPS)}
    finally:
        await connection.close()
    return Books(receipts, rows, counts, skips)
