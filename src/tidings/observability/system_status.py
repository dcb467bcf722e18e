"""System status: lanes, oldest waiting work, running processes and dead letters. A few cheap, bounded queries."""

from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from tidings.concurrency import run_with_deadline
from tidings.errors import BackendError
from tidings.model.priority import LANES, Lane
from tidings.ports.clock import Clock
from tidings.ports.operations import Process
from tidings.ports.queue import LaneStats, Queue
from tidings.ports.store import Store

_T = TypeVar("_T")
#: seconds until a status query to the database times out
QUERY_TIMEOUT = 3.0
#: a process without a heartbeat for this long has ended or is stuck; heartbeats are sent every five seconds
HEARTBEAT_TIMEOUT = timedelta(seconds=30)
#: seconds without a tick of its background tasks after which a worker is stuck; they tick twice a second
STUCK_AFTER = 30.0
#: maximum number of dead letters counted: enough to see whether they exist and increase
MAX_DEAD_LETTERS_COUNTED = 1_000
#: open digests are counted up to this many
MAX_OPEN_DIGESTS_COUNTED = 10_000
#: kinds of processes with a heartbeat
PROCESS_KINDS = ("serve", "api", "worker")
#: those that send
WORKER_KINDS = ("serve", "worker")


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """The state of the queue and the age of the waiting work."""

    #: empty when the queue is unavailable
    lanes: Mapping[Lane, LaneStats]
    #: the intake queue; None = not configured or unavailable
    external_stats: LaneStats | None
    #: why the queue is unavailable; None = it is available
    unavailable_reason: str | None
    #: due time of the earliest task in the outbox; None = the outbox is empty
    next_due_at: datetime | None
    #: age of the oldest waiting task per lane, in seconds
    lag: Mapping[Lane, float]
    #: age of the oldest due task in the outbox, in seconds
    outbox_age: float
    #: age of the oldest waiting job in the intake queue, in seconds
    external_lag: float

    @property
    def max_lag(self) -> float:
        """Age of the oldest waiting work, in seconds."""
        return max(self.outbox_age, *self.lag.values()) if self.lag else self.outbox_age


async def load_queue_status(store: Store, queue: Queue, clock: Clock) -> QueueStatus:
    """Query the queue and the database. Raises BackendError if the database does not respond in time."""
    lanes: dict[Lane, LaneStats] = {}
    intake_stats = unavailable_reason = None
    try:
        for lane in LANES:
            lanes[lane] = await queue.stats(lane)
        await queue.ping()
        # caught separately: other services write to the intake queue, and its errors do not concern the lanes
        with suppress(BackendError):
            intake_stats = await queue.external_stats()
    except BackendError as error:
        lanes, unavailable_reason = {}, error.message
    next_due_at = await query_with_timeout(_load_next_due_at(store))
    now = clock.now()
    return QueueStatus(
        lanes=lanes,
        external_stats=intake_stats,
        unavailable_reason=unavailable_reason,
        next_due_at=next_due_at,
        lag={lane: _age(stats.oldest_published_at, now) for lane, stats in lanes.items()},
        outbox_age=_age(next_due_at, now),
        external_lag=0.0 if intake_stats is None else _age(intake_stats.oldest_published_at, now),
    )


async def list_live_processes(store: Store, clock: Clock) -> Sequence[Process]:
    """Return the processes with a recent heartbeat. Raises BackendError if the database does not respond in time."""
    return await query_with_timeout(_list_live(store, clock.now() - HEARTBEAT_TIMEOUT))


async def count_dead_letters(store: Store) -> int:
    """Count dead letters, up to `MAX_DEAD_LETTERS_COUNTED`. Raises BackendError like `list_live_processes`."""
    return await query_with_timeout(_count_dead_letters(store))


def is_stuck(process: Process) -> bool:
    """Return whether a worker sends heartbeats but its background tasks do not run."""
    age = process.detail.get("roundAge")
    return isinstance(age, int | float) and age > STUCK_AFTER


async def query_with_timeout(query: Coroutine[Any, Any, _T]) -> _T:
    """Run a status query with a timeout of `QUERY_TIMEOUT` seconds. Raises BackendError when it expires."""
    try:
        return await run_with_deadline(QUERY_TIMEOUT, query)
    except TimeoutError as error:
        raise BackendError(f"the database did not answer within {QUERY_TIMEOUT:g} s", backend="database") from error


async def _load_next_due_at(store: Store) -> datetime | None:
    async with store.read_snapshot() as tx:
        return await store.outbox.next_due_at(tx)


async def _list_live(store: Store, since: datetime) -> Sequence[Process]:
    async with store.read_snapshot() as tx:
        return await store.processes.list_alive(tx, since)


async def _count_dead_letters(store: Store) -> int:
    async with store.read_snapshot() as tx:
        return await store.dead_letters.count(tx, limit=MAX_DEAD_LETTERS_COUNTED)


def _age(since: datetime | None, now: datetime) -> float:
    return 0.0 if since is None else max(0.0, (now - since).total_seconds())


async def count_open_digests(store: Store) -> int:
    """Count open digests, up to `MAX_OPEN_DIGESTS_COUNTED`. Raises BackendError."""
    return await query_with_timeout(_count_open_digests(store))


async def _count_open_digests(store: Store) -> int:
    async with store.read_snapshot() as tx:
        return await store.digests.count_open(tx, limit=MAX_OPEN_DIGESTS_COUNTED)
