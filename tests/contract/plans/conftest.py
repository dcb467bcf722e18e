"""Databases of a million rows, and the plans they make for what the store really executes."""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from tidings.packs import core, events
from tidings.ports.store import Transaction
from tidings.stores.sealing import Sealer
from tidings.stores.sqlite import engines
from tidings.stores.store import SqlStore

KINDS = {kind.name: kind for pack in (core.pack, events.pack) for kind in pack.audiences}
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
)


#: when the newest rows were made
NOW = datetime(2026, 11, 22, 13, tzinfo=UTC)
#: the notifications are spread over these weeks before, and with them their deliveries
WEEKS = 12
NOTIFICATIONS = 5_000
#: deliveries of each notification, as far as there are deliveries
EACH = 200
_FIRST = int((NOW - timedelta(weeks=WEEKS)).timestamp() * 1000)
_STEP = WEEKS * 7 * 86_400_000 // NOTIFICATIONS


def made_id(kind: int, number: int) -> str:
    """The id of a row: of a notification (0), or of a delivery (1), a batch (3) or a skip (4) a second after its own."""
    at = _FIRST + (number if kind == 0 else number // EACH) * _STEP + 1000 * kind
    return f"{at >> 16:08x}-{at & 0xFFFF:04x}-7000-8000-{number:012d}"


class Sqlite:
    """How rows are written down in bulk for SQLite."""

    @staticmethod
    def numbers(count: int) -> str:
        return f"FROM (WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {count - 1}) SELECT i FROM n)"

    @staticmethod
    def padded(number: str, width: int) -> str:
        return f"printf('%0{width}d', {number})"

    @staticmethod
    def id(kind: int, number: str) -> str:
        at = f"({_FIRST + 1000 * kind} + ({number if kind == 0 else f'{number} / {EACH}'}) * {_STEP})"
        return f"printf('%08x-%04x-7000-8000-%012d', {at} >> 16, {at} & 65535, {number})"

    @staticmethod
    def bytes(value: str) -> str:
        return f"x'{value}'"


class Postgresql(Sqlite):
    """How they are for PostgreSQL."""

    @staticmethod
    def numbers(count: int) -> str:
        return f"FROM generate_series(0, {count - 1}) AS i"

    @staticmethod
    def padded(number: str, width: int) -> str:
        return f"lpad(({number})::text, {width}, '0')"

    @staticmethod
    def id(kind: int, number: str) -> str:
        at = f"({_FIRST + 1000 * kind} + ({number if kind == 0 else f'{number} / {EACH}'})::bigint * {_STEP})"
        return f"(lpad(to_hex({at}), 12, '0') || '70008000' || lpad(({number})::text, 12, '0'))::uuid"

    @staticmethod
    def bytes(value: str) -> str:
        return f"'\\x{value}'::bytea"


_NOW = f"'{NOW.isoformat(timespec='microseconds')}'"


def rows(of: type[Sqlite], deliveries: int) -> Sequence[str]:
    """Statements that fill the tables with about 750 000 rows and these deliveries."""
    user, event, key = of.padded("i", 6), of.padded("i % 500", 3), of.padded("i", 64)
    made = f"CAST({_NOW} AS timestamptz)" if of is Postgresql else _NOW
    return (
        f"""INSERT INTO users (id, locale, timezone, city, attributes, created_at, updated_at)
        SELECT 'user-' || {user}, 'en', 'UTC', 'city-' || (i % 50), '{{}}', {made}, {made} {of.numbers(150_000)}""",
        f"""INSERT INTO preferences (user_id, category, channel, enabled)
        SELECT 'user-' || {of.padded("i / 3", 6)}, 'NEWS-' || (i % 3),
               CASE WHEN i % 2 = 1 THEN 'webpush' ELSE 'email' END, i % 5 > 0 {of.numbers(150_000)}""",
        f"""INSERT INTO push_subscriptions (id, user_id, endpoint_digest, host, sealed, vapid_key_id, state,
                                        state_changed_at, created_at)
        SELECT {of.id(2, "i")}, 'user-' || {user}, {key}, 'push.example', {of.bytes("00")}, {of.id(0, "1")},
               'active', {made}, {made} {of.numbers(150_000)}""",
        f"""INSERT INTO events (id, title, description, start_date, host_id, city, status, version, created_at,
                            updated_at)
        SELECT 'event-' || {of.padded("i", 3)}, 't', '', {made}, 'host-' || (i % 20), 'city-' || (i % 50),
               CASE WHEN i % 4 > 0 THEN 'ACTIVE' ELSE 'DRAFT' END, 1, {made}, {made} {of.numbers(500)}""",
        f"""INSERT INTO tickets (event_id, user_id, status, created_at)
        SELECT 'event-' || {of.padded("i % 3", 3)}, 'user-' || {user},
               CASE WHEN i % 10 > 0 THEN 'active' ELSE 'returned' END, {made} {of.numbers(150_000)}""",
        f"""INSERT INTO favourites (event_id, user_id, host_id, created_at)
        SELECT 'event-' || {event}, 'user-' || {user}, 'host-' || (i % 20), {made} {of.numbers(50_000)}""",
        f"""INSERT INTO notifications (id, template_code, template_version, category, audience, variables, priority,
                                   channels, send_at, expires_at, created_at, state, recipients, deliveries, skipped)
        SELECT {of.id(0, "i")}, 'CODE-' || (i % 9), 1, 'NEWS-' || (i % 9), '{{"kind": "everyone"}}', '{{}}', 'high',
               '[]', {made}, {made}, {made}, CASE WHEN i % 1000 > 0 THEN 'fanned_out' ELSE 'fanning_out' END, 0, 0, 0
        {of.numbers(NOTIFICATIONS)}""",
        f"""INSERT INTO deliveries (id, notification_id, user_id, channel, target_id, lane, state, rule, batch_id,
                                due_at, attempts, lease_token, lease_until, created_at, updated_at)
        SELECT {of.id(1, "i")}, {of.id(0, f"(i / {EACH})")}, 'user-' || {of.padded("i % 150000", 6)}, 'webpush',
               {of.id(2, "(i % 150000)")}, 'high',
               CASE WHEN i % 50 = 0 THEN 'sending' WHEN i % 5 = 0 THEN 'pending' WHEN i % 99 = 0 THEN 'refused'
                    ELSE 'delivered' END,
               'on by default', CASE WHEN i % 3 > 0 THEN {of.id(3, f"(i / {EACH})")} END, {made}, 0,
               CASE WHEN i % 50 = 0 THEN {of.id(0, "(i / 1000)")} END, CASE WHEN i % 50 = 0 THEN {made} END, {made},
               {made} {of.numbers(deliveries)}""",
        f"""INSERT INTO attempts (delivery_id, started_at, number, outcome, why, finished_at)
        SELECT {of.id(1, "i")}, {made}, 1, 'delivered', 'ok', {made} {of.numbers(50_000)}""",
        f"""INSERT INTO skips (id, notification_id, user_id, channel, reason, detail, created_at)
        SELECT {of.id(4, "i")}, {of.id(0, f"(i / {EACH})")}, 'user-' || {user}, 'email', 'no_device', '{{}}', {made}
        {of.numbers(40_000)}""",
        f"""INSERT INTO outbox (id, kind, ref, lane, version, due_at)
        SELECT {of.id(0, "i")}, 'deliver', {of.id(0, "i")}, 'high', 1, {made} {of.numbers(5_000)}""",
        f"""INSERT INTO api_keys (id, digest, prefix, label, scopes, created_at)
        SELECT {of.id(0, "i")}, {key}, 'tdg', 'key', '[]', {made} {of.numbers(1_000)}""",
        f"""INSERT INTO idempotency_keys (caller, key, request_digest, body, created_at)
        SELECT 'caller', 'key-' || i, 'digest', {of.bytes("")}, {made} {of.numbers(4_000)}""",
        f"""INSERT INTO user_limits (user_id, scope, stamps, last_at)
        SELECT 'user-' || {user}, '', '{"{1}" if of is Postgresql else "[1]"}', {made} {of.numbers(20_000)}""",
    )


@dataclass
class Statement:
    """One statement that the store executed, with the steps SQLite takes for it."""

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
    path: Path
    executed: list[tuple[str, Any]] = field(default_factory=list)

    async def explained(self, work: Callable[[SqlStore, Transaction], Awaitable[object]]) -> list[Statement]:
        connection = sqlite3.connect(self.path)
        async with self.writer.connect() as caller:
            await caller.begin()
            tx = await self.store.join(caller)
            self.executed.clear()
            await work(self.store, tx)
            executed = list(self.executed)
            await caller.rollback()
        statements = [
            Statement(sql, [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)])
            for sql, parameters in executed
        ]
        connection.close()
        return statements


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def million(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Million]:
    path = tmp_path_factory.mktemp("million") / "tidings.db"
    writer, reader = engines(path)
    store = SqlStore(writer, reader, Sealer("a secret for the tests"), KINDS)
    await store.upgrade()
    _fill(path)
    filled = Million(store, writer, path)

    def note(_connection: Any, _cursor: Any, sql: str, parameters: Any, _context: Any, many: bool) -> None:
        if not sql.startswith("BEGIN"):
            filled.executed.append((sql, parameters[0] if many else parameters))

    event.listen(writer.sync_engine, "before_cursor_execute", note)
    yield filled
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
