"""API keys. Only their hash is stored."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, insert, select, update

from tidings.ports.store import ApiKey, Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.tables import api_keys


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
        await connection_of(tx).execute(insert(api_keys), row)

    async def find(self, tx: Transaction, digest: str) -> ApiKey | None:
        row = (await connection_of(tx).execute(select(api_keys).where(api_keys.c.digest == digest))).one_or_none()
        return None if row is None else _to_api_key(row)

    async def list_all(self, tx: Transaction) -> Sequence[ApiKey]:
        return [_to_api_key(row) for row in await connection_of(tx).execute(select(api_keys).order_by(api_keys.c.id))]

    async def revoke(self, tx: Transaction, key_id: str, now: datetime) -> bool:
        updated = await connection_of(tx).execute(
            update(api_keys).where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None)).values(revoked_at=now)
        )
        return updated.rowcount == 1


def _to_api_key(row: Row[*tuple[Any, ...]]) -> ApiKey:
    return ApiKey(**{**row._mapping, "scopes": frozenset(row.scopes)})
