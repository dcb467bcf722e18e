"""Databases of a million rows, and the query plans of the statements that the store executes."""

import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from tests.support.bulk_rows import NOW, WEEKS, PostgresDialect, SqliteDialect, bulk_insert_statements

from tidings.packs import core, events
from tidings.ports.store import Transaction
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.postgres import create_engines as postgres_engines
from tidings.stores.engine.sqlite import create_engines
from tidings.stores.schema import migrate
from tidings.stores.schema.tables import metadata
from tidings.stores.store import SqlStore
from tidings.testing.postgres import PostgresServer

KINDS = {kind.name: kind for pack in (core.pack, events.pack) for kind in pack.audiences}
PARTITION = re.compile(r"_(\d{4}_w\d\d|default)$")
#: tables that grow with users and messages: a full scan of one is a defect
GROWING = (
    "users",
    "contact_points",
    "tickets",
    "favourites",
    "preferences",
    "notifications",
    "deliveries",
    "attempts",
    "skips",
    "outbox",
    "idempotency_keys",
    "events",
    "user_limits",
    "inbox_items",
    "inbox_counters",
    "user_topics",
    "receipts",
)


@dataclass
class Statement:
    """A statement that the store executed, with the steps of its query plan."""

    sql: str
    steps: Sequence[str]

    @property
    def scans(self) -> list[str]:
        """The full scans of growing tables."""
        return [step for step in self.steps if step.startswith("SCAN") and step.split()[1] in GROWING]

    @property
    def sorts(self) -> list[str]:
        return [step for step in self.steps if "TEMP B-TREE" in step]


