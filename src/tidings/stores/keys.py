"""VAPID keys (sealed at rest) and API keys (only their hash is kept)."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, func, insert, select, update

from tidings.model.subscription import SubscriptionState, VapidKey
from tidings.ports.store import ApiKey, Transaction
from tidings.stores.connection import of
from tidings.stores.schema import api_keys, push_subscriptions, vapid_keys
from tidings.stores.sealing import Sealer


class SqlVapidKeys:
    """Implements `ports.store.VapidKeys`."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    async def add(self, tx: Transaction, key: VapidKey) -> None:
        row = {
            "id": key.id,
            "public": key.public,
            "sealed_private": self._sealer.seal(key.private, key.id),
            "created_at": key.created_at,
            "retired_at": key.retired_at,
        }
        await of(tx).execute(insert(vapid_keys), row)

    async def all(self, tx: Transaction) -> Sequence[VapidKey]:
        rows = await of(tx).execute(select(vapid_keys).order_by(vapid_keys.c.id.desc()))
        return [
            VapidKey(
                id=row.id,
                private=self._sealer.unseal(row.sealed_private, row.id),
                public=row.public,
                created_at=row.created_at,
                retired_at=row.retired_at,
            )
            for row in rows
        ]

    async def in_use(self, tx: Transaction) -> Mapping[str, int]:
        query = (
            select(push_subscriptions.c.vapid_key_id, func.count())
            .where(push_subscriptions.c.state != SubscriptionState.GONE.value)
            .group_by(push_subscriptions.c.vapid_key_id)
        )
        return {row[0]: row[1] for row in await of(tx).execute(query)}

    async def retire(self, tx: Transaction, key_id: str, now: datetime) -> bool:
        done = await of(tx).execute(
            update(vapid_keys)
            .where(vapid_keys.c.id == key_id, vapid_keys.c.retired_at.is_(None))
            .values(retired_at=now)
        )
        return done.rowcount == 1


class SqlApiKeys:
    """Implements `ports.store.ApiKeys`."""

    async def add(self, tx: Transaction, key: ApiKey) -> None:
        row = {
            "id": key.id,
            "digest": key.digest,
            "prefix": key.prefix,
            "label": key.label,
            "scopes": sorted(key.scopes),
            "created_at": key.created_at,
            "revoked_at": key.revoked_at,
        }
        await of(tx).execute(insert(api_keys), row)

    async def find(self, tx: Transaction, digest: str) -> ApiKey | None:
        row = (await of(tx).execute(select(api_keys).where(api_keys.c.digest == digest))).one_or_none()
        return None if row is None else _api_key(row)

    async def all(self, tx: Transaction) -> Sequence[ApiKey]:
        return [_api_key(row) for row in await of(tx).execute(select(api_keys).order_by(api_keys.c.id))]

    async def revoke(self, tx: Transaction, key_id: str, now: datetime) -> bool:
        done = await of(tx).execute(
            update(api_keys).where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None)).values(revoked_at=now)
        )
        return done.rowcount == 1


def _api_key(row: Row[*tuple[Any, ...]]) -> ApiKey:
    return ApiKey(**{**row._mapping, "scopes": frozenset(row.scopes)})
