"""Maps database errors, and removes values from those that are not mapped.

| error | cause |
|---|---|
| BackendError | the database does not answer |
| TransactionConflict | it rolled the transaction back because of a concurrent one |
| MissingReference | a row that another one must refer to was deleted in the meantime |
| ValidationFailed | it cannot store a value |

Every other error is a defect of this program and is not mapped. Messages of databases and drivers quote values, which
may be personal data. `redact_values` removes them, so that no log contains them.
"""

import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sqlalchemy import event
from sqlalchemy.engine import Engine, ExceptionContext
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tidings.errors import BackendError, MissingReference, TransactionConflict, ValidationFailed

#: seconds for which a caller waits for a connection of the pool
POOL_TIMEOUT = 30
#: SQLite reports these conditions only in the message
_SQLITE_UNAVAILABLE_MESSAGES = ("database is locked", "disk is full", "disk I/O error", "unable to open")
#: seconds; an immediate retry is likely to succeed
_SHORT_RETRY_DELAY = 1.0
_LONG_RETRY_DELAY = 5.0
#: SQLSTATE, or its first two or three characters → seconds before a retry (PostgreSQL documentation, appendix A)
_RETRY_DELAYS: Mapping[str, float] = {
    "08": _LONG_RETRY_DELAY,  # connection exceptions
    "28": _LONG_RETRY_DELAY,  # wrong password or user
    "3D000": _LONG_RETRY_DELAY,  # no such database
    "53": _LONG_RETRY_DELAY,  # too many connections, disk full, out of memory
    "55P03": _SHORT_RETRY_DELAY,  # lock not available within lock_timeout
    "57014": _LONG_RETRY_DELAY,  # cancelled by statement_timeout
    "57P": _LONG_RETRY_DELAY,  # shutting down, starting up, terminated by an administrator
    "58": _LONG_RETRY_DELAY,  # I/O error on the server
    "25P03": _LONG_RETRY_DELAY,  # idle in a transaction for too long
    "25P04": _LONG_RETRY_DELAY,  # the transaction took too long
}
#: SQLSTATE → what happened to a transaction that the database rolled back because of a concurrent one
_CONFLICTS: Mapping[str, str] = {
    "40001": "it could not be serialized with a concurrent transaction",
    "40P01": "it was in a deadlock with a concurrent transaction",
}
#: violation of a foreign key
_FOREIGN_KEY_SQLSTATE = "23503"
_SQLITE_FOREIGN_KEY_ERROR = "SQLITE_CONSTRAINT_FOREIGNKEY"
#: the name of a violated foreign key of users, as PostgreSQL derives it from the column
_USER_KEY = re.compile(r'"\w+_user_id_fkey"')
#: the part of a message that quotes the values of a row
_DETAIL = re.compile(r"\s*\bDETAIL:.*", re.DOTALL)
#: class of the errors whose message quotes a value
_DATA_EXCEPTION_CLASS = "22"
#: a write to a standby after a failover. Also a write in a read-only transaction, which is a defect.
READ_ONLY_SQLSTATE = "25006"
#: SQLSTATE of a rejected value → message
_INVALID_VALUE_MESSAGES: Mapping[str, str] = {
    "22001": "a text is longer than its column",
    "22003": "a number is out of range",
    "22021": "a text contains a character that cannot be stored, such as NUL",
    "22P05": "a text contains a character that cannot be stored, such as NUL",
}
INVALID_TEXT_MESSAGE = "a text contains an unpaired surrogate, which is not a character"


@contextmanager
def map_errors() -> Iterator[None]:
    """Raise the errors that `classify_error` maps database errors to."""
    try:
        yield
    except (StatementError, PoolTimeout, sqlite3.OperationalError) as error:
        mapped = classify_error(error)
        if mapped is None:
            raise
        raise mapped from error


