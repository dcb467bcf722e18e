"""What a path names must exist: one answer for what does not."""

from tidings.errors import NotFound
from tidings.model.notification import Notification
from tidings.model.user import User
from tidings.ports.store import Store, Transaction


def unknown_user(user_id: str) -> NotFound:
    """Return the error for a user nobody told us about."""
    return NotFound(f"User {user_id} is unknown: PUT /api/users/{{id}} makes one known.", code="unknown_user")


async def known_user(store: Store, tx: Transaction, user_id: str) -> User:
    """Return a user. Raises NotFound."""
    user = await store.users.get(tx, user_id)
    if user is None:
        raise unknown_user(user_id)
    return user


async def known_notification(store: Store, tx: Transaction, notification_id: str) -> Notification:
    """Return a notification. Raises NotFound."""
    found = await store.notifications.get(tx, notification_id)
    if found is None:
        raise NotFound(f"Notification {notification_id[:60]} does not exist.", code="unknown_notification")
    return found
