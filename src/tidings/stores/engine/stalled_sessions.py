"""PostgreSQL sessions that hold locks while their client does not respond, and their termination.

The client of such a session is a process that was suspended (SIGSTOP, a frozen virtual machine) or is overloaded. The
server waits for its next message, and others wait for its locks. `idle_in_transaction_session_timeout` ends a session
between two statements. It does not end one that the process has left inside a statement, after it was parsed: that
needs `transaction_timeout`, which PostgreSQL has since version 17.
"""

from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from tidings.stores.engine.transaction import SqlConnection

#: seconds without a message of the client, after which a session is terminated in any case
STALLED_AFTER = 30.0
#: seconds for which an urgent transaction waits for a lock, before silent sessions that may hold it are terminated
LOCK_WAIT = 0.7

#: A session of Tidings that has written or holds an advisory lock, and whose client has been silent for `seconds`.
#: Sessions that only read block nobody: a slow HTTP client may be the cause of their silence.
_STALLED = """
    session.datname = current_database()
    AND session.usename = session_user
    AND session.pid <> pg_backend_pid()
    AND (session.application_name LIKE 'tidings%'
        OR session.application_name = nullif(current_setting('application_name'), ''))
    AND (session.state LIKE 'idle in transaction%' OR session.state = 'active' AND session.wait_event_type = 'Client')
    AND session.state_change < clock_timestamp() - make_interval(secs => :seconds)
"""
_TERMINATE = text(
    f"""SELECT count(*) FILTER (WHERE pg_terminate_backend(session.pid)) FROM pg_stat_activity AS session
    WHERE {_STALLED} AND (session.backend_xid IS NOT NULL OR EXISTS (
        SELECT FROM pg_locks AS held WHERE held.pid = session.pid AND held.locktype = 'advisory' AND held.granted))"""  # noqa: S608  # constants
)
_TERMINATE_HOLDERS = text(
    f"""SELECT count(*) FILTER (WHERE pg_terminate_backend(session.pid)) FROM pg_stat_activity AS session
    WHERE {_STALLED} AND session.pid IN (
        SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND classid::bigint = :high AND objid::bigint = :low)"""  # noqa: S608  # constants
)


async def terminate_stalled_sessions(connection: "SqlConnection", *, seconds: float) -> int:
    """Terminate the sessions that hold locks and whose client has been silent for `seconds`. Returns how many.

    What they did in their transaction is rolled back. SQLite has no sessions: 0.
    """
    if connection.dialect.name != "postgresql":
        return 0
    return int((await connection.execute(_TERMINATE, {"seconds": seconds})).scalar() or 0)


async def terminate_stalled_holders(connection: "SqlConnection", lock_id: int, *, seconds: float) -> int:
    """Terminate only the sessions that hold an advisory lock. lock_id: its key, a 64-bit integer."""
    high, low = divmod(lock_id, 1 << 32)  # as pg_locks shows a key of 64 bits
    result = await connection.execute(_TERMINATE_HOLDERS, {"seconds": seconds, "high": high, "low": low})
    return int(result.scalar() or 0)