@dataclass
class FilledStore:
    """A store filled with a million rows. `explain_work` returns the query plans of the statements of some work."""

    store: SqlStore
    writer: AsyncEngine
    #: (connection, SQL, parameters) → steps of the query plan
    explain: Callable[[AsyncConnection, str, Any], Awaitable[Sequence[str]]]
    #: the SQLite database file
    path: Path | None = None
    executed: list[tuple[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        def record(_connection: Any, _cursor: Any, sql: str, parameters: Any, _context: Any, many: bool) -> None:
            if not sql.startswith("BEGIN"):
                self.executed.append((sql, parameters[0] if many else parameters))

        event.listen(self.writer.sync_engine, "before_cursor_execute", record)

    async def explain_work(self, work: Callable[[SqlStore, Transaction], Awaitable[object]]) -> list[Statement]:
        """Run work in a transaction that is rolled back, and return its statements with their plans."""
        async with self.writer.connect() as connection:
            await connection.begin()
            tx = await self.store.adopt(connection)
            self.executed.clear()
            await work(self.store, tx)
            executed = list(self.executed)
            statements = [Statement(sql, await self.explain(connection, sql, values)) for sql, values in executed]
            await connection.rollback()
        return statements


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def million(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FilledStore]:
    path = tmp_path_factory.mktemp("million") / "tidings.db"
    writer, reader = create_engines(path)
    store = SqlStore(writer, reader, FieldCipher("a secret for the tests"), KINDS)
    await store.upgrade()
    _fill(path)

    async def explain(connection: AsyncConnection, sql: str, parameters: Any) -> Sequence[str]:
        result = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters)
        return [row["detail"] for row in result.mappings()]

    yield FilledStore(store, writer, explain, path)
    await store.close()


def _fill(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("BEGIN")
        # creating the indexes after the rows takes a third of the time
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        indexes = connection.execute(query).fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        for statement in bulk_insert_statements(SqliteDialect, 300_000):
            connection.execute(statement)
        for _, sql in indexes:
            connection.execute(sql)
        connection.execute("COMMIT")


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=[300_000, pytest.param(1_000_000, marks=pytest.mark.extended)]
)
async def million_in_weeks(postgres: PostgresServer, request: pytest.FixtureRequest) -> AsyncIterator[FilledStore]:
    """A filled PostgreSQL store. A million deliveries fill the partitions of all twelve weeks."""
    url = postgres.create_database()
    # the usual setting for SSDs
    writer, reader = postgres_engines(f"{url}?random_page_cost=1.1", pool_size=2)
    store = SqlStore(writer, reader, FieldCipher("a secret for the tests"), KINDS)
    async with writer.connect() as connection:
        for week in range(WEEKS + 1):
            await connection.run_sync(migrate.upgrade, NOW - timedelta(weeks=WEEKS - week))
        await connection.run_sync(_fill_weeks, request.param)
        roots = {row["part"]: row["whole"] for row in (await connection.exec_driver_sql(_ROOTS)).mappings()}
        sizes = {row["relname"]: row["relpages"] for row in (await connection.exec_driver_sql(_SIZES)).mappings()}

    async def explain(connection: AsyncConnection, sql: str, parameters: Any) -> Sequence[str]:
        custom = await connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {sql}", parameters)
        generic = await connection.exec_driver_sql("SELECT generic_plan($1)", (sql,))
        plans = [result.scalar_one()[0]["Plan"] for result in (custom, generic)]
        if plans[1]["Total Cost"] > plans[0]["Total Cost"] + _PLANNING_COST:
            del plans[1]
        return [_step(node, roots) for plan in plans for node in _nodes(plan, sizes)]

    yield FilledStore(store, writer, explain)
    await store.close()
    postgres.drop_database(url)


#: PostgreSQL's allowance for planning; it rejects a generic plan that costs more than the custom one plus this
_PLANNING_COST = 100
#: EXPLAIN (GENERIC_PLAN) only works without bound parameters (PostgreSQL 16 and newer)
_GENERIC_PLAN = """CREATE FUNCTION generic_plan(statement text) RETURNS json LANGUAGE plpgsql AS $$
DECLARE plan json;
BEGIN
    EXECUTE 'EXPLAIN (GENERIC_PLAN, FORMAT JSON) ' || statement INTO plan;
    RETURN plan;
END $$"""
#: index of a partition → index of the whole table
_ROOTS = """SELECT child.relname AS part, parent.relname AS whole
    FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
    JOIN pg_class AS parent ON parent.oid = inhparent WHERE child.relkind = 'i'"""
#: sizes of tables and partitions, in pages
_SIZES = "SELECT relname, relpages FROM pg_class WHERE relkind = 'r'"
#: for a table of fewer pages a full scan is cheaper than an index scan
_SMALL_TABLE_PAGES = 20


def _fill_weeks(connection: Connection, deliveries: int) -> None:
    # the replica role skips foreign key checks; indexes are created after the rows, as on SQLite
    connection.exec_driver_sql("SET session_replication_role = replica")
    connection.exec_driver_sql("SET statement_timeout = 0")
    indexes = [index for table in metadata.sorted_tables for index in table.indexes if index._ddl_if is None]
    for index in indexes:
        index.drop(connection)
    for statement in bulk_insert_statements(PostgresDialect, deliveries):
        connection.exec_driver_sql(statement)
    for index in indexes:
        index.create(connection)
    connection.commit()
    connection.exec_driver_sql("ANALYZE")
    connection.exec_driver_sql(_GENERIC_PLAN)
    connection.exec_driver_sql("RESET session_replication_role")
    connection.exec_driver_sql("RESET statement_timeout")
    connection.commit()


def _nodes(node: dict[str, Any], sizes: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Return the nodes of a plan, except those over small tables."""
    if sizes.get(node.get("Relation Name", ""), _SMALL_TABLE_PAGES) >= _SMALL_TABLE_PAGES:
        yield node
    for part in node.get("Plans", ()):
        yield from _nodes(part, sizes)


def _step(node: dict[str, Any], roots: Mapping[str, str]) -> str:
    """Return a plan node in SQLite's notation."""
    kind, table = node["Node Type"], PARTITION.sub("", node.get("Relation Name", ""))
    if kind == "Seq Scan":
        return f"SCAN {table}"
    if "Index Name" in node:
        index = roots.get(node["Index Name"], node["Index Name"])
        access = "SEARCH" if "Index Cond" in node else "SCAN"
        return f"{access} {table or index} USING INDEX {index} {node.get('Index Cond', '')}"
    return f"{kind} {table}".strip()
