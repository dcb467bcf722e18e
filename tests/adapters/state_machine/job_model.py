"""Reference model of the jobs in a queue: their allowed states and transitions. Pure."""

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum, auto

from tidings.ports.queue import LaneStats
from tidings.queues.bullmq_commands import BullMQJob


class JobState(Enum):
    """The state of a job."""

    #: waiting or delayed
    OPEN = auto()
    #: held by one consumer; no other consumer receives it
    HELD = auto()
    COMPLETED = auto()
    FAILED = auto()


class Settlement(Enum):
    """How a consumer settles a job."""

    COMPLETE = auto()
    FAIL = auto()
    RETRY = auto()
    REQUEUE = auto()


@dataclass(slots=True)
class JobRecord:
    """One job on the server."""

    state: JobState = JobState.OPEN
    #: the token of its holder
    token: str | None = None
    #: its holder settled it, but the server did not receive the settlement
    is_settlement_lost: bool = False
    #: failed attempts
    failed_attempts: int = 0
    #: how often it stalled
    stall_count: int = 0
    #: how often it was received, and how often that was allowed
    handout_count: int = 0
    max_handouts: int = 1


@dataclass(slots=True)
class JobModel:
    """All jobs that were added to the server and not lost."""

    max_stalls: int
    jobs: dict[str, JobRecord] = field(default_factory=dict)
    #: jobs that were delivered as broken
    broken_ids: set[str] = field(default_factory=set)
    #: ids of jobs that were lost when the server was flushed
    lost_ids: set[str] = field(default_factory=set)

    def add(self, job_id: str) -> None:
        self.jobs.setdefault(job_id, JobRecord())

    def record_handout(self, job: BullMQJob) -> None:
        """Assert that a job may be received, and record that it was."""
        if job.id in self.lost_ids:
            # received before the server lost it: its settlement has no effect
            return
        record = self.jobs[job.id]
        assert record.state is JobState.OPEN or record.is_settlement_lost, (
            f"received although it is {record.state.name}"
        )
        assert job.attempts_made == record.failed_attempts
        assert (job.invalid_reason is not None) == (record.stall_count > self.max_stalls), job.invalid_reason
        assert job.data == {"is": job.id}
        record.max_handouts += record.is_settlement_lost
        record.state, record.token, record.is_settlement_lost = JobState.HELD, job.token, False
        record.handout_count += 1
        assert record.handout_count <= record.max_handouts, "received more often than allowed"
        if job.invalid_reason is not None:
            self.broken_ids.add(job.id)

    def record_settlement(self, job: BullMQJob, settlement: Settlement, *, is_received: bool) -> None:
        """Record a settlement, and whether the server received it. Settlements of other consumers have no effect."""
        record = self.jobs.get(job.id)
        if record is None or record.state is not JobState.HELD or record.token != job.token:
            return
        if not is_received:
            record.is_settlement_lost = True
            return
        record.token = None
        match settlement:
            case Settlement.COMPLETE:
                record.state = JobState.COMPLETED
            case Settlement.FAIL:
                record.state = JobState.FAILED
            case Settlement.RETRY:
                record.state = JobState.OPEN
                record.failed_attempts += 1
                record.max_handouts += 1
            case Settlement.REQUEUE:
                record.state = JobState.OPEN
                record.max_handouts += 1

    def record_stall(self, job_id: str) -> None:
        """Record that the lock of a job expired, perhaps before the consumer received the job."""
        record = self.jobs[job_id]
        assert record.state in (JobState.OPEN, JobState.HELD), (
            f"a consumer still holds it although it is {record.state.name}"
        )
        record.max_handouts += record.state is JobState.HELD
        record.state, record.token, record.is_settlement_lost = JobState.OPEN, None, False
        record.stall_count += 1

    @property
    def held_tokens(self) -> set[tuple[str, str | None]]:
        """Id and token of each held job."""
        return {(job_id, record.token) for job_id, record in self.jobs.items() if record.state is JobState.HELD}

    @property
    def has_unfinished(self) -> bool:
        return any(record.state in (JobState.OPEN, JobState.HELD) for record in self.jobs.values())

    def record_flush(self) -> None:
        self.lost_ids |= self.jobs.keys()
        self.jobs.clear()

    def check(self, stats: LaneStats) -> None:
        """Assert that the server's counts match the model."""
        count_by_state = Counter(record.state for record in self.jobs.values())
        assert (
            stats.waiting + stats.active + stats.delayed
            == count_by_state[JobState.OPEN] + count_by_state[JobState.HELD]
        )
        assert stats.active >= sum(
            record.state is JobState.HELD and not record.is_settlement_lost for record in self.jobs.values()
        )
        assert (stats.completed, stats.failed) == (count_by_state[JobState.COMPLETED], count_by_state[JobState.FAILED])
