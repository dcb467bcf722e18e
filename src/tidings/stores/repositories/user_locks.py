"""The lock that keeps users from being erased while rows about them are stored."""

from collections.abc import Collection

from sqlalchemy import select

from tidings.ports.transaction import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.tables import users
from tidings.stores.sql.json_params import text_array


async def lock_users(tx: Transaction, user_ids: Collection[str]) -> set[str]:
    """Lock users against their erasure, as a foreign key does. Returns the ids of those that exist."""
    query = select(users.c.id).where(users.c.id.in_(text_array(list(user_ids)))).order_by(users.c.id)
    return set(await connection_of(tx).scalars(query.with_for_update(read=True, key_share=True)))
