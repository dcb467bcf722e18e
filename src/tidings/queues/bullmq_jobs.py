"""Tasks as BullMQ jobs and back: pure, versioned, ids only."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec

from tidings.errors import Invalid
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind

#: notifications planned together travel in one job (a job costs about as much as fifty ids in it)
FAN_OUTS_IN_A_JOB = 50
#: of the data below; a reader refuses what it does not know
VERSION = 1

_EPOCH = datetime.fromtimestamp(0, UTC)
_MICROSECOND = timedelta(microseconds=1)


class _Carried(msgspec.Struct, array_like=True, frozen=True):
    """One task in a job; the job's name is its kind, the queue its lane."""

    id: str
    ref: str
    generation: int
    #: microseconds since 1970
    due: int


class _Data(msgspec.Struct, frozen=True):
    v: int
    ids: list[_Carried]


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be added."""

    #: a job is not added while another of this id is kept, finished ones too (facts: queue, 11)
    id: str
    name: str
    #: plain JSON
    data: object
    #: when it is due; it waits in the delayed set until then
    due_at: datetime


def jobs_of(tasks: Sequence[Task]) -> list[NewJob]:
    """Return the jobs that carry tasks of one lane: one each, and FAN_OUT tasks up to fifty in a job, in order."""
    jobs: list[NewJob] = []
    together: list[Task] = []
    for task in tasks:
        if task.kind is not TaskKind.FAN_OUT:
            jobs.append(_job([task]))
            continue
        together.append(task)
        if len(together) == FAN_OUTS_IN_A_JOB:
            jobs.append(_job(together))
            together = []
    if together:
        jobs.append(_job(together))
    return jobs


def data_of(tasks: Iterable[Task]) -> object:
    """Return the data of a job that carries these tasks."""
    carried = [_Carried(task.id, task.ref, task.generation, (task.due_at - _EPOCH) // _MICROSECOND) for task in tasks]
    return msgspec.to_builtins(_Data(VERSION, carried))


def tasks_of(name: str, data: object, lane: Lane) -> list[Task]:
    """Return the tasks a job carries. Raises Invalid for one that is not ours or of a later version."""
    try:
        read = msgspec.convert(data, _Data)
        kind = TaskKind(name)
        tasks = [
            Task(one.id, kind, one.ref, lane, _EPOCH + one.due * _MICROSECOND, generation=one.generation)
            for one in read.ids
        ]
    except (msgspec.ValidationError, ValueError, OverflowError) as error:
        raise Invalid(f"not a job of this lane: {error}") from None
    if read.v != VERSION:
        raise Invalid(f"a job of version {read.v}; this worker reads version {VERSION}")
    return tasks


def _job(tasks: Sequence[Task]) -> NewJob:
    return NewJob(_job_id(tasks), tasks[0].kind.value, data_of(tasks), max(task.due_at for task in tasks))


def _job_id(tasks: Sequence[Task]) -> str:
    """`<task id>-<generation>`; of several tasks a digest of all, so that no job hides another's work behind its id."""
    keys = [f"{task.id}-{task.generation}" for task in tasks]
    if len(keys) == 1:
        return keys[0]
    return f"together-{hashlib.sha256(' '.join(keys).encode()).hexdigest()[:32]}"
