"""Brings the schema up to date at start. Loads Alembic only if there is something to do."""

from collections.abc import Sequence

from sqlalchemy import Connection

from tidings.stores.schema.version import MigrationSet, is_ready


def ensure_current(connection: Connection, packs: Sequence[MigrationSet] = ()) -> None:
    """Run missing migrations of the engine and of packs, and create the partitions of the coming weeks.

    Raises BackendError if the database is newer than this program, or if another process holds the schema lock for
    longer than `migrate.SCHEMA_LOCK_TIMEOUT`.
    """
    if not is_ready(connection, packs=packs):
        from tidings.stores.schema import migrate

        migrate.upgrade(connection, packs=packs)
