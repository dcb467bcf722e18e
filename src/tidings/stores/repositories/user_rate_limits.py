"""Rate limits per user in a sliding window, counted and pruned in one statement for a whole page of users."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from sqlalchemy import BigInteger, Integer, String, Text, TextClause, bindparam, delete, select, text

from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.tables import Instant, user_limits
from tidings.stores.sql.json_params import text_array

_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_HOUR = timedelta(hours=1)
_l = user_limits.c

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
INSERT INTO user_limits (user_id, scope, stamps, last_at, expires_at)
SELECT user_id, :scope, json_insert(stamps, '$[#]', max(:stamp, coalesce(json_extract(stamps, '$[#-1]'), 0))), :now,
    :expires
FROM counted WHERE json_array_length(stamps) < :limit
ON CONFLICT (user_id, scope) DO UPDATE SET
    stamps = excluded.stamps, last_at = excluded.last_at, expires_at = excluded.expires_at
RETURNING user_id
"""
# The same without a limit. Only as many stamps as the limit are kept, the newest: the others cannot change a decision.
_SQLITE_ALWAYS = """
WITH counted AS MATERIALIZED (
    SELECT users.id AS user_id, (
        SELECT json_group_array(value) FROM (
            SELECT value FROM (
                SELECT value FROM json_each(known.stamps) WHERE value > :since AND value <= :until
                ORDER BY value DESC LIMIT :limit - 1
            ) ORDER BY value
        )
    ) AS stamps
    FROM users LEFT JOIN user_limits AS known ON known.user_id = users.id AND known.scope = :scope
    WHERE users.id IN (SELECT value FROM json_each(:users))
)
INSERT INTO user_limits (user_id, scope, stamps, last_at, expires_at)
SELECT user_id, :scope, json_insert(stamps, '$[#]', max(:stamp, coalesce(json_extract(stamps, '$[#-1]'), 0))), :now,
    :expires
FROM counted WHERE true
ON CONFLICT (user_id, scope) DO UPDATE SET
    stamps = excluded.stamps, last_at = excluded.last_at, expires_at = excluded.expires_at
RETURNING user_id
"""

# The upsert locks the row of a user: a concurrent transaction waits and then sees the new count. Rows are locked in
# user order, so two pages cannot deadlock. The key share lock waits for an erasure in progress; without it, the foreign
# key would fail the whole page.
_POSTGRESQL = """
INSERT INTO user_limits AS known (user_id, scope, stamps, last_at, expires_at)
SELECT id, :scope, ARRAY[:stamp], :now, :expires
FROM (
    SELECT id FROM users WHERE id IN (SELECT jsonb_array_elements_text(CAST(:users AS jsonb)))
    ORDER BY id FOR KEY SHARE
) AS there
ON CONFLICT (user_id, scope) DO UPDATE SET
    stamps = ARRAY(SELECT one FROM unnest(known.stamps) AS one WHERE one > :since AND one <= :until)
        || greatest(:stamp, (SELECT max(one) FROM unnest(known.stamps) AS one WHERE one <= :until)),
    last_at = excluded.last_at, expires_at = excluded.expires_at
WHERE cardinality(known.stamps) < :limit
    OR (SELECT count(*) FROM unnest(known.stamps) AS one WHERE one > :since AND one <= :until) < :limit
RETURNING user_id
"""
_POSTGRESQL_ALWAYS = """
INSERT INTO user_limits AS known (user_id, scope, stamps, last_at, expires_at)
SELECT id, :scope, ARRAY[:stamp], :now, :expires
FROM (
    SELECT id FROM users WHERE id IN (SELECT jsonb_array_elements_text(CAST(:users AS jsonb)))
    ORDER BY id FOR KEY SHARE
) AS there
ON CONFLICT (user_id, scope) DO UPDATE SET
    stamps = ARRAY(
        SELECT one FROM (
            SELECT one FROM unnest(known.stamps) AS one WHERE one > :since AND one <= :until
            ORDER BY one DESC LIMIT :limit - 1
        ) AS newest ORDER BY one
    ) || greatest(:stamp, (SELECT max(one) FROM unnest(known.stamps) AS one WHERE one <= :until)),
    last_at = excluded.last_at, expires_at = excluded.expires_at
RETURNING user_id
"""

