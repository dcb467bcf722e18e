"""Presence in rooms over one or several nodes: who watches, and when a room has ended.

A node is a process that holds connections. It reports each of its rooms at intervals and after changes; a report is a
lease. A room without a live lease is in its grace period, which counts from the last sign of life of its last viewer.
At the end of the grace period the end of the room's epoch is decided once.

All durations are seconds, relative to the moment of the call. So only the clock of the presence counts: the clocks of
nodes may differ by any amount.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

#: seconds without a sweep by any node, as a part of the lease of a node, after which decisions are held back
MAX_SWEEP_GAP = 1 / 3


@dataclass(frozen=True, slots=True)
class RoomReport:
    """The viewers that one node has in a room."""

    room: str
    connections: int
    #: seconds for which the room stays live without a further report; 0 = the node has nobody there
    lease: float
    #: seconds since the last sign of life of any of the node's viewers
    silent_for: float
    #: the grace period of the room
    grace: float
    #: users whose first connection to the node began since its last report
    joined: Collection[str] = ()
    #: users whose last connection to the node ended since its last report
    left: Collection[str] = ()
    #: whether `joined` is the complete list of the node's users
    is_complete: bool = False
    #: seconds until a user who left counts as departed, unless present again
    departure_delay: float = 0.0


@dataclass(frozen=True, slots=True)
class RoomView:
    """A room as all nodes together see it."""

    room: str
    #: None = not numbered yet
    epoch: int | None
    #: an epoch whose end is decided but not confirmed as recorded
    unrecorded: int | None
    is_live: bool
    users: int
    connections: int
    #: whether a node other than the reporting one has a live lease
    has_others: bool = False
    #: the users of `RoomReport.joined` who were absent before
    arrived: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EpochEnd:
    """The decision that an epoch of a room has ended."""

    room: str
    epoch: int
    #: seconds since the last sign of life of its last viewer
    silent_for: float


@dataclass(frozen=True, slots=True)
class Sweep:
    """What became due."""

    ends: Sequence[EpochEnd] = ()
    #: rooms at the end of their grace period whose epoch is not numbered
    unnumbered: Sequence[str] = ()
    #: room and user: those who stayed away for the departure delay
    departed: Sequence[tuple[str, str]] = ()


class Presence(Protocol):
    """Rooms and their viewers. Calls raise BackendError when the server does not answer in time."""

    @property
    def resync_version(self) -> int:
        """Grows when the presence may have lost reports: each node then sends complete reports of all its rooms."""
        ...

    async def report(self, node: str, reports: Sequence[RoomReport]) -> Sequence[RoomView]:
        """Store the reports of a node, and return the rooms in the same order.

        A live lease in a room whose end was decided begins a new epoch, which is not numbered.
        """
        ...

    async def sweep(self, limit: int, *, node_lease: float) -> Sweep:
        """Remove expired leases, and decide the ends that are due. Each is returned to one caller.

        An end that is not confirmed within `CONFIRM_WITHIN` is returned again. Without a sweep by any node for more
        than `MAX_SWEEP_GAP` of `node_lease`, nodes may have been unable to report: no end is decided for `node_lease`.
        """
        ...

    async def set_epoch(self, room: str, epoch: int) -> None:
        """Number the present epoch of a room, unless it is numbered."""
        ...

    async def confirm_end(self, room: str, epoch: int | None) -> None:
        """State that the end of an epoch is recorded; None = that a room never had an epoch. Forgets an empty room.

        If the epoch is still the present one because it ended elsewhere, its live room becomes a new epoch.
        """
        ...

    async def get_room(self, room: str) -> RoomView | None: ...
    async def list_rooms(self, after: str, limit: int) -> Sequence[RoomView]:
        """Return rooms with a live lease, in the order of their names."""
        ...

    async def count_connections(self) -> int:
        """Return the connections of all nodes together, without a list of rooms."""
        ...

    async def remove_node(self, node: str) -> None:
        """Remove the leases of a node that ended. Its rooms keep the time of the last sign of life."""
        ...

    async def start_node(self, name: str, node: str) -> None:
        """Register the process `node` under a stable name, and remove the leases of its predecessor of that name."""
        ...

    async def close(self) -> None: ...
