"""Epochs of rooms on both databases: begun once, ended once, and notified once, whoever says so."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.schema import CreateTable, DropTable

from tidings.config.settings import Role, Settings
from tidings.container import AppContainer
from tidings.errors import ValidationFailed
from tidings.model.audience import NamedSet
from tidings.model.ids import new_id
from tidings.model.notification import Notification
from tidings.model.request import NotifyRequest
from tidings.model.stream import CountBy, StreamAccess, StreamEpoch, StreamEvent, StreamSettings
from tidings.model.user import User
from tidings.packs.streams import pack, repository, tables
from tidings.packs.streams.epochs import StreamEpochs
from tidings.packs.streams.notices import GROUP_WINDOW, STABLE_FOR, Notice, stream_host
from tidings.packs.streams.tickets import TICKET_LIFETIME, TicketService
from tidings.ports.store import Transaction
from tidings.stores.engine import sqlite
from tidings.stores.engine.transaction import connection_of
from tidings.stores.store import SqlStore
from tidings.testing.clock import FrozenClock
from tidings.testing.contracts.samples import make_notification

JAZZ = "0190a3c0-8f00-7000-8000-000000000001"
ROCK = "0190a3c0-8f00-7000-8000-000000000002"
SILENT = timedelta(seconds=30)


class Notifier:
    """Records the accepted requests."""

    def __init__(self) -> None:
        self.requests: list[NotifyRequest] = []
        self.refuses = False

    async def accept(self, tx: Transaction, request: NotifyRequest) -> Notification:
        if self.refuses:
            raise ValidationFailed("no")
        self.requests.append(request)
        return make_notification()

    async def withdraw(self, tx: Transaction, subject: str) -> None:
        raise AssertionError("a notice is not withdrawn")


@pytest.fixture
def upgraded_url(fresh_upgraded_url: str) -> str:
    """A database without the pack's table, which containers of other tests leave in the shared one."""
    return fresh_upgraded_url


@pytest.fixture(params=["sqlite", "postgresql"])
def engine_store(request: pytest.FixtureRequest) -> SqlStore:
    store: SqlStore = request.getfixturevalue("store" if request.param == "sqlite" else "postgres_store")
    return store


@pytest.fixture
async def any_store(engine_store: SqlStore) -> AsyncIterator[SqlStore]:
    """A store with the tables of the pack's own migrations."""
    store = engine_store
    async with store.transaction() as tx:
        await connection_of(tx).execute(CreateTable(tables.stream_access))
    yield store
    async with store.transaction() as tx:
        await connection_of(tx).execute(DropTable(tables.stream_access))


@pytest.fixture
def notifier() -> Notifier:
    return Notifier()


@pytest.fixture
def events() -> dict[str, StreamEvent]:
    return {
        event_id: StreamEvent(event_id, title, "host", is_public=True)
        for event_id, title in ((JAZZ, "Jazz night"), (ROCK, "Rock"))
    }


@pytest.fixture
async def epochs(
    any_store: SqlStore, notifier: Notifier, clock: FrozenClock, events: Mapping[str, StreamEvent]
) -> StreamEpochs:
    async def find(_tx: Transaction, event_id: str) -> StreamEvent | None:
        return events.get(event_id)

    async with any_store.transaction() as tx:
        await any_store.users.upsert(tx, [User("host")], clock.now())

    async def has_ticket(_tx: Transaction, _event_id: str, user_id: str) -> bool:
        return user_id == "ada"

    return StreamEpochs(any_store, notifier, clock, find, has_ticket)


async def latest(store: SqlStore, event_id: str = JAZZ) -> StreamEpoch:
    async with store.read_snapshot() as tx:
        found = await repository.find_latest_epoch(tx, event_id)
    assert found is not None
    return found


async def live_and_end(epochs: StreamEpochs, event_id: str = JAZZ) -> int:
    epoch = (await epochs.begin([event_id]))[event_id]
    await epochs.end(event_id, epoch, SILENT)
    return epoch