_SQLITE_RELEASE = """
UPDATE user_limits SET stamps = json_remove(stamps, '$[#-1]')
WHERE scope = :scope AND user_id IN (SELECT value FROM json_each(:users)) AND json_array_length(stamps) > 0
"""
_POSTGRESQL_RELEASE = """
UPDATE user_limits SET stamps = trim_array(stamps, 1)
WHERE cardinality(stamps) > 0 AND scope = :scope
    AND user_id IN (SELECT jsonb_array_elements_text(CAST(:users AS jsonb)))
"""


def _build_statement(sql: str) -> TextClause:
    return text(sql).bindparams(
        bindparam("scope", type_=String),
        bindparam("users", type_=Text),
        bindparam("now", type_=Instant),
        bindparam("expires", type_=Instant),
        bindparam("limit", type_=Integer),
        *(bindparam(name, type_=BigInteger) for name in ("stamp", "since", "until")),
    )


CONSUME_STATEMENTS = {"sqlite": _build_statement(_SQLITE), "postgresql": _build_statement(_POSTGRESQL)}
COUNT_STATEMENTS = {"sqlite": _build_statement(_SQLITE_ALWAYS), "postgresql": _build_statement(_POSTGRESQL_ALWAYS)}
RELEASE_STATEMENTS = {
    dialect: text(sql).bindparams(bindparam("scope", type_=String), bindparam("users", type_=Text))
    for dialect, sql in (("sqlite", _SQLITE_RELEASE), ("postgresql", _POSTGRESQL_RELEASE))
}


class SqlUserRateLimits:
    """Implements `ports.operations.UserLimits`. Unknown users are neither counted nor returned."""

    async def consume(
        self,
        tx: Transaction,
        scope: str,
        user_ids: Collection[str],
        *,
        limit: int,
        window: timedelta,
        now: datetime,
        is_enforced: bool = True,
    ) -> set[str]:
        if not user_ids or limit < 1:
            return set()
        statements = CONSUME_STATEMENTS if is_enforced else COUNT_STATEMENTS
        since, stamp, until = _bounds(window, now)
        permitted = await connection_of(tx).execute(
            statements[connection_of(tx).dialect.name],
            {
                "scope": scope,
                "users": msgspec.json.encode(list(user_ids)).decode(),
                "now": now,
                "expires": now + window,
                "limit": limit,
                "stamp": stamp,
                "since": since,
                "until": until,
            },
        )
        return set(permitted.scalars())

    async def release(self, tx: Transaction, scope: str, user_ids: Collection[str]) -> None:
        if user_ids:
            await connection_of(tx).execute(
                RELEASE_STATEMENTS[connection_of(tx).dialect.name],
                {"scope": scope, "users": msgspec.json.encode(list(user_ids)).decode()},
            )

    async def list_times(
        self, tx: Transaction, scope: str, user_ids: Collection[str], *, window: timedelta, now: datetime
    ) -> Mapping[str, Sequence[datetime]]:
        since, _, until = _bounds(window, now)
        query = select(_l.user_id, _l.stamps).where(_l.user_id.in_(text_array(user_ids)), _l.scope == scope)
        return {
            row.user_id: [_UNIX_EPOCH + stamp * _MILLISECOND for stamp in sorted(row.stamps) if since < stamp <= until]
            for row in await connection_of(tx).execute(query)
        }

    async def purge(self, tx: Transaction, now: datetime) -> int:
        # rows of an older version have no expiry, and windows of an hour
        is_over = _l.expires_at.is_(None) | (_l.expires_at <= now)
        outdated = delete(user_limits).where(_l.last_at <= now - _HOUR, is_over)
        return (await connection_of(tx).execute(outdated)).rowcount


def _bounds(window: timedelta, now: datetime) -> tuple[int, int, int]:
    """Return start, present and end of the window in milliseconds since 1970."""
    # rounded in opposite directions: less than a whole window must never count as one
    now_floor = (now - _UNIX_EPOCH) // _MILLISECOND
    now_ceiling = -((_UNIX_EPOCH - now) // _MILLISECOND)
    window_length = window // _MILLISECOND
    return now_floor - window_length, now_ceiling, now_ceiling + window_length
