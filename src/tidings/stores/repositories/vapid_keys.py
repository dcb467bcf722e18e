"""VAPID keys of this server. The private keys are encrypted at rest."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import func, insert, select, update

from tidings.model.subscription import SubscriptionState, VapidKey
from tidings.ports.store import Transaction
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.transaction import connection_of
from tidings.stores.repositories.contact_points import PUSH_CHANNEL
from tidings.stores.schema.tables import contact_points, vapid_keys

#: key of the advisory lock around adding the first VAPID key: "vapid" in ASCII
VAPID_KEYS_LOCK_ID = int.from_bytes(b"vapid")


class SqlVapidKeys:
    """Implements `ports.store.VapidKeys`."""

    def __init__(self, cipher: FieldCipher) -> None:
        self._cipher = cipher

    async def lock(self, tx: Transaction) -> None:
        # SQLite serialises writing transactions by itself
        if connection_of(tx).dialect.name == "postgresql":
            await connection_of(tx).execute(select(func.pg_advisory_xact_lock(VAPID_KEYS_LOCK_ID)))

    async def add(self, tx: Transaction, key: VapidKey) -> None:
        row = {
            "id": key.id,
            "public": key.public,
            "sealed_private": self._cipher.encrypt(key.private, key.id),
            "created_at": key.created_at,
            "retired_at": key.retired_at,
        }
        await connection_of(tx).execute(insert(vapid_keys), row)

    async def list_all(self, tx: Transaction) -> Sequence[VapidKey]:
        rows = await connection_of(tx).execute(select(vapid_keys).order_by(vapid_keys.c.id.desc()))
        return [
            VapidKey(
                id=row.id,
                private=self._cipher.decrypt(row.sealed_private, row.id),
                public=row.public,
                created_at=row.created_at,
                retired_at=row.retired_at,
            )
            for row in rows
        ]

    async def count_subscriptions(self, tx: Transaction) -> Mapping[str, int]:
        query = (
            select(contact_points.c.key_id, func.count())
            .where(contact_points.c.channel == PUSH_CHANNEL, contact_points.c.state != SubscriptionState.GONE.value)
            .group_by(contact_points.c.key_id)
        )
        return {row[0]: row[1] for row in await connection_of(tx).execute(query)}

    async def retire(self, tx: Transaction, key_id: str, now: datetime) -> bool:
        updated = await connection_of(tx).execute(
            update(vapid_keys)
            .where(vapid_keys.c.id == key_id, vapid_keys.c.retired_at.is_(None))
            .values(retired_at=now)
        )
        return updated.rowcount == 1
