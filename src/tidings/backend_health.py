"""The availability of one back end. Logs the beginning and the end of each outage once, with flap damping."""

import time
from collections.abc import Callable
from typing import Literal

import structlog

from tidings.errors import BackendError, TransactionConflict

log = structlog.get_logger(__name__)

Backend = Literal["queue", "cache", "presence", "database", "job_intake", "rate_limits"]

#: a back end that fails within this many seconds of its recovery is flapping
FLAPPING_WITHIN = 10.0
#: seconds without a failure that a flapping back end needs to recover; doubled by each further outage
FIRST_DAMPING = 1.0
MAX_DAMPING = 8.0


class BackendHealth:
    """Whether one back end is available, as reported by the operations that use it. Does no I/O.

    Report a success only for a write: a server may answer reads and a PING while it refuses writes.
    """

    def __init__(
        self, backend: Backend, *, stable_for: float = 0.0, timer: Callable[[], float] = time.monotonic
    ) -> None:
        """stable_for: seconds without a failure before a success ends an outage. timer: returns monotonic seconds."""
        self.backend = backend
        self._stable_for = stable_for
        self._timer = timer
        self._down_since: float | None = None
        self._recovered_at: float | None = None
        self._last_failure = 0.0
        self._damping = 0.0

    @property
    def is_available(self) -> bool:
        """False from the first failure until the recovery."""
        return self._down_since is None

    @property
    def down_seconds(self) -> float | None:
        """Seconds since the outage began; None = the back end is available."""
        return None if self._down_since is None else self._timer() - self._down_since

    def record_failure(self, error: BackendError) -> bool:
        """Record a failed operation; return whether it began an outage. A conflict is none: the back end answered."""
        if isinstance(error, TransactionConflict):
            return False
        now = self._last_failure = self._timer()
        if self._down_since is not None:
            return False
        if self._recovered_at is not None and now - self._recovered_at < FLAPPING_WITHIN:
            self._damping = min(max(2 * self._damping, FIRST_DAMPING), MAX_DAMPING)
        else:
            self._damping = 0.0
        self._down_since = now
        log.warning("backend_unavailable", backend=self.backend, error=error.message)
        return True

    def record_own_failure(self, error: BackendError) -> bool:
        """Do as `record_failure`, but ignore an error that names another back end."""
        return error.backend in (None, self.backend) and self.record_failure(error)

    def record_success(self) -> bool:
        """Record a successful write; return whether it ended an outage. One too soon after a failure does not."""
        if self._down_since is None:
            return False
        now = self._timer()
        if now - self._last_failure < max(self._stable_for, self._damping):
            return False
        log.info("backend_recovered", backend=self.backend, down_seconds=round(now - self._down_since, 1))
        self._down_since, self._recovered_at = None, now
        return True
