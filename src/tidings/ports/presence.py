"""Who is there, and who has been gone for how long: heartbeats with a deadline, over one or several nodes (MISSION B9).

A room is any name; a member is a connection. A room that lost its last member is *vacated*; each vacancy is taken by
exactly one caller once its grace is over, and never if somebody came back meanwhile.

All instants come from the caller. Nodes may disagree about the time by seconds: a deadline is off by as much.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Vacancy:
    """A room that nobody has been in for its grace."""

    room: str
    #: the last sign of life that anybody in it gave
    since: datetime
    #: grows with each vacancy of the room; with the room it names the vacancy, also after its server forgot everything
    epoch: int


class Presence(Protocol):
    """Rooms and their members. Raises BackendError when its server does not answer in time."""

    async def seen(self, room: str, member: str, *, until: datetime, grace: timedelta, now: datetime) -> None:
        """Say that a member is there, and that it counts as gone from `until` on unless it is seen again.

        What was said last holds, also if it is earlier. grace: of the room, the last one given holds.
        """
        ...

    async def left(self, room: str, member: str, *, now: datetime) -> None:
        """Say that a member went. The grace of a room that nobody is in any more begins now."""
        ...

    async def members(self, room: str, now: datetime) -> int: ...
    async def total(self, now: datetime) -> int:
        """Return how many members all rooms have together."""
        ...

    async def vacated(self, now: datetime, limit: int) -> Sequence[Vacancy]:
        """Take vacancies whose grace is over. Each is given to one caller, once.

        This is also the look at who fell silent, so call it every second or so: the grace of a room whose last member
        fell silent begins with the first look after that member's `until`. After a time without looks, or a clock that
        jumped forward, everybody has that grace to be seen again; one that jumped back is noticed here and mended.
        """
        ...

    async def close(self) -> None: ...
