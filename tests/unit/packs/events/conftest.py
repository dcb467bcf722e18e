"""A store on a fresh SQLite file, a notifier that records, and a manual clock."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from tidings.model.ids import new_id
from tidings.model.notification import Notification
from tidings.model.priority import Priority
from tidings.model.request import NotifyRequest
from tidings.model.user import User
from tidings.packs.events.event import EventFields
from tidings.packs.events.service import EventService
from tidings.ports.store import Transaction
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.sqlite import create_engines
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.tables import metadata
from tidings.stores.store import SqlStore

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
START = datetime(2026, 11, 22, 18, tzinfo=UTC)


class ManualClock:
    """A clock that a test advances."""

    def __init__(self) -> None:
        self.instant = NOW

    def now(self) -> datetime:
        return self.instant


class RecordingNotifier:
    """Records accepted requests, or fails with `failure` after it has written to the database."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.requests: list[NotifyRequest] = []
        self.withdrawn: list[str] = []
        self.failure: Exception | None = None

    @property
    def codes(self) -> list[str]:
        return [request.template_code for request in self.requests]

    async def withdraw(self, tx: Transaction, subject: str) -> None:
        self.withdrawn.append(subject)

    async def accept(self, tx: Transaction, request: NotifyRequest) -> Notification:
        if self.failure is not None:
            await connection_of(tx).execute(text("INSERT INTO facts VALUES ('half', 'done')"))
            raise self.failure
        self.requests.append(request)
        now = self.clock.now()
        return Notification(
            id=new_id(now),
            template_code=request.template_code,
            template_version=1,
            category=request.template_code,
            audience=request.audience,
            variables=request.variables,
            priority=request.priority or Priority.NORMAL,
            channels=(),
            action_url=None,
            action_text=None,
            send_at=now,
            expires_at=request.expires_at or now + timedelta(days=1),
            created_at=now,
        )


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def notifier(clock: ManualClock) -> RecordingNotifier:
    return RecordingNotifier(clock)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    writer, reader = create_engines(tmp_path / "events.db")
    async with writer.begin() as connection:
        await connection.run_sync(metadata.create_all)
    opened = SqlStore(writer, reader, FieldCipher("a secret of at least 32 characters!"), {})
    async with opened.transaction() as tx:
        await opened.users.upsert(tx, [User("ana", city="Basel"), User("ben")], NOW)
    yield opened
    await opened.close()


@pytest.fixture
def service(store: SqlStore, notifier: RecordingNotifier, clock: ManualClock) -> EventService:
    return EventService(store, notifier, clock)


@pytest.fixture
def fields() -> EventFields:
    return {
        "title": "Jazz night",
        "start_date": START,
        "end_date": START + timedelta(hours=3),
        "venue": "Hall A",
        "city": "Basel",
        "host_id": "host-1",
    }
