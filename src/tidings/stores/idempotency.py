"""Idempotency keys: the first answer is kept with the work it belongs to, in the same transaction."""

from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from tidings.ports.store import FirstAnswer, Transaction
from tidings.stores.connection import of
from tidings.stores.schema import idempotency_keys

_k = idempotency_keys.c


class SqlIdempotencyKeys:
    """Implements `ports.store.IdempotencyKeys`."""

    async def reserve(
        self, tx: Transaction, *, caller: str, key: str, request_digest: str, now: datetime
    ) -> FirstAnswer | None:
        insert = postgresql.insert if of(tx).dialect.name == "postgresql" else sqlite.insert
        taken = await of(tx).execute(
            insert(idempotency_keys)
            .values(caller=caller, key=key, request_digest=request_digest, status=None, body=b"", created_at=now)
            .on_conflict_do_nothing()
        )
        if taken.rowcount == 1:
            return None
        row = (
            await of(tx).execute(
                select(_k.request_digest, _k.status, _k.body).where(_k.caller == caller, _k.key == key)
            )
        ).one()
        return FirstAnswer(row.request_digest, row.status, row.body)

    async def answer(self, tx: Transaction, *, caller: str, key: str, status: int, body: bytes) -> None:
        await of(tx).execute(
            update(idempotency_keys).where(_k.caller == caller, _k.key == key).values(status=status, body=body)
        )

    async def purge(self, tx: Transaction, before: datetime) -> int:
        return (await of(tx).execute(delete(idempotency_keys).where(_k.created_at < before))).rowcount
