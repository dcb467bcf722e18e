"""Saved audiences."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, select, text, update

from tidings.model.audience import from_json, to_json
from tidings.model.saved_audience import SavedAudience
from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.tables import audiences
from tidings.stores.sql.json_params import text_array
from tidings.stores.sql.upsert import upsert

_a = audiences.c
#: key of the advisory lock around changes: "audience" in ASCII
_TAKE_LOCK = text(f"SELECT pg_advisory_xact_lock({int.from_bytes(b'audience')})")


class SqlSavedAudiences:
    """Implements `ports.audiences.SavedAudiences`."""

    async def put(self, tx: Transaction, audience: SavedAudience, now: datetime) -> bool:
        content = {"definition": to_json(audience.definition), "description": audience.description, "updated_at": now}
        new = upsert(tx, audiences).values(name=audience.name, created_at=now, **content)
        inserted = await connection_of(tx).execute(new.on_conflict_do_nothing())
        if inserted.rowcount == 1:
            return True
        await connection_of(tx).execute(update(audiences).where(_a.name == audience.name).values(content))
        return False

    async def get_many(self, tx: Transaction, names: Collection[str]) -> Mapping[str, SavedAudience]:
        query = select(audiences).where(_a.name.in_(text_array(names)))
        return {row.name: _to_audience(row) for row in await connection_of(tx).execute(query)}

    async def page(self, tx: Transaction, *, after: str | None, limit: int) -> Sequence[SavedAudience]:
        query = select(audiences).where(_a.name > (after or "")).order_by(_a.name).limit(limit)
        return [_to_audience(row) for row in await connection_of(tx).execute(query)]

    async def lock(self, tx: Transaction) -> None:
        # SQLite has one writer anyway
        if connection_of(tx).dialect.name == "postgresql":
            await connection_of(tx).execute(_TAKE_LOCK)

    async def delete(self, tx: Transaction, name: str) -> bool:
        return (await connection_of(tx).execute(delete(audiences).where(_a.name == name))).rowcount == 1


def _to_audience(row: Row[*tuple[Any, ...]]) -> SavedAudience:
    return SavedAudience(row.name, from_json(row.definition), row.description, row.created_at, row.updated_at)
