"""Loads the resource that a path names, or raises NotFound."""

from tidings.errors import NotFound
from tidings.model.user import User
from tidings.ports.store import Store, Transaction


def user_not_found(user_id: str) -> NotFound:
    """Return the error for a user id that is not stored."""
    return NotFound(f"User {user_id} does not exist. PUT /api/users/{{id}} creates a user.", code="unknown_user")


async def get_user_or_404(store: Store, tx: Transaction, user_id: str, *, lock: bool = False) -> User:
    """Return a user. lock: required before rows that refer to the user are stored (`Users.get`). Raises NotFound."""
    user = await store.users.get(tx, user_id, lock=lock)
    if user is None:
        raise user_not_found(user_id)
    return user
