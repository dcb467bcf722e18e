"""Weekly partitions of deliveries, skips and attempts on PostgreSQL.

Ids are UUIDv7: their first 48 bits are milliseconds since 1970 (RFC 9562 §5.7), so a range of ids is a range of time.
Deliveries and skips are stored in the week of their notification, attempts in the week of their delivery. Rows of a
week without a partition are stored in the default partition until that of the week is created.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Self

from sqlalchemy import TextClause, text

from tidings.stores.engine.transaction import SqlConnection
from tidings.stores.sql.ids import min_uuid_at

#: table → the id by which it is partitioned
PARTITION_KEYS = {"deliveries": "notification_id", "skips": "notification_id", "attempts": "delivery_id"}
#: Overrides the number of distinct values of `notification_id` that ANALYZE estimates (PostgreSQL manual, ALTER TABLE):
#: a negated fraction of the rows, here 100 deliveries per notification. With an estimate of one, the planner considers
#: the index of recipients as good as the key, and reads a broadcast once for each of its rows (decision 13).
_NDISTINCT = "n_distinct=-0.01"
_WITHOUT_NDISTINCT = text(
    "SELECT CAST(CAST(inhrelid AS regclass) AS text) FROM pg_inherits JOIN pg_attribute ON attrelid = inhrelid "
    "WHERE inhparent = to_regclass('deliveries') AND attname = 'notification_id' "
    "AND (CAST(:option AS text) = ANY(attoptions)) IS NOT TRUE ORDER BY 1"
).bindparams(option=_NDISTINCT)
#: true if a table was analysed while it had rows; no row if the table does not exist
_HAS_STATISTICS = text("SELECT reltuples > 0 FROM pg_class WHERE oid = to_regclass(:name)")
#: number of coming weeks with a partition. Hourly maintenance and the start of each process create missing ones.
WEEKS_AHEAD = 4
#: limits the wait for a lock that blocks all other users of a table
SET_LOCK_TIMEOUT = text("SET LOCAL lock_timeout = '1s'")
#: serialises the creation of partitions; a second process finds that nothing is missing
_TAKE_CREATION_LOCK = text(f"SELECT pg_advisory_xact_lock({int.from_bytes(b'weeks')})")
_LIST_PARTITIONS = text(
    "SELECT CAST(relname AS text) FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid "
    "WHERE inhparent = to_regclass(:table)"
)
_NAME_PATTERN = re.compile(r"_(\d{4})_w(\d{2})$")


@dataclass(frozen=True, slots=True, order=True)
class Week:
    """A week as in ISO 8601, from Monday 00:00 UTC."""

    monday: date

    @classmethod
    def from_instant(cls, instant: datetime) -> Self:
        """Return the week that contains an instant."""
        day = instant.astimezone(UTC).date()
        return cls(day - timedelta(days=day.weekday()))

    @property
    def start(self) -> datetime:
        return datetime.combine(self.monday, time(), UTC)

    @property
    def next(self) -> "Week":
        return Week(self.monday + timedelta(days=7))

    @property
    def first_id(self) -> str:
        """The lower bound of the ids generated in this week."""
        return min_uuid_at(self.start)

    def partition_name(self, table: str) -> str:
        """Return the name of a table's partition: `deliveries_2026_w47`."""
        year, number, _ = self.monday.isocalendar()
        return f"{table}_{year}_w{number:02}"


async def list_weeks(connection: SqlConnection, table: str) -> Sequence[Week]:
    """Return the weeks for which a table has a partition, oldest first."""
    names = await connection.scalars(_LIST_PARTITIONS.bindparams(table=table))
    matches = [match for name in names if (match := _NAME_PATTERN.search(name))]
    return sorted(Week(date.fromisocalendar(int(match[1]), int(match[2]), 1)) for match in matches)


async def list_missing(connection: SqlConnection, now: datetime) -> Sequence[tuple[str, Week]]:
    """Return (table, week) of the missing partitions of this week and the next `WEEKS_AHEAD` ones."""
    required = [Week.from_instant(now)]
    for _ in range(WEEKS_AHEAD):
        required.append(required[-1].next)
    existing = {table: set(await list_weeks(connection, table)) for table in PARTITION_KEYS}
    return [(table, week) for table in PARTITION_KEYS for week in required if week not in existing[table]]


async def create(connection: SqlConnection, table: str, week: Week) -> None:
    """Create the partition of a week and move the rows of that week from the default partition into it.

    Must run in its own transaction: it blocks all users of the table until that ends, and could deadlock with locks on
    other tables. Raises "lock not available" (SQLSTATE 55P03) if the table is not free within a second.
    """
    await connection.execute(SET_LOCK_TIMEOUT)
    await connection.execute(_TAKE_CREATION_LOCK)
    if week in await list_weeks(connection, table):
        return
    name, default, key = week.partition_name(table), f"{table}_default", PARTITION_KEYS[table]
    first, end = week.first_id, week.next.first_id
    await connection.execute(text(f"CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS INCLUDING STORAGE)"))
    if table == "deliveries":
        await connection.execute(_set_ndistinct_statement(name))
    await connection.execute(text(f"LOCK TABLE ONLY {default} IN ACCESS EXCLUSIVE MODE"))
    await connection.execute(
        text(
            # names and ids are generated above
            f"WITH moved AS (DELETE FROM {default} WHERE {key} >= '{first}' AND {key} < '{end}' RETURNING *) "  # noqa: S608
            f"INSERT INTO {name} SELECT * FROM moved"
        )
    )
    await connection.execute(
        text(f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{first}') TO ('{end}')")
    )


async def list_without_ndistinct(connection: SqlConnection) -> Sequence[str]:
    """Return the partitions of deliveries without the `n_distinct` option on `notification_id`, as quoted identifiers.

    These are a new default partition and the weeks created by a process of an older version.
    """
    return (await connection.scalars(_WITHOUT_NDISTINCT)).all()


async def set_ndistinct(connection: SqlConnection, partition: str) -> None:
    """Set the `n_distinct` option of a partition of `list_without_ndistinct`, and analyse it again if it was analysed.

    Must run in its own transaction. Does not block readers or writers. Raises as `create` does.
    """
    await connection.execute(SET_LOCK_TIMEOUT)
    was_analysed = await connection.scalar(_HAS_STATISTICS.bindparams(name=partition))
    if was_analysed is None:
        # the partition was dropped in the meantime
        return
    await connection.execute(_set_ndistinct_statement(partition))
    if was_analysed:
        await connection.execute(text(f"ANALYZE {partition} (notification_id)"))


def _set_ndistinct_statement(partition: str) -> TextClause:
    return text(f"ALTER TABLE {partition} ALTER COLUMN notification_id SET ({_NDISTINCT})")
