"""The four priorities. Each is also a lane: its own path through the queue, so urgent work never waits."""

from enum import StrEnum


class Priority(StrEnum):
    """How soon a notification must go out, most urgent first (MISSION M27)."""

    URGENT = "urgent"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


#: A lane has the name of its priority.
Lane = Priority
LANES: tuple[Lane, ...] = tuple(Priority)
