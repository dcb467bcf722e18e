"""Quotas: one statement compares the sums of a day with their maxima and counts."""

from collections.abc import Mapping, Sequence
from datetime import date

from sqlalchemy import delete, select, update

from tidings.ports.quotas import QuotaAmount
from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.tables import quotas
from tidings.stores.sql.upsert import upsert

_q = quotas.c


class SqlQuotas:
    """Implements `ports.quotas.Quotas`."""

    async def consume(self, tx: Transaction, amounts: Sequence[QuotaAmount], day: date) -> str | None:
        for quota in amounts:
            if quota.amount > quota.maximum:
                return quota.key
        if not amounts:
            return None
        # sorted, so that two transactions lock rows in the same order
        rows = [
            {"day": day.isoformat(), "key": quota.key, "used": quota.amount, "maximum": quota.maximum}
            for quota in sorted(amounts, key=lambda quota: quota.key)
        ]
        insert = upsert(tx, quotas).values(rows)
        used = _q.used + insert.excluded.used
        counted = await connection_of(tx).scalars(
            insert.on_conflict_do_update(
                index_elements=[_q.day, _q.key],
                set_={"used": used, "maximum": insert.excluded.maximum},
                # the row is locked, so that a concurrent transaction waits and compares with the new sum
                where=used <= insert.excluded.maximum,
            ).returning(_q.key)
        )
        keys = set(counted)
        refused = next((quota.key for quota in amounts if quota.key not in keys), None)
        if refused is not None:
            # in the same transaction: no other one sees these sums
            await self.release(tx, [quota for quota in amounts if quota.key in keys], day)
        return refused

    async def release(self, tx: Transaction, amounts: Sequence[QuotaAmount], day: date) -> None:
        for quota in sorted(amounts, key=lambda quota: quota.key):
            await connection_of(tx).execute(
                update(quotas).where(_q.day == day.isoformat(), _q.key == quota.key).values(used=_q.used - quota.amount)
            )

    async def lock_sum(self, tx: Transaction, key: str, day: date, *, maximum: int) -> int:
        new = upsert(tx, quotas).values(day=day.isoformat(), key=key, used=0, maximum=maximum)
        # the update of the maximum locks the row
        statement = new.on_conflict_do_update(index_elements=[_q.day, _q.key], set_={"maximum": maximum})
        used: int = (await connection_of(tx).execute(statement.returning(_q.used))).scalar_one()
        return used

    async def add_to_sum(self, tx: Transaction, key: str, day: date, amount: int) -> None:
        await connection_of(tx).execute(
            update(quotas).where(_q.day == day.isoformat(), _q.key == key).values(used=_q.used + amount)
        )

    async def list_sums(self, tx: Transaction, day: date) -> Mapping[str, int]:
        rows = await connection_of(tx).execute(select(_q.key, _q.used).where(_q.day == day.isoformat()))
        return {row.key: row.used for row in rows}

    async def purge(self, tx: Transaction, before: date) -> int:
        return (await connection_of(tx).execute(delete(quotas).where(_q.day < before.isoformat()))).rowcount
