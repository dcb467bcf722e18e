"""Which schema a database has and which one this program wants, told without Alembic.

Alembic takes 10 MB, and a process that starts on a database of its own schema, as nearly every one does, has no use
for it.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from tidings.stores import partitions
from tidings.stores.connection import Blocking, at_once

_VERSIONS = Path(__file__).parent / "migrations" / "versions"
#: the newest schema: the names of migrations begin with their revision, `m0003_scale.py`
HEAD = max(path.name[1:5] for path in _VERSIONS.glob("m[0-9][0-9][0-9][0-9]_*.py"))
#: where Alembic keeps the revision
_KEPT_IN = "alembic_version"


@dataclass(frozen=True, slots=True)
class Status:
    """Where the schema is and where this program wants it. None = empty database."""

    current: str | None
    head: str

    @property
    def up_to_date(self) -> bool:
        return self.current == self.head


def status(connection: Connection) -> Status:
    """Compare the database with the migrations of this program."""
    current = None
    if inspect(connection).has_table(_KEPT_IN):
        current = connection.scalar(text(f"SELECT version_num FROM {_KEPT_IN}"))  # noqa: S608  # our own name
    return Status(current, HEAD)


def is_ready(connection: Connection, now: datetime | None = None) -> bool:
    """Say whether there is nothing to do at a start: no migration, no partition to be made, none to be told of.

    now: which week it is, None = by this machine's clock. Leaves no transaction open.
    """
    try:
        if not status(connection).up_to_date:
            return False
        if connection.dialect.name != "postgresql":
            return True
        at = Blocking(connection)
        return not at_once(partitions.missing(at, now or datetime.now(UTC))) and not at_once(partitions.untold(at))
    finally:
        connection.rollback()
