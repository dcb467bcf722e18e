"""Idempotency keys: the first response is stored in the same transaction as the work of its request."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import bindparam, delete, literal, null, select, tuple_, update

from tidings.ports.store import IdempotentRequest, StoredResponse, Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.tables import Instant, idempotency_keys
from tidings.stores.sql.json_params import encode_rows, rowset
from tidings.stores.sql.upsert import upsert_for_dialect

_k = idempotency_keys.c
_requested_keys = rowset("rows", _k.caller, _k.key, _k.request_digest)
#: Inserts new keys, by dialect. Ordered by key: two concurrent groups with the same keys cannot deadlock.
_RESERVE = {
    dialect: upsert_for_dialect(dialect, idempotency_keys)
    .from_select(
        [*_requested_keys.c.keys(), "status", "body", "created_at"],
        select(*_requested_keys.c, null(), literal(b""), bindparam("now", type_=Instant))
        .where(_requested_keys.c.key.is_not(None))
        .order_by(_requested_keys.c.caller, _requested_keys.c.key),
    )
    .on_conflict_do_nothing()
    .returning(_k.caller, _k.key)
    for dialect in ("postgresql", "sqlite")
}
_SELECT_STORED = select(_k.caller, _k.key, _k.request_digest, _k.status, _k.body).where(
    tuple_(_k.caller, _k.key).in_(select(_requested_keys.c.caller, _requested_keys.c.key))
)
_COMPLETE = (
    update(idempotency_keys)
    .where(_k.caller == bindparam("of_caller"), _k.key == bindparam("of_key"))
    .values(status=bindparam("new_status"), body=bindparam("new_body"))
)


class SqlIdempotencyKeys:
    """Implements `ports.store.IdempotencyKeys`."""

    async def reserve(
        self, tx: Transaction, *, caller: str, key: str, request_digest: str, now: datetime
    ) -> StoredResponse | None:
        [stored] = await self.reserve_many(tx, [IdempotentRequest(caller, key, request_digest)], now)
        return stored

    async def reserve_many(
        self, tx: Transaction, requests: Sequence[IdempotentRequest], now: datetime
    ) -> Sequence[StoredResponse | None]:
        # the first request of each key
        digests = {(request.caller, request.key): request.request_digest for request in reversed(requests)}
        reserved: set[tuple[str, str]] = set()
        stored: dict[tuple[str, str], StoredResponse] = {}
        # repeats only if a key was purged between the two statements
        while unresolved := [(*key, digest) for key, digest in digests.items() if key not in reserved | stored.keys()]:
            rows = encode_rows(unresolved)
            inserted = await connection_of(tx).execute(
                _RESERVE[connection_of(tx).dialect.name], {"rows": rows, "now": now}
            )
            reserved.update((row.caller, row.key) for row in inserted)
            if len(reserved) < len(digests):
                for row in await connection_of(tx).execute(_SELECT_STORED, {"rows": rows}):
                    stored[row.caller, row.key] = StoredResponse(row.request_digest, row.status, row.body)
        results = []
        for request in requests:
            key = (request.caller, request.key)
            results.append(None if key in reserved else stored.get(key, StoredResponse(digests[key], None, b"")))
            # a later request of the group with the same key is a repeat
            reserved.discard(key)
        return results

    async def complete(self, tx: Transaction, *, caller: str, key: str, status: int, body: bytes) -> None:
        await self.complete_many(tx, [(IdempotentRequest(caller, key, ""), status, body)])

    async def complete_many(self, tx: Transaction, responses: Sequence[tuple[IdempotentRequest, int, bytes]]) -> None:
        if responses:
            rows = [
                {"of_caller": request.caller, "of_key": request.key, "new_status": status, "new_body": body}
                for request, status, body in responses
            ]
            await connection_of(tx).execute(_COMPLETE, rows)

    async def purge(self, tx: Transaction, before: datetime) -> int:
        return (await connection_of(tx).execute(delete(idempotency_keys).where(_k.created_at < before))).rowcount
