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


@dataclass(frozen=True, slots=True)
class Task:
    """A hint that there is work; the database says what the work is."""

    #: id of the outbox row it came from, or of the batch when re-driven
    id: str
    kind: TaskKind
    ref: str
    lane: Lane
    due_at: datetime
    version: int = 1
