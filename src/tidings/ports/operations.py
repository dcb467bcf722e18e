"""What operating at scale adds to the store: limits per user, dead letters, heartbeats, schedules."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from tidings.model.priority import Lane
from tidings.ports.transaction import Transaction


class UserLimits(Protocol):
    """How many notifications a user got lately (MISSION M18): a sliding window, exact under concurrency."""

    async def take(
        self, tx: Transaction, scope: str, user_ids: Collection[str], *, limit: int, window: timedelta, now: datetime
    ) -> set[str]:
        """Count one notification for each user and return those who stay within `limit` per `window`.

        One statement for a whole page. Who is not returned is not counted. scope: what is counted together, `""` for
        all categories without a limit of their own.
        """
        ...

    async def purge(self, tx: Transaction, before: datetime) -> int:
        """Erase what was last counted before an instant."""
        ...


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A delivery that was given up for a reason that may be mended: refused for good, or quarantined."""

    id: str
    notification_id: str
    template_code: str
    category: str
    user_id: str
    channel: str
    lane: Lane
    #: the last answer, or why it is quarantined
    error: str
    #: HTTP status of the last answer, None = there was none
    status: int | None
    attempts: int
    #: workers that died while they had it
    crashes: int
    #: when it was given up
    died_at: datetime
    #: nothing of its notification is sent after this
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which dead letters; what is None does not narrow."""

    ids: Sequence[str] | None = None
    #: the error, as `by_error` shows it, or what it says before one of its colons
    error: str | None = None
    notification_id: str | None = None
    template_code: str | None = None
    channel: str | None = None
    user_id: str | None = None
    #: given up from … (inclusive)
    since: datetime | None = None
    #: … to (exclusive)
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """Dead letters with the same error."""

    error: str
    count: int
    first_at: datetime
    last_at: datetime


class DeadLetters(Protocol):
    """What was given up, for an operator to look at, send again or put away (MISSION M9)."""

    async def page(
        self, tx: Transaction, which: DeadLetterFilter, *, before: str | None, limit: int
    ) -> Sequence[DeadLetter]:
        """Newest first by id; `before` is the id the last page ended with."""
        ...

    async def by_error(self, tx: Transaction, which: DeadLetterFilter, *, limit: int) -> Sequence[ErrorGroup]:
        """Group by error, the most frequent first."""
        ...

    async def count(self, tx: Transaction, *, most: int) -> int:
        """Count them, `most` at most."""
        ...

    async def replay(
        self, tx: Transaction, which: DeadLetterFilter, *, due_at: datetime, limit: int, now: datetime
    ) -> Sequence[str]:
        """Make up to `limit` of them pending again, due at `due_at`, with fresh attempts. Returns their ids.

        Those whose notification has expired or was cancelled stay dead.
        """
        ...

    async def discard(self, tx: Transaction, which: DeadLetterFilter, *, limit: int, now: datetime) -> int:
        """Take up to `limit` of them off the list for good. Returns how many."""
        ...


@dataclass(frozen=True, slots=True)
class Process:
    """One running process, as it last said itself."""

    id: str
    #: `serve`, `api` or `worker`
    kind: str
    host: str
    pid: int
    started_at: datetime
    seen_at: datetime
    #: figures of its own for people: sends in flight, unwritten outcomes, drain state
    detail: dict[str, object] = field(default_factory=dict)


class Processes(Protocol):
    """Heartbeats of every process on this database."""

    async def beat(self, tx: Transaction, process: Process) -> None:
        """Say that a process is alive."""
        ...

    async def leave(self, tx: Transaction, process_id: str) -> None:
        """Say that it ended in order."""
        ...

    async def seen(self, tx: Transaction, since: datetime) -> Sequence[Process]:
        """Return those that were alive since an instant."""
        ...

    async def purge(self, tx: Transaction, before: datetime) -> int:
        """Forget those that were not seen since."""
        ...


class Schedules(Protocol):
    """What runs at intervals, once among all processes (MISSION M22)."""

    async def claim(self, tx: Transaction, name: str, *, every: timedelta, now: datetime) -> bool:
        """Take a run that is due, for one of all processes; the first call starts the schedule, due at once.

        Missed runs are caught up once: the next is due at the first beat of the schedule after `now`. A clock that
        jumped back does not stop it for longer than `every`.
        """
        ...

    async def next_run(self, tx: Transaction, name: str) -> datetime | None:
        """Return when it is due next, None = never started."""
        ...
