"""The four priorities. Each has a lane of its own in the queue, so that urgent work does not wait for other work."""

from enum import StrEnum


class Priority(StrEnum):
    """How soon a notification must be sent, the most urgent first."""

    URGENT = "urgent"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


#: a lane has the name of its priority
Lane = Priority
LANES: tuple[Lane, ...] = tuple(Priority)
