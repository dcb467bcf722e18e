"""Locks of PostgreSQL that are asked for in short turns: everybody else queues behind whoever waits for one."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from tidings.errors import BackendError

#: names "the schema is being changed" among the advisory locks of a database
SCHEMA = int.from_bytes(b"tidings")
#: one turn, in milliseconds. Shorter than `deadlock_timeout` (1 s): CREATE INDEX CONCURRENTLY, run by the process that
#: has the lock, waits for our statement to end as we wait for the lock, and would be taken for a deadlock.
TURN_MS = 200


def is_locked(error: BaseException) -> bool:
    """Say whether a statement failed because a lock was not free within `lock_timeout`."""
    # the store may have made a BackendError of it
    return any(getattr(getattr(one, "orig", None), "sqlstate", None) == "55P03" for one in (error, error.__cause__))


@contextmanager
def schema_lock(connection: Connection, *, patience: float) -> Iterator[None]:
    """Hold the lock on the schema for the block, over commits; waits for the process that has it.

    patience: seconds. Raises BackendError when it was not free by then. The connection must not be in a transaction.
    """
    for _turn in range(max(1, int(patience * 1000 / TURN_MS))):
        try:
            with connection.begin():
                connection.execute(text(f"SET LOCAL lock_timeout = {TURN_MS}"))
                connection.execute(text(f"SELECT pg_advisory_lock({SCHEMA})"))
            break
        except DBAPIError as error:
            if not is_locked(error):
                raise
    else:
        raise BackendError(
            f"another process has been changing the schema for {patience:.0f} s; wait for it, or end it, and try again"
        )
    try:
        yield
    finally:
        connection.rollback()
        with connection.begin():
            connection.execute(text(f"SELECT pg_advisory_unlock({SCHEMA})"))