async def test_e01_an_epoch_begins_once_and_ends_once(
    epochs: StreamEpochs, any_store: SqlStore, notifier: Notifier, clock: FrozenClock
) -> None:
    began = await asyncio.gather(*(epochs.begin([JAZZ, ROCK]) for _ in range(8)))
    assert began == [{JAZZ: 1, ROCK: 1}] * 8
    ended = await asyncio.gather(*(epochs.end(JAZZ, 1, SILENT) for _ in range(8)))
    assert [event.id for event in ended if event is not None] == [JAZZ]
    assert [request.source for request in notifier.requests] == [f"stream:{JAZZ}:1"]
    record = await latest(any_store)
    assert (record.ended_at, record.last_seen_at) == (clock.now(), clock.now() - SILENT)
    assert (record.notice, record.host_id) == (Notice.SENT, "host")
    assert record.notification_id is not None
    assert await epochs.begin([JAZZ, ROCK]) == {JAZZ: 2, ROCK: 1}


async def test_e08_the_end_of_an_earlier_epoch_leaves_the_present_one_open(
    epochs: StreamEpochs, notifier: Notifier
) -> None:
    await live_and_end(epochs)
    assert await epochs.begin([JAZZ]) == {JAZZ: 2}
    assert await epochs.end(JAZZ, 1, SILENT) is None
    assert await epochs.find_open(JAZZ) == 2
    assert len(notifier.requests) == 1


async def test_e15_the_host_leaves_the_audience_when_the_stream_is_live_again(
    epochs: StreamEpochs, any_store: SqlStore
) -> None:
    await live_and_end(epochs)

    async def members(epoch: int) -> set[str]:
        async with any_store.read_snapshot() as tx:
            return await any_store.audiences.filter_members(tx, stream_host(JAZZ, epoch), ["host", "ada"])

    assert await members(1) == {"host"}
    await epochs.begin([JAZZ])
    assert await members(1) == set()
    await epochs.end(JAZZ, 2, SILENT)
    assert (await members(1), await members(2)) == (set(), {"host"})


@pytest.mark.parametrize("epoch", ["x", "-1", "99999999999999999999", "²"])
async def test_an_audience_with_an_impossible_epoch_is_empty(
    epochs: StreamEpochs, any_store: SqlStore, epoch: str
) -> None:
    await live_and_end(epochs)
    async with any_store.read_snapshot() as tx:
        audience = NamedSet("stream_host", {"eventId": JAZZ, "epoch": epoch})
        assert await any_store.audiences.filter_members(tx, audience, ["host"]) == set()


@pytest.mark.parametrize("missing", ["event", "host"])
async def test_e14_an_end_that_nobody_can_be_notified_of_is_recorded(
    epochs: StreamEpochs, any_store: SqlStore, notifier: Notifier, events: dict[str, StreamEvent], missing: str
) -> None:
    if missing == "event":
        del events[JAZZ]
    else:
        events[JAZZ] = StreamEvent(JAZZ, "Jazz", "stranger", is_public=True)
    await live_and_end(epochs)
    record = await latest(any_store)
    assert record.ended_at is not None
    assert record.notice == (Notice.EVENT_MISSING if missing == "event" else Notice.HOST_UNKNOWN)
    assert notifier.requests == []


async def test_a_refused_notice_does_not_keep_the_epoch_open(
    epochs: StreamEpochs, any_store: SqlStore, notifier: Notifier
) -> None:
    notifier.refuses = True
    await live_and_end(epochs)
    assert (await latest(any_store)).notice == Notice.NOT_ACCEPTED


async def test_ends_of_one_host_within_a_window_make_one_more_notice(
    epochs: StreamEpochs, any_store: SqlStore, notifier: Notifier, clock: FrozenClock
) -> None:
    await live_and_end(epochs, JAZZ)
    clock.advance(60)
    await live_and_end(epochs, ROCK)
    await live_and_end(epochs, JAZZ)
    assert await epochs.send_due_notices() == 0
    clock.advance(GROUP_WINDOW)
    assert await asyncio.gather(*(epochs.send_due_notices() for _ in range(3))) in ([1, 0, 0], [0, 1, 0], [0, 0, 1])
    assert [request.variables["interruptions"] for request in notifier.requests] == [1, 2]
    assert (await latest(any_store, ROCK)).notice == Notice.SENT
    assert (await latest(any_store, ROCK)).notice_due_at is None


