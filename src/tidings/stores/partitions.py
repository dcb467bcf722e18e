"""The weeks of the ledger: on PostgreSQL deliveries, skips and attempts are kept in one partition per week.

Ids are UUIDv7: their first 48 bits are milliseconds since 1970 (RFC 9562 §5.7), so a range of ids is a range of time.
Deliveries and skips lie in the week of their notification, attempts in the week of their delivery. What belongs to a
week that has no partition lies in the default one until the week is made.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Self

from sqlalchemy import TextClause, text

from tidings.stores.connection import SqlConnection
from tidings.stores.id_times import earliest_id

#: table → the id it is partitioned by
KEYS = {"deliveries": "notification_id", "skips": "notification_id", "attempts": "delivery_id"}
#: What ANALYZE stores of `notification_id` instead of what it counts (PostgreSQL manual, ALTER TABLE): distinct values
#: as a fraction of all rows, negated; so a hundred deliveries for each notification. Where it has counted one, the
#: planner takes the index of recipients to be as good as the key, which reads a broadcast once for each of its rows
#: (decision 13).
_TOLD = "n_distinct=-0.01"
_UNTOLD = text(
    "SELECT CAST(CAST(inhrelid AS regclass) AS text) FROM pg_inherits JOIN pg_attribute ON attrelid = inhrelid "
    "WHERE inhparent = to_regclass('deliveries') AND attname = 'notification_id' "
    "AND (CAST(:told AS text) = ANY(attoptions)) IS NOT TRUE ORDER BY 1"
).bindparams(told=_TOLD)
#: whether a table was counted while it had rows; nothing for one that is not there
_COUNTED = text("SELECT reltuples > 0 FROM pg_class WHERE oid = to_regclass(:name)")
#: weeks made before they come; a worker makes more every hour, and each start of a process does
WEEKS_AHEAD = 4
#: how long a statement that stops all others may wait for its turn
LOCK_TIMEOUT = text("SET LOCAL lock_timeout = '1s'")
#: one maker at a time: the second then finds that there is nothing left to make
_ONE_AT_A_TIME = text(f"SELECT pg_advisory_xact_lock({int.from_bytes(b'weeks')})")
_PARTITIONS = text(
    "SELECT CAST(relname AS text) FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid "
    "WHERE inhparent = to_regclass(:table)"
)
_NAME = re.compile(r"_(\d{4})_w(\d{2})$")


@dataclass(frozen=True, slots=True, order=True)
class Week:
    """A week by ISO 8601: from Monday 00:00 UTC."""

    monday: date

    @classmethod
    def of(cls, instant: datetime) -> Self:
        """Return the week of an instant."""
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
        """What sorts before the ids of the week and after those made earlier."""
        return earliest_id(self.start)

    def of_table(self, table: str) -> str:
        """Return the name of a table's partition: `deliveries_2026_w47`."""
        year, number, _ = self.monday.isocalendar()
        return f"{table}_{year}_w{number:02}"


async def weeks(connection: SqlConnection, table: str) -> Sequence[Week]:
    """Return the weeks that a table has partitions for, oldest first."""
    names = await connection.scalars(_PARTITIONS.bindparams(table=table))
    found = [match for name in names if (match := _NAME.search(name))]
    return sorted(Week(date.fromisocalendar(int(match[1]), int(match[2]), 1)) for match in found)


async def missing(connection: SqlConnection, now: datetime) -> Sequence[tuple[str, Week]]:
    """Return (table, week) of the partitions that should be there and are not: this week's and the next few."""
    wanted = [Week.of(now)]
    for _ in range(WEEKS_AHEAD):
        wanted.append(wanted[-1].next)
    made = {table: set(await weeks(connection, table)) for table in KEYS}
    return [(table, week) for table in KEYS for week in wanted if week not in made[table]]


async def make(connection: SqlConnection, table: str, week: Week) -> None:
    """Make a week's partition, with the rows of that week that are in the default one.

    For a transaction of its own: it stops everybody who uses the table until it ends, and would wait for who waits for
    another table. Raises the database's "lock not available" when the table was not free within a second.
    """
    await connection.execute(LOCK_TIMEOUT)
    await connection.execute(_ONE_AT_A_TIME)
    if week in await weeks(connection, table):
        return
    name, rest, key = week.of_table(table), f"{table}_default", KEYS[table]
    since, until = week.first_id, week.next.first_id
    await connection.execute(text(f"CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS INCLUDING STORAGE)"))
    if table == "deliveries":
        await connection.execute(_telling(name))
    await connection.execute(text(f"LOCK TABLE ONLY {rest} IN ACCESS EXCLUSIVE MODE"))
    await connection.execute(
        text(
            # (names and ids are our own)
            f"WITH moved AS (DELETE FROM {rest} WHERE {key} >= '{since}' AND {key} < '{until}' RETURNING *) "  # noqa: S608
            f"INSERT INTO {name} SELECT * FROM moved"
        )
    )
    await connection.execute(
        text(f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{since}') TO ('{until}')")
    )


async def untold(connection: SqlConnection) -> Sequence[str]:
    """Return the partitions whose planner was not told how many deliveries a notification has, quoted where need be.

    That is the default one at first, and each week made by a process of an older version.
    """
    return (await connection.scalars(_UNTOLD)).all()


async def tell(connection: SqlConnection, partition: str) -> None:
    """Tell the planner of one of the `untold`, and have it counted again if it was counted before.

    For a transaction of its own. No reader or writer waits for it. Raises as `make`.
    """
    await connection.execute(LOCK_TIMEOUT)
    counted = await connection.scalar(_COUNTED.bindparams(name=partition))
    if counted is None:
        # dropped meanwhile
        return
    await connection.execute(_telling(partition))
    if counted:
        await connection.execute(text(f"ANALYZE {partition} (notification_id)"))


def _telling(partition: str) -> TextClause:
    return text(f"ALTER TABLE {partition} ALTER COLUMN notification_id SET ({_TOLD})")