def classify_error(
    error: Exception, *, is_writable: bool = True
) -> BackendError | ValidationFailed | MissingReference | None:
    """Return the error that an error of SQLAlchemy or of a driver maps to; None = a defect of this program.

    is_writable: whether the error comes from a transaction that may write.
    """
    if isinstance(error, PoolTimeout):
        return BackendError(
            f"no database connection became free within {POOL_TIMEOUT} s",
            retry_after=_SHORT_RETRY_DELAY,
            backend="database",
        )
    if isinstance(error, UnicodeEncodeError) or _has_surrogate(error):
        return ValidationFailed(INVALID_TEXT_MESSAGE, code="unstorable_value")
    # on SQLite, BEGIN does not pass through SQLAlchemy and raises the driver's own error
    original = error.orig if isinstance(error, StatementError) else error
    reason = (str(original) or type(original).__name__).strip().partition("\n")[0]
    sqlstate: str = getattr(original, "sqlstate", None) or ""
    if sqlstate in _INVALID_VALUE_MESSAGES:
        return ValidationFailed(_INVALID_VALUE_MESSAGES[sqlstate], code="unstorable_value")
    if sqlstate in _CONFLICTS:
        return TransactionConflict(
            f"the database rolled the transaction back: {_CONFLICTS[sqlstate]}; repeat it",
            retry_after=_SHORT_RETRY_DELAY,
            backend="database",
        )
    if sqlstate == _FOREIGN_KEY_SQLSTATE or getattr(original, "sqlite_errorname", "") == _SQLITE_FOREIGN_KEY_ERROR:
        return _missing_reference(original)
    if (
        (retry_after := _retry_delay(sqlstate)) is None
        and not _is_unavailable(error, reason)
        and not (is_writable and sqlstate == READ_ONLY_SQLSTATE)
    ):
        return None
    # the message of a driver may begin with the name of its error class
    return BackendError(
        f"the database does not answer: {reason.rpartition('>: ')[2]}",
        retry_after=retry_after or _LONG_RETRY_DELAY,
        backend="database",
    )


def _retry_delay(sqlstate: str) -> float | None:
    return next((_RETRY_DELAYS[key] for key in (sqlstate, sqlstate[:3], sqlstate[:2]) if key in _RETRY_DELAYS), None)


def _is_unavailable(error: Exception, reason: str) -> bool:
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    # unknown host, missing socket, connection refused, timeout, TLS failure
    return isinstance(error, OSError) or any(message in reason for message in _SQLITE_UNAVAILABLE_MESSAGES)


def _has_surrogate(error: Exception) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UnicodeEncodeError) or "surrogates not allowed" in str(cause):
            return True
        cause = cause.__cause__
    return False


def _missing_reference(original: BaseException | None) -> MissingReference:
    if _USER_KEY.search(str(original)):
        return MissingReference("The user does not exist, or was erased in the meantime.", code="unknown_user")
    return MissingReference("What this refers to does not exist, or was deleted in the meantime.")


def redact_values(engine: Engine) -> None:
    """Remove the values of rows and parameters from the errors of an engine.

    The engine option `hide_parameters` hides the parameters that SQLAlchemy would add. Databases and drivers quote
    values in their own messages: `Key (user_id)=(ana) already exists`, `invalid input for query argument $1: 'ana'`.
    """
    event.listen(engine, "handle_error", _redact_context)


def _redact_context(context: ExceptionContext) -> None:
    sqlstate: str = getattr(context.original_exception, "sqlstate", None) or ""
    error: BaseException | None = context.original_exception
    text = str(error)
    is_driver_error = True
    while error is not None:
        if not isinstance(error, UnicodeError):  # its message has no more than one character
            _redact_error(error, hides_message=sqlstate.startswith(_DATA_EXCEPTION_CLASS) or not is_driver_error)
        is_driver_error = hasattr(error.__cause__, "sqlstate")
        error = error.__cause__
    if context.sqlalchemy_exception is not None:
        wrapped = context.sqlalchemy_exception
        wrapped.args = tuple(
            arg.replace(text, str(context.original_exception)) if isinstance(arg, str) else arg for arg in wrapped.args
        )


def _redact_error(error: BaseException, *, hides_message: bool) -> None:
    if hides_message:
        error.args = (f"{type(error).__name__}; its message is hidden because it may quote a value",)
    else:
        error.args = tuple(_DETAIL.sub("", arg) if isinstance(arg, str) else arg for arg in error.args)
    if getattr(error, "detail", None):
        error.detail = None  # type: ignore[attr-defined]  # asyncpg adds it to the text of the error
