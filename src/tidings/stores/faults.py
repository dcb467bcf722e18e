"""What an error of a database means: that it does not answer (BackendError), that it cannot keep a value (Invalid).

Everything else is a bug of ours and stays what it is.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tidings.errors import BackendError, Invalid

POOL_TIMEOUT = 30
#: what SQLite says in words alone
_SQLITE_SIGNS = ("database is locked", "disk is full", "disk I/O error", "unable to open")
#: another try may well succeed at once
_SOON = 1.0
_LATER = 5.0
#: SQLSTATE, or its first two characters → seconds until it is worth another try (PostgreSQL documentation, appendix A)
_AWAY: Mapping[str, float] = {
    "08": _LATER,  # connection exceptions
    "28": _LATER,  # wrong password or user
    "3D000": _LATER,  # no such database
    "40001": _SOON,  # serialization failure
    "40P01": _SOON,  # deadlock
    "53": _LATER,  # too many connections, disk full, out of memory
    "55P03": _SOON,  # lock not available within lock_timeout
    "57014": _LATER,  # cancelled by statement_timeout
    "57P": _LATER,  # shutting down, starting up, terminated by an administrator
    "58": _LATER,  # input or output of the server's own system
    "25P03": _LATER,  # idle in a transaction for too long
    "25P04": _LATER,  # the transaction took too long
}
#: a standby after a failover; also what a write in a reading transaction gives, which is a bug
READ_ONLY = "25006"
#: what the server refuses as a value → what is wrong with it
_UNFIT: Mapping[str, str] = {
    "22001": "a text is longer than its column",
    "22003": "a number is out of range",
    "22021": "a text contains a character that cannot be stored, such as NUL",
    "22P05": "a text contains a character that cannot be stored, such as NUL",
}
NO_TEXT = "a text contains half of a surrogate pair, which is no character"


@contextmanager
def translated() -> Iterator[None]:
    """Raise what the errors of the database mean; see `meaning`."""
    try:
        yield
    except (StatementError, PoolTimeout, sqlite3.OperationalError) as error:
        told = meaning(error)
        if told is None:
            raise
        raise told from error


def meaning(error: Exception, *, writing: bool = True) -> BackendError | Invalid | None:
    """Return what an error of SQLAlchemy or of a driver means, None = a bug.

    writing: whether it comes from a transaction that may write.
    """
    if isinstance(error, PoolTimeout):
        return BackendError(f"no database connection became free within {POOL_TIMEOUT} s", retry_after=_SOON)
    if isinstance(error, UnicodeEncodeError) or _surrogate(error):
        return Invalid(NO_TEXT, code="unstorable_value")
    # the driver's own error of SQLite comes from BEGIN, which does not pass through SQLAlchemy
    original = error.orig if isinstance(error, StatementError) else error
    reason = (str(original) or type(original).__name__).strip().partition("\n")[0]
    state: str = getattr(original, "sqlstate", None) or ""
    if state in _UNFIT:
        return Invalid(_UNFIT[state], code="unstorable_value")
    if (wait := _wait(state)) is None and not _says_away(error, reason) and not (writing and state == READ_ONLY):
        return None
    # a driver's words may begin with the name of its class: nothing that people need
    return BackendError(f"the database does not answer: {reason.rpartition('>: ')[2]}", retry_after=wait or _LATER)


def _wait(state: str) -> float | None:
    return next((_AWAY[part] for part in (state, state[:3], state[:2]) if part in _AWAY), None)


def _says_away(error: Exception, reason: str) -> bool:
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    # no host, no such socket, connection refused, no answer in time, no TLS
    return isinstance(error, OSError) or any(sign in reason for sign in _SQLITE_SIGNS)


def _surrogate(error: Exception) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, UnicodeEncodeError) or "surrogates not allowed" in str(seen):
            return True
        seen = seen.__cause__
    return False
