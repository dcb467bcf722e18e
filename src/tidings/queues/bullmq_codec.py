"""The codec between tasks and BullMQ jobs. Pure. The job format is versioned and contains ids only."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec

from tidings.errors import ValidationFailed
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind

#: fan-out tasks per job; a job costs about as much as fifty ids inside it
FAN_OUTS_PER_JOB = 50
#: version of the job data below; a worker rejects other versions
FORMAT_VERSION = 1

_UNIX_EPOCH = datetime.fromtimestamp(0, UTC)
_MICROSECOND = timedelta(microseconds=1)


class _TaskPayload(msgspec.Struct, array_like=True, frozen=True):
    """One task in a job; the job's name is its kind, the queue its lane."""

    id: str
    ref: str
    generation: int
    #: microseconds since 1970
    due_microseconds: int


class _JobPayload(msgspec.Struct, frozen=True):
    v: int
    ids: list[_TaskPayload]


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to add to a queue."""

    #: BullMQ ignores a job whose id it still keeps, even that of a finished job (decision 8, pitfall 11)
    id: str
    name: str
    #: a JSON value
    data: object
    #: the job stays in the delayed set until this time
    due_at: datetime


def encode_jobs(tasks: Sequence[Task]) -> list[NewJob]:
    """Return the jobs for tasks of one lane, in order.

    Up to `FAN_OUTS_PER_JOB` FAN_OUT tasks share a job. Any other task has its own.
    """
    jobs: list[NewJob] = []
    fan_outs: list[Task] = []
    for task in tasks:
        if task.kind is not TaskKind.FAN_OUT:
            jobs.append(_build_job([task]))
            continue
        fan_outs.append(task)
        if len(fan_outs) == FAN_OUTS_PER_JOB:
            jobs.append(_build_job(fan_outs))
            fan_outs = []
    if fan_outs:
        jobs.append(_build_job(fan_outs))
    return jobs


def encode_data(tasks: Iterable[Task]) -> object:
    """Return the job data for these tasks, as a JSON value."""
    payloads = [
        _TaskPayload(task.id, task.ref, task.generation, (task.due_at - _UNIX_EPOCH) // _MICROSECOND) for task in tasks
    ]
    return msgspec.to_builtins(_JobPayload(FORMAT_VERSION, payloads))


def decode_tasks(name: str, data: object, lane: Lane) -> list[Task]:
    """Return the tasks of a job.

    name: the job's name, a task kind. Raises ValidationFailed for a job of another format or version.
    """
    try:
        payload = msgspec.convert(data, _JobPayload)
        kind = TaskKind(name)
        tasks = [
            Task(
                item.id,
                kind,
                item.ref,
                lane,
                _UNIX_EPOCH + item.due_microseconds * _MICROSECOND,
                generation=item.generation,
            )
            for item in payload.ids
        ]
    except (msgspec.ValidationError, ValueError, OverflowError) as error:
        raise ValidationFailed(f"not a valid lane job: {error}") from None
    if payload.v != FORMAT_VERSION:
        raise ValidationFailed(f"unsupported job version {payload.v}; this worker supports version {FORMAT_VERSION}")
    return tasks


def _build_job(tasks: Sequence[Task]) -> NewJob:
    return NewJob(_build_job_id(tasks), tasks[0].kind.value, encode_data(tasks), max(task.due_at for task in tasks))


def _build_job_id(tasks: Sequence[Task]) -> str:
    """Return `<task id>-<generation>`, or a digest for several tasks.

    The digest covers all of them: BullMQ would discard a job whose id it knows, together with any task that is new.
    """
    keys = [f"{task.id}-{task.generation}" for task in tasks]
    if len(keys) == 1:
        return keys[0]
    return f"together-{hashlib.sha256(' '.join(keys).encode()).hexdigest()[:32]}"
