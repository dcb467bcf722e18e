"""Loads notifications by id: `get_notification` raises NotFound, `NotificationCache` avoids repeated reads."""

from typing import NamedTuple

import msgspec
from cachetools import LRUCache

from tidings.errors import NotFound
from tidings.model.audience import mentioned_user_ids
from tidings.model.notification import Notification
from tidings.ports.store import Store, Transaction

#: of all cached notifications together. The sizes are those as JSON; the objects take some times as much memory
_MAX_BYTES = 8 * 2**20
#: a larger notification is not cached: one that names thousands of users
_MAX_BYTES_PER_NOTIFICATION = 256 * 2**10
#: of a notification without what is counted
_BASE_BYTES = 2_048
_BYTES_PER_USER_ID = 64


async def get_notification(store: Store, tx: Transaction, notification_id: str, *, hint: str = "") -> Notification:
    """Return a notification.

    Raises NotFound with code `unknown_notification`. hint: a sentence for the caller, appended to the message.
    """
    notification = await store.notifications.get(tx, notification_id)
    if notification is None:
        message = f"Notification {notification_id[:60]} does not exist."
        raise NotFound(f"{message} {hint}".rstrip(), code="unknown_notification")
    return notification


class _Entry(NamedTuple):
    notification: Notification
    size: int


class NotificationCache:
    """An LRU cache by id, bounded in bytes, so that the batches of one broadcast share a read.

    Not thread-safe: one event loop.
    """

    def __init__(self) -> None:
        self._entries: LRUCache[str, _Entry] = LRUCache(_MAX_BYTES, getsizeof=lambda entry: entry.size)

    def get(self, notification_id: str) -> Notification | None:
        entry = self._entries.get(notification_id)
        return None if entry is None else entry.notification

    def put(self, notification: Notification) -> None:
        """Cache a notification, unless it is large or of a digest.

        A digest has one user, and its parts are read with what the user's preferences require at the time.
        """
        if notification.digest_id is not None:
            return
        size = _estimate_size(notification)
        if size <= _MAX_BYTES_PER_NOTIFICATION:
            self._entries[notification.id] = _Entry(notification, size)

    def evict(self, notification_id: str) -> None:
        self._entries.pop(notification_id, None)


def _estimate_size(notification: Notification) -> int:
    """Return the bytes of a notification."""
    size = _BASE_BYTES + _BYTES_PER_USER_ID * len(mentioned_user_ids(notification.audience))
    for values in (notification.variables, notification.subject_state, notification.subject_previous_state):
        size += len(msgspec.json.encode(values))
    return size
