"""Parts of the store for operations: user rate limits, dead letters, heartbeats, scheduled tasks."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from tidings.model.priority import Lane
from tidings.ports.transaction import Transaction


class UserRateLimits(Protocol):
    """Notifications counted per user in a sliding window, exact under concurrency."""

    async def consume(
        self,
        tx: Transaction,
        scope: str,
        user_ids: Collection[str],
        *,
        limit: int,
        window: timedelta,
        now: datetime,
        is_enforced: bool = True,
    ) -> set[str]:
        """Count one notification for each user and return the users who stay within `limit` per `window`.

        Runs as one statement for a whole page. Nothing is counted for users who are not returned. scope: what is
        counted together: a category, `""` for all categories without a limit of their own, a throttle or a cap.
        is_enforced: if false, users over the limit are counted and returned, too.
        """
        ...

    async def release(self, tx: Transaction, scope: str, user_ids: Collection[str]) -> None:
        """Take back the newest notification that was counted for each user. Only for those counted in `tx`."""
        ...

    async def list_times(
        self, tx: Transaction, scope: str, user_ids: Collection[str], *, window: timedelta, now: datetime
    ) -> Mapping[str, Sequence[datetime]]:
        """Return user id → the times that count in the window, the oldest first, at most as many as the limit."""
        ...

    async def purge(self, tx: Transaction, now: datetime) -> int:
        """Delete counters of which nothing counts any more. Returns how many."""
        ...


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A permanently failed or quarantined delivery that an operator may replay or discard."""

    id: str
    notification_id: str
    template_code: str
    category: str
    user_id: str
    channel: str
    lane: Lane
    #: the provider's last answer, or the reason for the quarantine
    error: str
    #: HTTP status of the last answer, None = there was none
    status: int | None
    attempts: int
    #: workers that died while they sent it
    crashes: int
    #: when it failed for good
    died_at: datetime
    #: expiry of its notification: nothing is sent after this
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Criteria that a dead letter must meet; None = any."""

    ids: Sequence[str] | None = None
    #: the error as shown by `group_by_error`, or the part of it before one of its colons
    error: str | None = None
    notification_id: str | None = None
    template_code: str | None = None
    channel: str | None = None
    user_id: str | None = None
    #: failed at or after this instant …
    since: datetime | None = None
    #: … and before this one
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """Dead letters with the same error."""

    error: str
    count: int
    first_at: datetime
    last_at: datetime


class DeadLetters(Protocol):
    """Dead letters, for an operator to inspect, replay or discard."""

    async def page(
        self, tx: Transaction, which: DeadLetterFilter, *, before: str | None, limit: int
    ) -> Sequence[DeadLetter]:
        """Return a page, newest first by id. before: the last id of the previous page."""
        ...

    async def group_by_error(self, tx: Transaction, which: DeadLetterFilter, *, limit: int) -> Sequence[ErrorGroup]:
        """Group by error, the most frequent first."""
        ...

    async def count(self, tx: Transaction, *, limit: int) -> int:
        """Return their number, at most `limit`."""
        ...

    async def replay(
        self, tx: Transaction, which: DeadLetterFilter, *, due_at: datetime, limit: int, now: datetime
    ) -> Sequence[str]:
        """Make up to `limit` of them pending again, due at `due_at`, with a new set of attempts. Returns their ids.

        Dead letters of expired or cancelled notifications are left unchanged.
        """
        ...

    async def discard(self, tx: Transaction, which: DeadLetterFilter, *, limit: int, now: datetime) -> int:
        """Discard up to `limit` of them for good. Returns how many."""
        ...


@dataclass(frozen=True, slots=True)
class Process:
    """A running process as of its last heartbeat."""

    id: str
    #: `serve`, `api` or `worker`
    kind: str
    host: str
    pid: int
    started_at: datetime
    seen_at: datetime
    #: figures for operators: sends in flight, unwritten outcomes, drain state
    detail: dict[str, object] = field(default_factory=dict)


class Processes(Protocol):
    """Heartbeats of all processes that share this database."""

    async def heartbeat(self, tx: Transaction, process: Process) -> None:
        """Insert or update the heartbeat of a process."""
        ...

    async def deregister(self, tx: Transaction, process_id: str) -> None:
        """Remove a process that shut down gracefully."""
        ...

    async def list_alive(self, tx: Transaction, since: datetime) -> Sequence[Process]:
        """Return the processes with a heartbeat since an instant."""
        ...

    async def purge(self, tx: Transaction, before: datetime) -> int:
        """Delete processes whose last heartbeat is older than an instant. Returns how many."""
        ...


class Schedules(Protocol):
    """Scheduled tasks: work that runs at intervals, once among all processes."""

    async def claim_run(self, tx: Transaction, name: str, *, every: timedelta, now: datetime) -> bool:
        """Claim a due run; True for one process only. The first call creates the schedule, due immediately.

        Missed runs are made up for once: the next run is due at the first occurrence of the schedule after `now`. A
        clock that jumped back delays the schedule by at most `every`.
        """
        ...

    async def next_run_at(self, tx: Transaction, name: str) -> datetime | None:
        """Return when the next run is due, None = the schedule does not exist yet."""
        ...
