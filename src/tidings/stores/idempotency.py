"""Idempotency keys: the first answer is kept with the work it belongs to, in the same transaction."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import bindparam, delete, literal, null, select, tuple_, update

from tidings.ports.store import FirstAnswer, KeyedRequest, Transaction
from tidings.stores.connection import of
from tidings.stores.json_rows import encoded, json_rows
from tidings.stores.schema import Instant, idempotency_keys
from tidings.stores.upserts import upsert_on

_k = idempotency_keys.c
_asked = json_rows("rows", _k.caller, _k.key, _k.request_digest)
#: new keys, per dialect. In the order of the key: of two groups that want the same ones, one waits for the other at the
#: first of them, and never both for each other.
_RESERVE = {
    dialect: upsert_on(dialect, idempotency_keys)
    .from_select(
        [*_asked.c.keys(), "status", "body", "created_at"],
        select(*_asked.c, null(), literal(b""), bindparam("now", type_=Instant))
        .where(_asked.c.key.is_not(None))
        .order_by(_asked.c.caller, _asked.c.key),
    )
    .on_conflict_do_nothing()
    .returning(_k.caller, _k.key)
    for dialect in ("postgresql", "sqlite")
}
_FIRST = select(_k.caller, _k.key, _k.request_digest, _k.status, _k.body).where(
    tuple_(_k.caller, _k.key).in_(select(_asked.c.caller, _asked.c.key))
)
_ANSWER = (
    update(idempotency_keys)
    .where(_k.caller == bindparam("of_caller"), _k.key == bindparam("of_key"))
    .values(status=bindparam("new_status"), body=bindparam("new_body"))
)


class SqlIdempotencyKeys:
    """Implements `ports.store.IdempotencyKeys`."""

    async def reserve(
        self, tx: Transaction, *, caller: str, key: str, request_digest: str, now: datetime
    ) -> FirstAnswer | None:
        [first] = await self.reserve_many(tx, [KeyedRequest(caller, key, request_digest)], now)
        return first

    async def reserve_many(
        self, tx: Transaction, requests: Sequence[KeyedRequest], now: datetime
    ) -> Sequence[FirstAnswer | None]:
        wanted = {(one.caller, one.key): one.request_digest for one in reversed(requests)}
        taken: set[tuple[str, str]] = set()
        first: dict[tuple[str, str], FirstAnswer] = {}
        # a second round only if one was purged between the two statements
        while open_ones := [(*name, digest) for name, digest in wanted.items() if name not in taken | first.keys()]:
            rows = encoded(open_ones)
            reserved = await of(tx).execute(_RESERVE[of(tx).dialect.name], {"rows": rows, "now": now})
            taken.update((row.caller, row.key) for row in reserved)
            if len(taken) < len(wanted):
                for row in await of(tx).execute(_FIRST, {"rows": rows}):
                    first[row.caller, row.key] = FirstAnswer(row.request_digest, row.status, row.body)
        answers = []
        for one in requests:
            name = (one.caller, one.key)
            answers.append(None if name in taken else first.get(name, FirstAnswer(wanted[name], None, b"")))
            # whoever comes with the same key in the same group comes second
            taken.discard(name)
        return answers

    async def answer(self, tx: Transaction, *, caller: str, key: str, status: int, body: bytes) -> None:
        await self.answer_many(tx, [(KeyedRequest(caller, key, ""), status, body)])

    async def answer_many(self, tx: Transaction, answers: Sequence[tuple[KeyedRequest, int, bytes]]) -> None:
        if answers:
            rows = [
                {"of_caller": one.caller, "of_key": one.key, "new_status": status, "new_body": body}
                for one, status, body in answers
            ]
            await of(tx).execute(_ANSWER, rows)

    async def purge(self, tx: Transaction, before: datetime) -> int:
        return (await of(tx).execute(delete(idempotency_keys).where(_k.created_at < before))).rowcount
