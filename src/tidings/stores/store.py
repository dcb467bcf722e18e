"""The SQL store: connections, transactions, and one object per kind of row."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

from sqlalchemy import event, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from tidings.ending import within
from tidings.model.template import Category
from tidings.ports.pack import AudienceKind
from tidings.ports.store import Transaction
from tidings.stores import schema_version
from tidings.stores.audiences import SqlAudiences
from tidings.stores.connection import SqlTransaction, borrowed, of
from tidings.stores.dead_letters import SqlDeadLetters
from tidings.stores.deliveries import SqlDeliveries
from tidings.stores.faults import translated as translated
from tidings.stores.idempotency import SqlIdempotencyKeys
from tidings.stores.keys import SqlApiKeys, SqlVapidKeys
from tidings.stores.limits import SqlUserLimits
from tidings.stores.notifications import SqlNotifications
from tidings.stores.outbox import SqlOutbox
from tidings.stores.prepare import prepare
from tidings.stores.processes import SqlProcesses
from tidings.stores.schedules import SqlSchedules
from tidings.stores.schema import categories, facts
from tidings.stores.sealing import Sealer
from tidings.stores.steady import plain, transaction
from tidings.stores.subscriptions import SqlSubscriptions
from tidings.stores.upserts import upsert
from tidings.stores.users import SqlUsers

_EPOCH = "queue_epoch"
#: seconds that closing the connections may take
CLOSES_WITHIN = 2.0


class SqlStore:
    """Implements `ports.store.Store` over a writing and a reading engine."""

    def __init__(
        self, writer: AsyncEngine, reader: AsyncEngine, sealer: Sealer, kinds: Mapping[str, AudienceKind]
    ) -> None:
        self._writer = writer
        self._reader = reader
        # on PostgreSQL a statement alone needs no transaction around it, which is two trips to the server
        self._looker = reader.execution_options(isolation_level="AUTOCOMMIT") if _is_server(reader) else reader
        self.notifications = SqlNotifications()
        self.audiences = SqlAudiences(kinds)
        self.outbox = SqlOutbox()
        self.users = SqlUsers()
        self.subscriptions = SqlSubscriptions(sealer)
        self.deliveries = SqlDeliveries(sealer, self.subscriptions)
        self.vapid_keys = SqlVapidKeys(sealer)
        self.api_keys = SqlApiKeys()
        self.idempotency = SqlIdempotencyKeys()
        self.limits = SqlUserLimits()
        self.dead_letters = SqlDeadLetters()
        self.processes = SqlProcesses()
        self.schedules = SqlSchedules()
        self._statements = 0
        # on PostgreSQL both share a pool, and the reader tells the writer's listeners too
        for engine in (writer,) if writer.pool is reader.pool else (writer, reader):
            event.listen(engine.sync_engine, "before_cursor_execute", self._count)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Transaction]:
        async with transaction(self._writer) as connection:
            tx = SqlTransaction(connection)
            yield tx
        for call in tx.after_commit:
            await call()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Transaction]:
        async with transaction(self._reader) as connection:
            yield SqlTransaction(connection)

    @asynccontextmanager
    async def look(self) -> AsyncIterator[Transaction]:
        async with transaction(self._looker) as connection:
            yield SqlTransaction(connection)

    @asynccontextmanager
    async def savepoint(self, tx: Transaction) -> AsyncIterator[None]:
        async with of(tx).begin_nested():
            yield

    async def join(self, connection: object) -> Transaction:
        return await borrowed(connection)

    async def sync_categories(self, tx: Transaction, declared: Sequence[Category]) -> None:
        statement = upsert(tx, categories)
        rows = [
            {"code": one.code, "title": one.title, "mandatory": one.mandatory, "opt_in": one.opt_in} for one in declared
        ]
        changed = {name: statement.excluded[name] for name in ("title", "mandatory", "opt_in")}
        if rows:
            await of(tx).execute(
                statement.on_conflict_do_update(index_elements=[categories.c.code], set_=changed), rows
            )

    async def epoch(self, tx: Transaction) -> str | None:
        value: str | None = await of(tx).scalar(select(facts.c.value).where(facts.c.name == _EPOCH))
        return value

    async def set_epoch(self, tx: Transaction, epoch: str) -> None:
        await of(tx).execute(
            upsert(tx, facts)
            .values(name=_EPOCH, value=epoch)
            .on_conflict_do_update(index_elements=[facts.c.name], set_={"value": epoch})
        )

    async def ping(self) -> None:
        async with self.read() as tx:
            await of(tx).execute(text("SELECT 1"))

    async def upgrade(self) -> None:
        """Bring the schema up to date. Raises BackendError when the database is newer than this program."""
        async with plain(self._writer) as connection:
            await connection.run_sync(prepare)

    async def schema_status(self) -> schema_version.Status:
        """Return the schema's version and the newest one this program knows."""
        async with plain(self._reader) as connection:
            return await connection.run_sync(schema_version.status)

    @property
    def statements(self) -> int:
        return self._statements

    async def close(self) -> None:
        for engine in {self._writer, self._reader}:
            # a server that hangs answers no good-bye: its connections end with the process
            with suppress(TimeoutError):
                await within(CLOSES_WITHIN, engine.dispose())

    def _count(
        self, _connection: object, _cursor: object, statement: str, _parameters: object, _context: object, _many: bool
    ) -> None:
        if not statement.startswith(("BEGIN", "SAVEPOINT", "RELEASE", "ROLLBACK")):
            self._statements += 1


def _is_server(engine: AsyncEngine) -> bool:
    return engine.dialect.name == "postgresql"
