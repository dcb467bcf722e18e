"""The SQL store: opens transactions and holds one repository per kind of row."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import structlog
from sqlalchemy import event, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from tidings.concurrency import run_with_deadline
from tidings.errors import BackendError
from tidings.ports.pack import AudienceKind
from tidings.ports.store import Transaction
from tidings.stores.engine import sqlite
from tidings.stores.engine.cancel_safe_connection import open_transaction, raw_connection
from tidings.stores.engine.error_mapping import map_errors
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.schema_lock import is_lock_timeout
from tidings.stores.engine.stalled_sessions import LOCK_WAIT, STALLED_AFTER, terminate_stalled_sessions
from tidings.stores.engine.transaction import SqlTransaction, adopt, connection_of
from tidings.stores.repositories.alerts import SqlAlerts
from tidings.stores.repositories.api_keys import SqlApiKeys
from tidings.stores.repositories.audiences import SqlAudiences
from tidings.stores.repositories.awaited_events import SqlAwaitedEvents
from tidings.stores.repositories.contact_health import SqlContactHealth
from tidings.stores.repositories.contact_points import SqlContactPoints
from tidings.stores.repositories.dead_letters import SqlDeadLetters
from tidings.stores.repositories.deliveries import SqlDeliveries
from tidings.stores.repositories.digests import SqlDigests
from tidings.stores.repositories.ended_deliveries import EndedDeliveries
from tidings.stores.repositories.heartbeats import SqlProcesses
from tidings.stores.repositories.idempotency_keys import SqlIdempotencyKeys
from tidings.stores.repositories.inbox import SqlInbox
from tidings.stores.repositories.notifications import SqlNotifications
from tidings.stores.repositories.outbox import SqlOutbox
from tidings.stores.repositories.personal_data import SqlPersonalData
from tidings.stores.repositories.push_subscriptions import SqlSubscriptions
from tidings.stores.repositories.quotas import SqlQuotas
from tidings.stores.repositories.receipts import SqlReceipts
from tidings.stores.repositories.recurring import SqlRecurringNotifications
from tidings.stores.repositories.saved_audiences import SqlSavedAudiences
from tidings.stores.repositories.schedules import SqlSchedules
from tidings.stores.repositories.status_events import SqlStatusEvents
from tidings.stores.repositories.steps import SqlSteps
from tidings.stores.repositories.subjects import SqlSubjects
from tidings.stores.repositories.suppressions import SqlSuppressions
from tidings.stores.repositories.topics import SqlTopics
from tidings.stores.repositories.user_rate_limits import SqlUserRateLimits
from tidings.stores.repositories.user_schedules import SqlUserSchedules
from tidings.stores.repositories.users import SqlUsers
from tidings.stores.repositories.vapid_keys import SqlVapidKeys
from tidings.stores.schema import version
from tidings.stores.schema.ensure_current import ensure_current
from tidings.stores.schema.tables import facts
from tidings.stores.sql.upsert import upsert

log = structlog.get_logger(__name__)

_T = TypeVar("_T")
_QUEUE_INSTANCE_ID = "queue_epoch"
#: seconds allowed for closing the connections of one engine
CLOSE_TIMEOUT = 2.0
#: attempts with a short lock time-out, before `run_unblocked` waits as any other transaction
MAX_UNBLOCKED_ATTEMPTS = 3
_SHORT_LOCK_TIMEOUT = text(f"SET LOCAL lock_timeout = '{LOCK_WAIT * 1000:.0f}ms'")


class SqlStore:
    """Implements `ports.store.Store` with one engine for writing and one for reading."""

    def __init__(
        self,
        writer: AsyncEngine,
        reader: AsyncEngine,
        cipher: FieldCipher,
        audience_kinds: Mapping[str, AudienceKind],
        pack_migrations: Sequence[version.MigrationSet] = (),
        *,
        has_status_events: bool = False,
    ) -> None:
        """has_status_events: store events of notifications and deliveries for the host product."""
        self.pack_migrations = tuple(pack_migrations)
        self._writer = writer
        self._reader = reader
        # a single statement needs no transaction on PostgreSQL: autocommit saves two round trips
        self._autocommit_reader = (
            reader.execution_options(isolation_level="AUTOCOMMIT") if _is_postgresql(reader) else reader
        )
        self.status_events = SqlStatusEvents(is_enabled=has_status_events)
        self.awaited_events = SqlAwaitedEvents()
        self.steps = SqlSteps(self.status_events, self.awaited_events)
        self.notifications = SqlNotifications(self.status_events)
        self.subjects = SqlSubjects()
        self.audiences = SqlAudiences(audience_kinds)
        self.saved_audiences = SqlSavedAudiences()
        self.topics = SqlTopics()
        self.outbox = SqlOutbox()
        self.contact_points = SqlContactPoints(cipher)
        self.contact_health = SqlContactHealth()
        self.users = SqlUsers(self.contact_points)
        ended_deliveries = EndedDeliveries(self.status_events, self.steps)
        self.subscriptions = SqlSubscriptions(cipher, ended_deliveries)
        self.receipts = SqlReceipts(cipher, self.status_events)
        self.suppressions = SqlSuppressions(cipher)
        self.deliveries = SqlDeliveries(
            cipher, self.subscriptions, self.contact_points, self.status_events, self.suppressions, ended_deliveries
        )
        self.vapid_keys = SqlVapidKeys(cipher)
        self.api_keys = SqlApiKeys()
        self.idempotency_keys = SqlIdempotencyKeys()
        self.user_schedules = SqlUserSchedules()
        self.user_rate_limits = SqlUserRateLimits()
        self.quotas = SqlQuotas()
        self.personal_data = SqlPersonalData(self.notifications)
        self.dead_letters = SqlDeadLetters()
        self.processes = SqlProcesses()
        self.schedules = SqlSchedules()
        self.alerts = SqlAlerts()
        self.inbox = SqlInbox(self.steps)
        self.digests = SqlDigests()
        self.recurring = SqlRecurringNotifications()
        self._statement_count = 0
        # on PostgreSQL both engines share a pool, and the reader's events reach the writer's listeners
        for engine in (writer,) if writer.pool is reader.pool else (writer, reader):
            event.listen(engine.sync_engine, "before_cursor_execute", self._count_statement)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        async with open_transaction(self._writer) as connection:
            tx = SqlTransaction(connection)
            yield tx
        for callback in tx.commit_callbacks:
            await callback()

    async def run_unblocked(self, work: Callable[[Transaction], Awaitable[_T]]) -> _T:
        for _ in range(MAX_UNBLOCKED_ATTEMPTS):
            try:
                async with self.transaction() as tx:
                    if connection_of(tx).dialect.name == "postgresql":
                        await connection_of(tx).execute(_SHORT_LOCK_TIMEOUT)
                    return await work(tx)
            except BackendError as error:
                if not is_lock_timeout(error):
                    raise
            await self.terminate_stalled_sessions(LOCK_WAIT)
        async with self.transaction() as tx:
            return await work(tx)

    async def terminate_stalled_sessions(self, silent_for: float = STALLED_AFTER) -> int:
        if not _is_postgresql(self._writer):
            return 0
        async with self.transaction() as tx:
            terminated = await terminate_stalled_sessions(connection_of(tx), seconds=silent_for)
        if terminated:
            log.warning("stalled_sessions_terminated", sessions=terminated, silent_seconds=silent_for)
        return terminated

    @asynccontextmanager
    async def read_snapshot(self) -> AsyncIterator[Transaction]:
        async with open_transaction(self._reader) as connection:
            yield SqlTransaction(connection)

    @asynccontextmanager
    async def read_once(self) -> AsyncIterator[Transaction]:
        async with open_transaction(self._autocommit_reader) as connection:
            yield SqlTransaction(connection)

    @asynccontextmanager
    async def savepoint(self, tx: Transaction) -> AsyncIterator[None]:
        async with connection_of(tx).begin_nested():
            yield

    async def adopt(self, connection: object) -> Transaction:
        return await adopt(connection)

    async def get_queue_instance_id(self, tx: Transaction) -> str | None:
        value: str | None = await connection_of(tx).scalar(
            select(facts.c.value).where(facts.c.name == _QUEUE_INSTANCE_ID)
        )
        return value

    async def set_queue_instance_id(self, tx: Transaction, instance_id: str) -> None:
        await connection_of(tx).execute(
            upsert(tx, facts)
            .values(name=_QUEUE_INSTANCE_ID, value=instance_id)
            .on_conflict_do_update(index_elements=[facts.c.name], set_={"value": instance_id})
        )

    async def ping(self) -> None:
        async with self.read_snapshot() as tx:
            await connection_of(tx).execute(text("SELECT 1"))

    async def upgrade(self) -> None:
        """Migrate the schema of the engine and of the packs to the newest revision.

        Raises BackendError if the database is newer than this program or a pack, ConfigError if a pack's migration
        fails.
        """
        async with raw_connection(self._writer) as connection:
            await connection.run_sync(ensure_current, self.pack_migrations)

    async def schema_status(self) -> version.SchemaStatus:
        """Return the revision of the database and the newest one of this program."""
        async with raw_connection(self._reader) as connection:
            return await connection.run_sync(version.read_status)

    async def schema_statuses(self) -> list[version.SchemaStatus]:
        """Return the same for the engine and each pack with migrations."""
        async with raw_connection(self._reader) as connection:
            return await connection.run_sync(version.read_statuses, self.pack_migrations)

    async def truncate_log(self) -> bool:
        """Empty the write-ahead log of SQLite if it is large; see `sqlite.truncate_log`. PostgreSQL does so itself."""
        if _is_postgresql(self._writer):
            return False
        with map_errors():
            return await sqlite.truncate_log(self._writer)

    @property
    def statement_count(self) -> int:
        return self._statement_count

    async def close(self) -> None:
        for engine in {self._writer, self._reader}:
            # a hung server does not complete the close; the connections end with the process
            with suppress(TimeoutError):
                await run_with_deadline(CLOSE_TIMEOUT, engine.dispose())

    def _count_statement(
        self, _connection: object, _cursor: object, statement: str, _parameters: object, _context: object, _many: bool
    ) -> None:
        if not statement.startswith(("BEGIN", "SAVEPOINT", "RELEASE", "ROLLBACK")):
            self._statement_count += 1


def _is_postgresql(engine: AsyncEngine) -> bool:
    return engine.dialect.name == "postgresql"
