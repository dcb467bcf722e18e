"""Limits per user: when each of them was last notified, counted and pruned in one statement for a whole page (M18)."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import msgspec
from sqlalchemy import BigInteger, Integer, String, Text, TextClause, bindparam, delete, text

from tidings.ports.store import Transaction
from tidings.stores.connection import of
from tidings.stores.schema import Instant, user_limits

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

# Both statements do the same. What was counted is kept in order, and nothing is counted before it: another process's
# clock may be a little behind ours. What lies more than a window ahead was counted by a clock that was wrong, and is
# forgotten.

# The transaction is the only one that writes, so it may look first and write then. For 1 000 users with 15 stamps each
# this takes 8 ms; pruning inside the upsert, as below, 15.
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

# A user's row is locked by the upsert: whoever counts at the same time waits, and then sees what was counted. Rows are
# taken in user order, so two pages never wait for each other in a circle.
# The key share lock waits for an erasure that is under way; without it the foreign key would fail the whole page.
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


def _statement(words: str) -> TextClause:
    return text(words).bindparams(
        bindparam("scope", type_=String),
        bindparam("users", type_=Text),
        bindparam("now", type_=Instant),
        bindparam("limit", type_=Integer),
        *(bindparam(name, type_=BigInteger) for name in ("stamp", "since", "until")),
    )


TAKE = {"sqlite": _statement(_SQLITE), "postgresql": _statement(_POSTGRESQL)}


class SqlUserLimits:
    """Implements `ports.operations.UserLimits`. Users who do not exist are not counted, and not returned."""

    async def take(
        self, tx: Transaction, scope: str, user_ids: Collection[str], *, limit: int, window: timedelta, now: datetime
    ) -> set[str]:
        if not user_ids or limit < 1:
            return set()
        before, length = (now - _EPOCH) // _MILLISECOND, window // _MILLISECOND
        # rounded away from each other: less than a whole window must never look like one
        after = -((_EPOCH - now) // _MILLISECOND)
        counted = await of(tx).execute(
            TAKE[of(tx).dialect.name],
            {
                "scope": scope,
                "users": msgspec.json.encode(list(user_ids)).decode(),
                "now": now,
                "limit": limit,
                "stamp": after,
                "since": before - length,
                "until": after + length,
            },
        )
        return set(counted.scalars())

    async def purge(self, tx: Transaction, before: datetime) -> int:
        return (await of(tx).execute(delete(user_limits).where(user_limits.c.last_at < before))).rowcount
