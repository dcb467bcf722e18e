"""The lock on notifications that those take who change their counts, or plan what is left of them."""

from collections.abc import Collection

from sqlalchemy import select

from tidings.ports.transaction import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.tables import notifications
from tidings.stores.sql.json_params import id_array


async def lock_notifications(tx: Transaction, notification_ids: Collection[str]) -> None:
    """Lock notifications in the order of their ids, as an update of their counts does."""
    query = select(notifications.c.id).where(notifications.c.id.in_(id_array(notification_ids)))
    await connection_of(tx).execute(query.order_by(notifications.c.id).with_for_update(key_share=True))
