"""Tasks: small, versioned messages on the queue that contain ids only. The reconciler re-enqueues lost tasks."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from tidings.model.priority import Lane


class TaskKind(StrEnum):
    #: plan the next page of a notification's audience; `ref` = notification id
    FAN_OUT = "fan_out"
    #: send a batch of deliveries; `ref` = batch id
    DELIVER = "deliver"
    #: send a single delivery in isolation, because a worker died while it sent it; `ref` = batch id
    DELIVER_ALONE = "deliver_alone"


@dataclass(frozen=True, slots=True)
class Task:
    """A reference to work in the database."""

    #: deduplication key: the same work published twice has the same id
    id: str
    kind: TaskKind
    ref: str
    lane: Lane
    due_at: datetime
    version: int = 1
    #: raised when work is re-enqueued, so that the queue does not discard it as a duplicate (decisions 8 and 11)
    generation: int = 0
