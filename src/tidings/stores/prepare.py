"""At a start: bring the schema up to date where there is anything to do, which takes Alembic."""

from sqlalchemy import Connection

from tidings.stores.schema_version import is_ready


def prepare(connection: Connection) -> None:
    """Run missing migrations, and make the partitions of the weeks that come.

    Raises BackendError when the database is newer than this program, or another process is changing it for too long.
    """
    if not is_ready(connection):
        from tidings.stores import migrate

        migrate.upgrade(connection)
