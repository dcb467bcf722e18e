"""Databases of a million rows, and the plans they make for what the store really executes."""

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

from tidings.packs import core, events
from tidings.ports.store import Transaction
from tidings.stores import migrate
from tidings.stores.postgres import engines as postgres_engines
from tidings.stores.schema import metadata
from tidings.stores.sealing import Sealer
from tidings.stores.sqlite import engines
from tidings.stores.store import SqlStore
from tidings.testing.million import NOW, WEEKS, Postgresql, Sqlite, rows
from tidings.testing.postgres import PostgresServer

KINDS = {kind.name: kind for pack in (core.pack, events.pack) for kind in pack.audiences}
PARTITION = re.compile(r"_(\d{4}_w\d\d|default)$")
#: tables that grow with users and messages: reading one from end to end is a defect
GROWING = (
    "users",
    "push_subscriptions",
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
)


@dataclass
class Statement:
    """One statement that the store executed, with the steps that the database takes for it."""

    sql: str
    steps: Sequence[str]

    @property
    def scans(self) -> list[str]:
        """The steps that read a growing table from end to end."""
        return [step for step in self.steps if step.startswith("SCAN") and step.split()[1] in GROWING]

    @property
    def sorts(self) -> list[str]:
        return [step for step in self.steps if "TEMP B-TREE" in step]


@dataclass
class Million:
    """The filled store. `explained` runs work in a transaction that is rolled back, and returns the plans."""

    store: SqlStore
    writer: AsyncEngine
    #: what the database says of a statement: SQL, parameters → steps
    explain: Callable[[AsyncConnection, str, Any], Awaitable[Sequence[str]]]
    #: file of the SQLite database
    path: Path | None = None
    executed: list[tuple[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        def note(_connection: Any, _cursor: Any, sql: str, parameters: Any, _context: Any, many: bool) -> None:
            if not sql.startswith("BEGIN"):
                self.executed.append((sql, parameters[0] if many else parameters))

        event.listen(self.writer.sync_engine, "before_cursor_execute", note)

    async def explained(self, work: Callable[[SqlStore, Transaction], Awaitable[object]]) -> list[Statement]:
        async with self.writer.connect() as caller:
            await caller.begin()
            tx = await self.store.join(caller)
            self.executed.clear()
            await work(self.store, tx)
            executed = list(self.executed)
            statements = [Statement(sql, await self.explain(caller, sql, values)) for sql, values in executed]
            await caller.rollback()
        return statements


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def million(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Million]:
    path = tmp_path_factory.mktemp("million") / "tidings.db"
    writer, reader = engines(path)
    store = SqlStore(writer, reader, Sealer("a secret for the tests"), KINDS)
    await store.upgrade()
    _fill(path)

    async def explain(connection: AsyncConnection, sql: str, parameters: Any) -> Sequence[str]:
        found = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters)
        return [row["detail"] for row in found.mappings()]

    yield Million(store, writer, explain, path)
    await store.close()


def _fill(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("BEGIN")
        # indexes made over rows that are there take a third of the time
        indexes = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
        made = indexes.fetchall()
        for name, _ in made:
            connection.execute(f"DROP INDEX {name}")
        for statement in rows(Sqlite, 300_000):
            connection.execute(statement)
        for _, sql in made:
            connection.execute(sql)
        connection.execute("COMMIT")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def million_in_weeks(postgres: PostgresServer) -> AsyncIterator[Million]:
    """The same on PostgreSQL, with a million deliveries in the partitions of twelve weeks."""
    url = postgres.fresh()
    # as a server on anything but spinning disks is set
    writer, reader = postgres_engines(f"{url}?random_page_cost=1.1", pool_size=2)
    store = SqlStore(writer, reader, Sealer("a secret for the tests"), KINDS)
    async with writer.connect() as connection:
        for week in range(WEEKS + 1):
            await connection.run_sync(migrate.upgrade, NOW - timedelta(weeks=WEEKS - week))
        await connection.run_sync(_fill_weeks)
        roots = {row["part"]: row["whole"] for row in (await connection.exec_driver_sql(_ROOTS)).mappings()}
        sizes = {row["relname"]: row["relpages"] for row in (await connection.exec_driver_sql(_SIZES)).mappings()}

    async def explain(connection: AsyncConnection, sql: str, parameters: Any) -> Sequence[str]:
        special = await connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {sql}", parameters)
        general = await connection.exec_driver_sql("SELECT general_plan($1)", (sql,))
        plans = [found.scalar_one()[0]["Plan"] for found in (special, general)]
        if plans[1]["Total Cost"] > plans[0]["Total Cost"] + _PLANNING:
            del plans[1]
        return [_step(node, roots) for plan in plans for node in _nodes(plan, sizes)]

    yield Million(store, writer, explain)
    await store.close()
    postgres.drop(url)


#: what the server reckons for planning anew, at most; a plan for any parameters that costs more than that is not taken
_PLANNING = 100
#: the plan for any parameters can only be asked for where there are none (PostgreSQL 16 and newer)
_GENERAL_PLAN = """CREATE FUNCTION general_plan(statement text) RETURNS json LANGUAGE plpgsql AS $$
DECLARE plan json;
BEGIN
    EXECUTE 'EXPLAIN (GENERIC_PLAN, FORMAT JSON) ' || statement INTO plan;
    RETURN plan;
END $$"""
#: index of a partition → index of the whole table
_ROOTS = """SELECT child.relname AS part, parent.relname AS whole
    FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
    JOIN pg_class AS parent ON parent.oid = inhparent WHERE child.relkind = 'i'"""
#: tables and partitions in pages
_SIZES = "SELECT relname, relpages FROM pg_class WHERE relkind = 'r'"
#: a table of fewer pages is read whole sooner than its index is
_SMALL = 20


def _fill_weeks(connection: Connection) -> None:
    # not for the rows of other tables that are there anyway, and as above
    connection.exec_driver_sql("SET session_replication_role = replica")
    connection.exec_driver_sql("SET statement_timeout = 0")
    indexes = [index for table in metadata.sorted_tables for index in table.indexes if index._ddl_if is None]
    for index in indexes:
        index.drop(connection)
    for statement in rows(Postgresql, 1_000_000):
        connection.exec_driver_sql(statement)
    for index in indexes:
        index.create(connection)
    connection.commit()
    connection.exec_driver_sql("ANALYZE")
    connection.exec_driver_sql(_GENERAL_PLAN)
    connection.exec_driver_sql("RESET session_replication_role")
    connection.exec_driver_sql("RESET statement_timeout")
    connection.commit()


def _nodes(node: dict[str, Any], sizes: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Walk a plan, without the small tables."""
    if sizes.get(node.get("Relation Name", ""), _SMALL) >= _SMALL:
        yield node
    for part in node.get("Plans", ()):
        yield from _nodes(part, sizes)


def _step(node: dict[str, Any], roots: Mapping[str, str]) -> str:
    """Return a step of a plan in the words that SQLite has for it."""
    kind, table = node["Node Type"], PARTITION.sub("", node.get("Relation Name", ""))
    if kind == "Seq Scan":
        return f"SCAN {table}"
    if "Index Name" in node:
        index = roots.get(node["Index Name"], node["Index Name"])
        way = "SEARCH" if "Index Cond" in node else "SCAN"
        return f"{way} {table or index} USING INDEX {index} {node.get('Index Cond', '')}"
    return f"{kind} {table}".strip()
