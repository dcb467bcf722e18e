"""The advisory lock that serialises schema changes on PostgreSQL. It is polled, never waited for at length."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from tidings.errors import BackendError
from tidings.stores.engine.stalled_sessions import STALLED_AFTER, terminate_stalled_holders
from tidings.stores.engine.transaction import SyncConnectionAdapter, run_sync

#: key of the advisory lock: "tidings" in ASCII
SCHEMA_LOCK_ID = int.from_bytes(b"tidings")
#: `lock_timeout` of one attempt, in milliseconds. Shorter than `deadlock_timeout` (1 s): CREATE INDEX CONCURRENTLY in
#: the process that holds the lock waits for this statement to end, which PostgreSQL would report as a deadlock.
POLL_MS = 200


def is_lock_timeout(error: BaseException) -> bool:
    """Tell whether a statement failed because a lock was not granted within `lock_timeout`."""
    # the store may have mapped it to a BackendError
    return any(getattr(getattr(e, "orig", None), "sqlstate", None) == "55P03" for e in (error, error.__cause__))


@contextmanager
def schema_lock(connection: Connection, *, timeout: float) -> Iterator[None]:
    """Hold the schema lock during the block, across commits.

    timeout: seconds to wait for another process that holds it; BackendError is raised after that.
    The connection must not be in a transaction.
    """
    adapter = SyncConnectionAdapter(connection)
    for _attempt in range(max(1, int(timeout * 1000 / POLL_MS))):
        try:
            with connection.begin():
                # a holder that is suspended within a statement is not ended by a time-out
                run_sync(terminate_stalled_holders(adapter, SCHEMA_LOCK_ID, seconds=STALLED_AFTER))
                connection.execute(text(f"SET LOCAL lock_timeout = {POLL_MS}"))
                connection.execute(text(f"SELECT pg_advisory_lock({SCHEMA_LOCK_ID})"))
            break
        except DBAPIError as error:
            if not is_lock_timeout(error):
                raise
    else:
        raise BackendError(
            f"another process has been changing the schema for {timeout:.0f} s; wait for it or stop it, then retry"
        )
    try:
        with connection.begin():
            # a suspended process keeps the lock between its transactions, too
            connection.execute(text(f"SET idle_session_timeout = '{STALLED_AFTER:.0f}s'"))
        yield
    finally:
        connection.rollback()
        with connection.begin():
            connection.execute(text("RESET idle_session_timeout"))
            connection.execute(text(f"SELECT pg_advisory_unlock({SCHEMA_LOCK_ID})"))
