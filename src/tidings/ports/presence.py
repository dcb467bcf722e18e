"""Who is there, and who has been gone for how long: heartbeats with a deadline, over one or several nodes (MISSION B9).

A room is any name; a member is a connection. A room that lost its last member is *vacated*; each vacancy is taken by
exactly one caller once its grace is over, and never if somebody came back meanwhile.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Vacancy:
    """A room that nobody has been in for its grace."""

    room: str
    #: last sign of life of its last member
    since: datetime
    #: counts how often the room was vacated; with the room it names the vacancy
    epoch: int


class Presence(Protocol):
    """Rooms and their members. Raises BackendError when its server does not answer in time."""

    async def seen(self, room: str, member: str, *, until: datetime, grace: timedelta, now: datetime) -> None:
        """Say that a member is there, and that it counts as gone after `until` unless it is seen again."""
        ...

    async def left(self, room: str, member: str, *, now: datetime) -> None:
        """Say that a member went."""
        ...

    async def members(self, room: str, now: datetime) -> int: ...
    async def total(self, now: datetime) -> int:
        """Return how many members all rooms have together."""
        ...

    async def vacated(self, now: datetime, limit: int) -> Sequence[Vacancy]:
        """Take vacancies whose grace is over. Each is given to one caller, once."""
        ...

    async def close(self) -> None: ...
