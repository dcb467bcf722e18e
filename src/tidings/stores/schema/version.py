"""The schema revisions of a database, compared with those of this program and its packs, without Alembic.

Alembic takes 10 MB of memory. A process whose database is up to date does not need it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

from sqlalchemy import Connection, inspect, text

from tidings.errors import ConfigError
from tidings.stores.engine.transaction import SyncConnectionAdapter, run_sync
from tidings.stores.schema import partitions

#: The file name of a migration begins with its revision: `m0003_scale.py`.
_MIGRATION_FILES = "m[0-9][0-9][0-9][0-9]_*.py"
#: the name becomes a part of a table's name
_PACK_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True, slots=True)
class MigrationSet:
    """A linear series of migrations: those of the engine, of one pack, or of one channel."""

    #: name of the pack or of the channel, None = the engine
    pack: str | None
    #: the folder of the migration files
    path: Path
    #: the table in which Alembic stores the revision of the database
    version_table: str
    #: the newest revision
    head_revision: str
    kind: Literal["pack", "channel"] = "pack"

    @classmethod
    def for_pack(cls, pack: str, path: Path) -> Self:
        """Return the migrations of a pack in the folder `path`. Raises ConfigError naming the pack."""
        head = _find_newest(path, f"the folder {path} of pack {pack}", "packs")
        _check_name(pack, "pack")
        return cls(pack, path, f"alembic_version_{pack}", head)

    @classmethod
    def for_channel(cls, channel: str, path: Path) -> Self:
        """Return the migrations of a channel in the folder `path`. Raises ConfigError naming the channel."""
        head = _find_newest(path, f"the folder {path} of channel {channel}", "channels")
        _check_name(channel, "channel")
        return cls(channel, path, f"alembic_version_channel_{channel}", head, "channel")

    @property
    def owner(self) -> str:
        """What the migrations belong to, for messages: `pack library`, `channel board`."""
        return f"{self.kind} {self.pack}"


_VERSIONS_PATH = Path(__file__).parents[1] / "migrations" / "versions"
#: the newest revision of the engine
HEAD_REVISION = max(path.name[1:5] for path in _VERSIONS_PATH.glob(_MIGRATION_FILES))
ENGINE_MIGRATIONS = MigrationSet(None, _VERSIONS_PATH, "alembic_version", HEAD_REVISION)


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """The revision of the database (None = empty database) and the newest one of this program, or of a pack."""

    current_revision: str | None
    head_revision: str
    #: name of the pack or of the channel, None = the schema of the engine
    pack: str | None = None
    kind: Literal["pack", "channel"] = "pack"

    @property
    def owner(self) -> str:
        """What the schema belongs to, for messages: `pack library`, `channel board`."""
        return f"{self.kind} {self.pack}"

    @property
    def is_current(self) -> bool:
        return self.current_revision == self.head_revision

    @property
    def is_newer(self) -> bool:
        """Whether the database was upgraded by a newer program."""
        return self.current_revision is not None and self.current_revision > self.head_revision


def _find_newest(path: Path, place: str, setting: str) -> str:
    revisions = [file.name[1:5] for file in path.glob(_MIGRATION_FILES)]
    if not revisions:
        raise ConfigError(setting, f"{place} contains no migration m0001_….py")
    return max(revisions)


def _check_name(name: str, kind: str) -> None:
    if not _PACK_NAME.fullmatch(name):
        raise ConfigError(
            f"{kind}s", f"a {kind} with migrations needs a name of lower-case letters, digits and _, not {name!r}"
        )


def read_status(connection: Connection, migrations: MigrationSet = ENGINE_MIGRATIONS) -> SchemaStatus:
    """Read the revision of the database."""
    current = None
    table = migrations.version_table
    if inspect(connection).has_table(table):
        current = connection.scalar(text(f"SELECT version_num FROM {table}"))  # noqa: S608  # a validated name
    return SchemaStatus(current, migrations.head_revision, migrations.pack, migrations.kind)


def read_statuses(connection: Connection, packs: Sequence[MigrationSet] = ()) -> list[SchemaStatus]:
    """Read the revisions of the engine's schema and of the packs, in this order."""
    return [read_status(connection, migrations) for migrations in (ENGINE_MIGRATIONS, *packs)]


def is_ready(connection: Connection, now: datetime | None = None, *, packs: Sequence[MigrationSet] = ()) -> bool:
    """Tell whether nothing is to be done at start: no migration, no partition to create or to set `n_distinct` on.

    now: None = the system clock. packs: the migrations of packs. Leaves no transaction open.
    """
    try:
        if not all(status.is_current for status in read_statuses(connection, packs)):
            return False
        if connection.dialect.name != "postgresql":
            return True
        adapter = SyncConnectionAdapter(connection)
        return not run_sync(partitions.list_missing(adapter, now or datetime.now(UTC))) and not run_sync(
            partitions.list_without_ndistinct(adapter)
        )
    finally:
        connection.rollback()
