"""The migrations of a pack run after those of the engine, once, and have their own revision."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, inspect
from sqlalchemy.ext.asyncio import AsyncConnection
from tests.support.pack_distribution import write_distribution

from tidings.errors import BackendError, ConfigError
from tidings.stores.engine import postgres, sqlite
from tidings.stores.engine.cancel_safe_connection import raw_connection
from tidings.stores.schema import migrate, version
from tidings.stores.schema.ensure_current import ensure_current
from tidings.stores.schema.version import MigrationSet


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_distribution(tmp_path / "site")
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture
def library(distribution: Path) -> MigrationSet:
    return MigrationSet.for_pack("library", distribution / "library_pack" / "migrations")


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, upgraded_database: Path, tmp_path: Path) -> str:
    """A database with the engine's schema: a path, or a URL."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("fresh_upgraded_url"))
    copy = tmp_path / "tidings.db"
    copy.write_bytes(upgraded_database.read_bytes())
    return str(copy)


@asynccontextmanager
async def connect(database: str) -> AsyncIterator[AsyncConnection]:
    is_url = database.startswith("postgresql")
    writer, reader = postgres.create_engines(database, pool_size=1) if is_url else sqlite.create_engines(Path(database))
    async with raw_connection(writer) as connection:
        yield connection
    for engine in (writer, reader):
        await engine.dispose()


def _has_table(connection: Connection) -> bool:
    found = inspect(connection).has_table("reservations")
    connection.rollback()
    return found


def _read(connection: Connection, library: MigrationSet) -> str | None:
    status = version.read_status(connection, library)
    connection.rollback()
    return status.current_revision


async def test_migrations_run_up_and_down(database: str, library: MigrationSet) -> None:
    async with connect(database) as connection:
        assert not await connection.run_sync(lambda sync: version.is_ready(sync, packs=[library]))
        await connection.run_sync(ensure_current, [library])
        assert await connection.run_sync(lambda sync: version.is_ready(sync, packs=[library]))
        assert await connection.run_sync(_read, library) == "0002"
        assert await connection.run_sync(_has_table)
        await connection.run_sync(lambda sync: migrate.downgrade(sync, "0001", migrations=library))
        assert await connection.run_sync(_read, library) == "0001"
        await connection.run_sync(lambda sync: migrate.downgrade(sync, "base", migrations=library))
        assert not await connection.run_sync(_has_table)
        assert (await connection.run_sync(version.read_status)).is_current, "the engine's schema is unchanged"


async def test_a_newer_schema_of_a_pack_is_refused(database: str, library: MigrationSet) -> None:
    async with connect(database) as connection:
        await connection.run_sync(ensure_current, [library])
        (library.path / "m0002_index.py").unlink()
        older = MigrationSet("library", library.path, library.version_table, "0001")
        with pytest.raises(BackendError, match="schema 0002 of pack library, which is newer than the installed pack"):
            await connection.run_sync(ensure_current, [older])


async def test_a_failing_migration_names_the_pack_and_changes_nothing(database: str, library: MigrationSet) -> None:
    file = library.path / "m0001_reservations.py"
    file.write_text(file.read_text().replace("def downgrade", "    op.execute('SELECT nonsense')\n\n\ndef downgrade"))
    async with connect(database) as connection:
        with pytest.raises(ConfigError, match=r"a migration of pack library failed: .*nonsense"):
            await connection.run_sync(ensure_current, [library])
        assert not await connection.run_sync(_has_table)
        assert (await connection.run_sync(version.read_status)).is_current


async def test_a_revision_that_is_not_the_one_of_its_file_is_refused(database: str, library: MigrationSet) -> None:
    file = library.path / "m0002_index.py"
    file.write_text(file.read_text().replace('revision = "0002"', 'revision = "2"', 1))
    async with connect(database) as connection:
        with pytest.raises(ConfigError, match="pack library has the revision '2'; it must be '0002'"):
            await connection.run_sync(ensure_current, [library])


@pytest.mark.parametrize(
    ("name", "message"), [("library", "contains no migration"), ("Library-1", "lower-case letters")]
)
def test_wrong_declarations_name_the_pack(name: str, message: str, tmp_path: Path) -> None:
    if name != "library":
        (tmp_path / "m0001_reservations.py").touch()
    with pytest.raises(ConfigError, match=f"pack {name}.*{message}|{message}.*{name}"):
        MigrationSet.for_pack(name, tmp_path)
