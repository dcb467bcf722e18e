"""Loads notifications by id: `get_notification` raises NotFound, `NotificationCache` avoids repeated reads."""

from cachetools import LRUCache

from tidings.errors import NotFound
from tidings.model.audience import mentioned_user_ids
from tidings.model.notification import Notification
from tidings.ports.store import Store, Transaction

_MAX_ENTRIES = 512
#: a notification that names more users, or of a digest of more, is not cached: a list of ids alone takes some 100 KB
_MAX_CACHED_PARTS = 1_000


async def get_notification(store: Store, tx: Transaction, notification_id: str, *, hint: str = "") -> Notification:
    """Return a notification.

    Raises NotFound with code `unknown_notification`. hint: a sentence for the caller, appended to the message.
    """
    notification = await store.notifications.get(tx, notification_id)
    if notification is None:
        message = f"Notification {notification_id[:60]} does not exist."
        raise NotFound(f"{message} {hint}".rstrip(), code="unknown_notification")
    return notification


class NotificationCache:
    """A bounded LRU cache by id, so that the batches of one broadcast share a read. Not thread-safe: one event loop."""

    def __init__(self) -> None:
        self._entries: LRUCache[str, Notification] = LRUCache(_MAX_ENTRIES)

    def get(self, notification_id: str) -> Notification | None:
        return self._entries.get(notification_id)

    def put(self, notification: Notification) -> None:
        size = max(len(mentioned_user_ids(notification.audience)), len(notification.parts))
        if size <= _MAX_CACHED_PARTS:
            self._entries[notification.id] = notification

    def evict(self, notification_id: str) -> None:
        self._entries.pop(notification_id, None)
