"""Rate limits per user in a sliding window, counted and pruned in one statement for a whole page of users."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import msgspec
from sqlalchemy import BigInteger, Integer, String, Text, TextClause, bindparam, delete, text

from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.tables import Instant, user_limits

_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

# Both statements do the same. Timestamps stay in ascending order: a new one is not earlier than the last, because the
# clock of another process may be slightly ahead. Timestamps more than a window in the future come from a wrong clock
# and are removed.

# SQLite has one writer, so the statement may read first and write later. For 1 000 users with 15 timestamps each this
# takes 8 ms; pruning inside the upsert, as below, takes 15 ms.
_SQLITE = """
WITH counted AS MATERIALIZED (
    SELECT users.id AS user_id, (
        SELECT json_group_array(value) FROM json_each(known.stamps) WHERE value > :since AND value <= :until
    ) AS stamps
    FROM users LEFT JOIN user_limits AS known ON known.user_id = users.id AND known.scope = :scope
    WHERE users.id IN (SELECT value FROM json_each(:users))
)
INSERT INTO user_limits (user_id, scope, stamps, last_at)
SELECT user_id, :scope, json_insert(stamps, '$[#]', max(:stamp, coalesce(json_extract(stamps, '$[#-1]'), 0))), :now
FROM counted WHERE json_array_length(stamps) < :limit
ON CONFLICT (user_id, scope) DO UPDATE SET stamps = excluded.stamps, last_at = excluded.last_at
RETURNING user_id
"""

# The upsert locks the row of a user: a concurrent transaction waits and then sees the new count. Rows are locked in
# user order, so two pages cannot deadlock. The key share lock waits for an erasure in progress; without it, the foreign
# key would fail the whole page.
_POSTGRESQL = """
INSERT INTO user_limits AS known (user_id, scope, stamps, last_at)
SELECT id, :scope, ARRAY[:stamp], :now
FROM (
    SELECT id FROM users WHERE id IN (SELECT jsonb_array_elements_text(CAST(:users AS jsonb)))
    ORDER BY id FOR KEY SHARE
) AS there
ON CONFLICT (user_id, scope) DO UPDATE SET
    stamps = ARRAY(SELECT one FROM unnest(known.stamps) AS one WHERE one > :since AND one <= :until)
        || greatest(:stamp, (SELECT max(one) FROM unnest(known.stamps) AS one WHERE one <= :until)),
    last_at = excluded.last_at
WHERE cardinality(known.stamps) < :limit
    OR (SELECT count(*) FROM unnest(known.stamps) AS one WHERE one > :since AND one <= :until) < :limit
RETURNING user_id
"""


def _build_statement(sql: str) -> TextClause:
    return text(sql).bindparams(
        bindparam("scope", type_=String),
        bindparam("users", type_=Text),
        bindparam("now", type_=Instant),
        bindparam("limit", type_=Integer),
        *(bindparam(name, type_=BigInteger) for name in ("stamp", "since", "until")),
    )


CONSUME_STATEMENTS = {"sqlite": _build_statement(_SQLITE), "postgresql": _build_statement(_POSTGRESQL)}


class SqlUserRateLimits:
    """Implements `ports.operations.UserLimits`. Unknown users are neither counted nor returned."""

    async def consume(
        self, tx: Transaction, scope: str, user_ids: Collection[str], *, limit: int, window: timedelta, now: datetime
    ) -> set[str]:
        if not user_ids or limit < 1:
            return set()
        # rounded in opposite directions: less than a whole window must never count as one
        now_floor = (now - _UNIX_EPOCH) // _MILLISECOND
        now_ceiling = -((_UNIX_EPOCH - now) // _MILLISECOND)
        window_length = window // _MILLISECOND
        permitted = await connection_of(tx).execute(
            CONSUME_STATEMENTS[connection_of(tx).dialect.name],
            {
                "scope": scope,
                "users": msgspec.json.encode(list(user_ids)).decode(),
                "now": now,
                "limit": limit,
                "stamp": now_ceiling,
                "since": now_floor - window_length,
                "until": now_ceiling + window_length,
            },
        )
        return set(permitted.scalars())

    async def purge(self, tx: Transaction, before: datetime) -> int:
        return (await connection_of(tx).execute(delete(user_limits).where(user_limits.c.last_at < before))).rowcount
