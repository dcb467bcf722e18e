"""The exceptions of Tidings, each with a stable `code`.

The API maps them to HTTP status codes in one table (`tidings.api.http.problem_details`).
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldError:
    """A validation error of one field."""

    #: path of the field in the caller's spelling: `startDate`, `keys.p256dh`, `userIds[3]`
    field: str
    #: one sentence that states the rule or the fix
    message: str


class TidingsError(Exception):
    """Base class of all Tidings errors."""

    code = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class ValidationFailed(TidingsError):
    """The input is invalid; `field_errors` name each wrong field and its fix."""

    code = "invalid"

    def __init__(self, message: str, *, field_errors: Sequence[FieldError] = (), code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.field_errors = tuple(field_errors)

    @classmethod
    def from_errors(cls, field_errors: Sequence[FieldError], *, code: str | None = None) -> "ValidationFailed":
        """Return the error for several fields. Its message lists the first five."""
        message = "; ".join(f"{error.field}: {error.message}" for error in field_errors[:5])
        return cls(message, field_errors=field_errors, code=code)

    @classmethod
    def for_field(cls, field: str, message: str, *, code: str | None = None) -> "ValidationFailed":
        """Return the error for one field."""
        return cls(f"{field}: {message}", field_errors=(FieldError(field, message),), code=code)


class Unauthenticated(TidingsError):
    """The request has no credentials, or they are invalid."""

    code = "unauthenticated"


class Forbidden(TidingsError):
    """The caller is authenticated but lacks the permission."""

    code = "forbidden"


class NotFound(TidingsError):
    """The resource does not exist, or is not visible to this caller."""

    code = "not_found"


class Conflict(TidingsError):
    """The state of the resource does not allow the operation."""

    code = "conflict"


class PreconditionFailed(TidingsError):
    """The resource was changed since the caller read it (`If-Match`); read it again and repeat the change."""

    code = "precondition_failed"


class RateLimited(TidingsError):
    """The caller sent too many requests; it may retry after `retry_after` seconds."""

    code = "rate_limited"

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ConfigError(TidingsError):
    """A setting is invalid or missing; the message names the setting and the fix."""

    code = "config"

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(f"{setting}: {message}")
        self.setting = setting


class BackendError(TidingsError):
    """A back end (database, queue, cache, presence) is unavailable; retry after `retry_after` seconds."""

    code = "backend"

    def __init__(self, message: str, *, retry_after: float = 5.0, backend: str | None = None) -> None:
        """backend: its name, a value of `backend_health.Backend`; None = not known."""
        super().__init__(message)
        self.retry_after = retry_after
        self.backend = backend


class TransactionConflict(BackendError):
    """The database rolled a transaction back because of a concurrent one: a deadlock or a serialization failure.

    Nothing was stored. The same transaction usually succeeds when it is repeated (`ports.transaction`).
    """

    code = "backend"


class MissingReference(NotFound):
    """A row that a stored row must refer to does not exist: another transaction deleted it in the meantime."""