async def test_e13_an_unstable_stream_makes_one_notice_after_it_was_stable(
    epochs: StreamEpochs, any_store: SqlStore, notifier: Notifier, clock: FrozenClock
) -> None:
    for _ in range(5):
        await live_and_end(epochs)
        clock.advance(61)
        await epochs.send_due_notices()
    assert len(notifier.requests) == 1
    await epochs.begin([JAZZ])
    clock.advance(STABLE_FOR)
    # live again when the notice is due: recorded, and not announced
    assert await epochs.send_due_notices() == 0
    await epochs.end(JAZZ, 6, SILENT)
    clock.advance(STABLE_FOR)
    assert await epochs.send_due_notices() == 1
    assert [request.variables["interruptions"] for request in notifier.requests] == [1, 1]


async def test_settings_of_an_event_go_before_those_of_its_host(any_store: SqlStore) -> None:
    async with any_store.transaction() as tx:
        await repository.save_settings(tx, "host", "host", StreamSettings(60.0, CountBy.CONNECTION))
        await repository.save_settings(tx, "event", JAZZ, StreamSettings(5.0, None))
        assert await repository.load_settings(tx, JAZZ, "host") == StreamSettings(5.0, CountBy.CONNECTION)
        assert await repository.load_settings(tx, ROCK, "host") == StreamSettings(60.0, CountBy.CONNECTION)
        assert await repository.load_settings(tx, ROCK, None) == StreamSettings()


async def test_who_may_watch_is_a_setting_of_the_event_and_of_its_host(any_store: SqlStore) -> None:
    holders = StreamSettings(access=StreamAccess.TICKET_HOLDERS)
    async with any_store.transaction() as tx:
        await repository.save_settings(tx, "host", "host", holders)
        await repository.save_settings(tx, "event", JAZZ, StreamSettings(access=StreamAccess.USERS))
        assert (await repository.load_settings(tx, JAZZ, "host")).access is StreamAccess.USERS
        await repository.save_settings(tx, "event", JAZZ, StreamSettings())
        assert await repository.load_settings(tx, JAZZ, "host") == holders
        assert (await repository.export(tx, "host"))["streamAccess"] == "ticket_holders"
        await repository.erase(tx, "host")
        assert await repository.load_settings(tx, JAZZ, "host") == StreamSettings()


async def test_the_migrations_of_the_pack_create_its_tables(tmp_path: Path) -> None:
    async with AppContainer.open(Settings(data_dir=tmp_path), role=Role.SERVE) as runtime:
        path = runtime.settings.sqlite_path
        assert path is not None
    engines = sqlite.create_engines(path)

    def find_differences(connection: Connection) -> list[object]:
        options = {
            "compare_type": True,
            "include_name": lambda name, kind, _: kind != "table" or name == "stream_access",
        }
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), tables.pack_metadata))

    async with engines[1].connect() as connection:
        assert await connection.run_sync(find_differences) == []
    for engine in engines:
        await engine.dispose()


async def test_a_ticket_is_redeemed_once_and_within_its_lifetime(any_store: SqlStore, clock: FrozenClock) -> None:
    tickets = TicketService(any_store, clock)
    until = clock.now() + timedelta(hours=1)
    ticket, expires_at = await tickets.create("ada", until)
    assert expires_at == clock.now() + TICKET_LIFETIME
    redeemed = await asyncio.gather(*(tickets.redeem(ticket) for _ in range(5)))
    assert [one for one in redeemed if one is not None] == [("ada", until)]
    late, _ = await tickets.create("ada", until)
    clock.advance(TICKET_LIFETIME)
    assert await tickets.redeem(late) is None
    assert await tickets.redeem(new_id(clock.now())) is None


async def test_open_epochs_are_found_after_a_restart(epochs: StreamEpochs) -> None:
    await epochs.begin([JAZZ, ROCK])
    await epochs.end(JAZZ, 1, SILENT)
    assert await epochs.list_open_events("", 10) == [ROCK]
    assert await epochs.list_open_events(ROCK, 10) == []


def test_the_pack_declares_what_the_notice_needs() -> None:
    assert [template.code for template in pack.templates] == ["STREAM_ENDED"]
    assert [kind.name for kind in pack.audiences] == ["stream_host"]
