"""Every error Tidings raises on purpose: one small tree, each with a stable `code` and, where it applies, the field.

HTTP status codes are not here: the API maps this tree to them in one table (`tidings.api.problems`).
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with an input."""

    #: JSON-Pointer-like path of the field, in the caller's spelling: `startDate`, `keys.p256dh`, `userIds[3]`
    field: str
    #: what is wrong and what would be right, in one sentence
    message: str


class TidingsError(Exception):
    """Root of all errors raised on purpose."""

    code = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class Invalid(TidingsError):
    """The input breaks a rule; `faults` name each field and its fix."""

    code = "invalid"

    def __init__(self, message: str, *, faults: Sequence[Fault] = (), code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.faults = tuple(faults)

    @classmethod
    def of(cls, faults: Sequence[Fault], *, code: str | None = None) -> "Invalid":
        """Return the error for several faults; its message names the first few."""
        return cls("; ".join(f"{one.field}: {one.message}" for one in faults[:5]), faults=faults, code=code)

    @classmethod
    def field(cls, field: str, message: str, *, code: str | None = None) -> "Invalid":
        """Return the error for one wrong field."""
        return cls(f"{field}: {message}", faults=(Fault(field, message),), code=code)


class Unauthenticated(TidingsError):
    """The caller did not say who it is, or the proof does not hold."""

    code = "unauthenticated"


class Forbidden(TidingsError):
    """The caller is known and may not do this."""

    code = "forbidden"


class NotFound(TidingsError):
    """The thing named does not exist, or not for this caller."""

    code = "not_found"


class Conflict(TidingsError):
    """The thing is in a state that does not allow this."""

    code = "conflict"


class RateLimited(TidingsError):
    """Too many calls; `retry_after` seconds from now there is room again."""

    code = "rate_limited"

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ConfigError(TidingsError):
    """A setting is wrong or missing; the message names the setting and the fix."""

    code = "config"

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(f"{setting}: {message}")
        self.setting = setting


class BackendError(TidingsError):
    """A server Tidings depends on (database, queue) does not answer; try again after `retry_after` seconds."""

    code = "backend"

    def __init__(self, message: str, *, retry_after: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
