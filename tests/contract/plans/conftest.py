"""A database of a million rows, and the plans SQLite makes for what the store really executes."""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
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


def _numbers(count: int) -> str:
    return f"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {count - 1})"


_NOW = "'2026-11-22T12:00:00.000000+00:00'"
#: 1 055 500 rows; ids are shaped like UUIDs: notification 7 is `00000000-0000-7000-8000-000000000007`
_ROWS = (
    f"""INSERT INTO users (id, locale, timezone, city, attributes, created_at, updated_at) {_numbers(150_000)}
        SELECT printf('user-%06d', i), 'en', 'UTC', 'city-' || (i % 50), '{{}}', {_NOW}, {_NOW} FROM n""",
    f"""INSERT INTO preferences (user_id, category, channel, enabled) {_numbers(150_000)}
        SELECT printf('user-%06d', i / 3), 'NEWS-' || (i % 3), iif(i % 2, 'webpush', 'email'), i % 5 > 0 FROM n""",
    f"""INSERT INTO push_subscriptions (id, user_id, endpoint_digest, host, sealed, vapid_key_id, state,
                                        state_changed_at, created_at) {_numbers(150_000)}
        SELECT printf('20000000-0000-7000-8000-%012d', i), printf('user-%06d', i), printf('%064d', i), 'push.example',
               x'00', 'key', 'active', {_NOW}, {_NOW} FROM n""",
    f"""INSERT INTO events (id, title, description, start_date, host_id, city, status, version, created_at, updated_at)
        {_numbers(500)}
        SELECT printf('event-%03d', i), 't', '', {_NOW}, 'host-' || (i % 20), 'city-' || (i % 50),
               iif(i % 4, 'ACTIVE', 'DRAFT'), 1, {_NOW}, {_NOW} FROM n""",
    f"""INSERT INTO tickets (event_id, user_id, status, created_at) {_numbers(150_000)}
        SELECT printf('event-%03d', i % 3), printf('user-%06d', i), iif(i % 10, 'active', 'returned'), {_NOW} FROM n""",
    f"""INSERT INTO favourites (event_id, user_id, host_id, created_at) {_numbers(50_000)}
        SELECT printf('event-%03d', i % 500), printf('user-%06d', i), 'host-' || (i % 20), {_NOW} FROM n""",
    f"""INSERT INTO notifications (id, template_code, template_version, category, audience, variables, priority,
                                   channels, send_at, expires_at, created_at, state, recipients, deliveries, skipped)
        {_numbers(5_000)}
        SELECT printf('00000000-0000-7000-8000-%012d', i), 'CODE-' || (i % 9), 1, 'NEWS-' || (i % 9),
               '{{"kind": "everyone"}}', '{{}}', 'high', '[]', {_NOW}, {_NOW}, {_NOW},
               iif(i % 1000, 'fanned_out', 'fanning_out'), 0, 0, 0 FROM n""",
    f"""INSERT INTO deliveries (id, notification_id, user_id, channel, target_id, lane, state, rule, batch_id, due_at,
                                attempts, lease_token, lease_until, created_at, updated_at) {_numbers(300_000)}
        SELECT printf('10000000-0000-7000-8000-%012d', i), printf('00000000-0000-7000-8000-%012d', i % 100),
               printf('user-%06d', i % 150000), 'webpush', printf('20000000-0000-7000-8000-%012d', i), 'high',
               CASE WHEN i % 50 = 0 THEN 'sending' WHEN i % 5 = 0 THEN 'pending' ELSE 'delivered' END, 'on by default',
               iif(i % 3, printf('30000000-0000-7000-8000-%012d', i / 200), NULL), {_NOW}, 0,
               iif(i % 50, NULL, 'token-' || (i / 1000)), iif(i % 50, NULL, {_NOW}), {_NOW}, {_NOW} FROM n""",
    f"""INSERT INTO attempts (delivery_id, started_at, number, outcome, why, finished_at) {_numbers(50_000)}
        SELECT printf('10000000-0000-7000-8000-%012d', i), {_NOW}, 1, 'delivered', 'ok', {_NOW} FROM n""",
    f"""INSERT INTO skips (id, notification_id, user_id, channel, reason, detail, created_at) {_numbers(40_000)}
        SELECT printf('40000000-0000-7000-8000-%012d', i), printf('00000000-0000-7000-8000-%012d', i % 100),
               printf('user-%06d', i), 'email', 'no_device', '{{}}', {_NOW} FROM n""",
    f"""INSERT INTO outbox (id, kind, ref, lane, version, due_at) {_numbers(5_000)}
        SELECT printf('50000000-0000-7000-8000-%012d', i), 'deliver', 'ref', 'high', 1, {_NOW} FROM n""",
    f"""INSERT INTO api_keys (id, digest, prefix, label, scopes, created_at) {_numbers(1_000)}
        SELECT printf('60000000-0000-7000-8000-%012d', i), printf('%064d', i), 'tdg', 'key', '[]', {_NOW} FROM n""",
    f"""INSERT INTO idempotency_keys (caller, key, request_digest, body, created_at) {_numbers(4_000)}
        SELECT 'caller', 'key-' || i, 'digest', x'', {_NOW} FROM n""",
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
        for statement in _ROWS:
            connection.execute(statement)
        for _, sql in made:
            connection.execute(sql)
        connection.execute("COMMIT")
