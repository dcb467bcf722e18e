"""What travels on the queue: small, versioned, id-only. Losing a task loses nothing, a sweep finds the work again."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from tidings.model.priority import Lane


class TaskKind(StrEnum):
    #: plan the next page of a notification's audience; `ref` = notification id
    FAN_OUT = "fan_out"
    #: send a batch of deliveries; `ref` = batch id
    DELIVER = "deliver"
    #: send a batch of one that was in flight when a worker died, with nothing else of its kind beside it
    DELIVER_ALONE = "deliver_alone"


@dataclass(frozen=True, slots=True)
class Task:
    """A hint that there is work; the database says what the work is."""

    #: what makes a repeat of it recognisable: the same work published twice has the same id
    id: str
    kind: TaskKind
    ref: str
    lane: Lane
    due_at: datetime
    version: int = 1
    #: raised when the same work must be told again although the queue may still know the id (facts: queue, 11)
    generation: int = 0
