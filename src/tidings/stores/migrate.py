"""Migrations: Alembic over the connection it is given, so that there is nothing to configure."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext, RevisionStep
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from tidings.errors import BackendError

_SCRIPTS = Path(__file__).parent / "migrations"


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
    head = _scripts().get_current_head()
    assert head is not None, "there is at least one migration"
    return Status(MigrationContext.configure(connection).get_current_revision(), head)


def upgrade(connection: Connection) -> None:
    """Run every migration that is missing. Raises BackendError when the database is newer than this program."""
    scripts = _scripts()
    known = {revision.revision for revision in scripts.walk_revisions()}
    current = MigrationContext.configure(connection).get_current_revision()
    connection.rollback()
    if current is not None and current not in known:
        raise BackendError(f"the database has schema {current}, which is newer than this program; upgrade Tidings")
    _run(connection, scripts, lambda revision: scripts._upgrade_revs("head", revision))


def downgrade(connection: Connection, to: str) -> None:
    """Undo migrations down to a revision (`base` = all)."""
    scripts = _scripts()
    _run(connection, scripts, lambda revision: scripts._downgrade_revs(to, revision))


def _run(connection: Connection, scripts: ScriptDirectory, steps: Callable[[Any], list[RevisionStep]]) -> None:
    def plan(revision: Any, _context: MigrationContext) -> list[RevisionStep]:
        return steps(revision)

    with EnvironmentContext(Config(), scripts, fn=plan) as environment:
        environment.configure(connection=connection, transactional_ddl=True)
        with connection.begin():
            environment.run_migrations()


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(str(_SCRIPTS))
