"""Rate limits of routes: how many calls a caller may make per period."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A number of calls per period. An idle caller may make all of them at once."""

    calls: int
    #: seconds
    period: float


#: routes that read something for a signed-in user, together
READ_RATE = RateLimit(300, 60)


@dataclass(frozen=True, slots=True)
class RateDecision:
    """The result of counting one call."""

    is_allowed: bool
    remaining: int
    #: seconds until the full limit is available again
    reset_after: float
    #: seconds until the next call is allowed
    retry_after: float


class RateLimiter(Protocol):
    """Counts calls. Limits with different names are counted separately."""

    async def consume(self, name: str, key: str, rate: RateLimit) -> RateDecision:
        """Count one call of the caller `key` under the limit `name`. A call that is not allowed is not counted."""
        ...

    async def close(self) -> None: ...
