"""What is allowed to become of a job, written down naively. Pure."""

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum, auto

from tidings.ports.queue import LaneStats
from tidings.queues.bullmq_commands import Job


class State(Enum):
    """Where a job is."""

    #: somebody gets it, now or after a pause
    OPEN = auto()
    #: in somebody's hands, and nobody else gets it
    HELD = auto()
    COMPLETED = auto()
    FAILED = auto()


class Settling(Enum):
    """What its taker says about a job."""

    COMPLETE = auto()
    FAIL = auto()
    RETRY = auto()
    GIVE_BACK = auto()


@dataclass(slots=True)
class Known:
    """One job that the server has."""

    state: State = State.OPEN
    #: of whom has it in hands
    token: str | None = None
    #: its holder has done with it, and could not tell the server
    let_go: bool = False
    #: failed tries
    tries: int = 0
    #: takers that fell silent with it
    stalls: int = 0
    #: how often it was handed out, and how often there was a reason to
    handed_out: int = 0
    reasons: int = 1


@dataclass(slots=True)
class Ledger:
    """All jobs that the server was given and has not lost."""

    most_stalls: int
    jobs: dict[str, Known] = field(default_factory=dict)
    #: ever handed out as broken
    broken: set[str] = field(default_factory=set)
    #: ids that went with the server's memory
    lost: set[str] = field(default_factory=set)

    def add(self, job_id: str) -> None:
        self.jobs.setdefault(job_id, Known())

    def taken(self, job: Job) -> None:
        """Assert that a job may be handed out, and note that it was."""
        if job.id in self.lost:
            # fetched before the server lost it: whatever is said about it now is not heard
            return
        known = self.jobs[job.id]
        assert known.state is State.OPEN or known.let_go, f"handed out although it is {known.state.name}"
        assert job.attempts_made == known.tries
        assert (job.broken is not None) == (known.stalls > self.most_stalls), job.broken
        assert job.data == {"is": job.id}
        known.reasons += known.let_go
        known.state, known.token, known.let_go = State.HELD, job.token, False
        known.handed_out += 1
        assert known.handed_out <= known.reasons, "handed out more often than there was a reason to"
        if job.broken is not None:
            self.broken.add(job.id)

    def settled(self, job: Job, how: Settling, *, heard: bool) -> None:
        """Note what the holder of a job said, and whether the server heard it; others are never heard."""
        known = self.jobs.get(job.id)
        if known is None or known.state is not State.HELD or known.token != job.token:
            return
        if not heard:
            known.let_go = True
            return
        known.token = None
        match how:
            case Settling.COMPLETE:
                known.state = State.COMPLETED
            case Settling.FAIL:
                known.state = State.FAILED
            case Settling.RETRY:
                known.state = State.OPEN
                known.tries += 1
                known.reasons += 1
            case Settling.GIVE_BACK:
                known.state = State.OPEN
                known.reasons += 1

    def stalled(self, job_id: str) -> None:
        """Note that whoever had a job was silent for too long, perhaps before it was handed out."""
        known = self.jobs[job_id]
        assert known.state in (State.OPEN, State.HELD), f"it is {known.state.name} and still in somebody's hands"
        known.reasons += known.state is State.HELD
        known.state, known.token, known.let_go = State.OPEN, None, False
        known.stalls += 1

    @property
    def held(self) -> set[tuple[str, str | None]]:
        """Id and token of what is in somebody's hands."""
        return {(job_id, one.token) for job_id, one in self.jobs.items() if one.state is State.HELD}

    @property
    def unfinished(self) -> bool:
        return any(one.state in (State.OPEN, State.HELD) for one in self.jobs.values())

    def flushed(self) -> None:
        self.lost |= self.jobs.keys()
        self.jobs.clear()

    def check(self, stats: LaneStats) -> None:
        """Assert that the server's counts sum to the ledger."""
        count = Counter(one.state for one in self.jobs.values())
        assert stats.waiting + stats.active + stats.delayed == count[State.OPEN] + count[State.HELD]
        assert stats.active >= sum(one.state is State.HELD and not one.let_go for one in self.jobs.values())
        assert (stats.completed, stats.failed) == (count[State.COMPLETED], count[State.FAILED])
