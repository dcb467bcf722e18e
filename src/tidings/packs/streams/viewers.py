"""The viewers that are connected to this process, by room. Does no I/O.

All instants are seconds of the process's monotonic clock, except the end of a viewer's authorisation.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Protocol

from tidings.model.stream import CountBy, StreamEvent
from tidings.ports.presence import RoomReport, RoomView

#: tolerated delay of a heartbeat, as a part of the interval
HEARTBEAT_TOLERANCE = 0.5
#: slots of the timer wheel: each tick serves the viewers of one slot
WHEEL_SLOTS = 10


class CloseCode(IntEnum):
    """Why the server closes a WebSocket. After any code but REFUSED a client joins again."""

    RESTART = 1012
    #: the authorisation has ended: get a new token, then join again
    TOKEN_EXPIRED = 4401
    #: the user has no access to the stream
    REFUSED = 4403
    #: no sign of life within the lease
    SILENT = 4408
    #: the buffer is full: join again, which reads the state afresh
    TOO_SLOW = 4413
    #: too many connections of the user or of the address
    TOO_MANY = 4429


class Connection(Protocol):
    """The connection of a viewer. No method waits."""

    def send(self, message: bytes) -> None:
        """Queue a message. If the buffer is full, the connection is closed with TOO_SLOW."""
        ...

    def close(self, code: CloseCode) -> None:
        """Close the connection after the queued messages."""
        ...


@dataclass(frozen=True, slots=True)
class Timing:
    """The intervals of a node, derived from the heartbeat. Seconds."""

    heartbeat: float

    @property
    def viewer_lease(self) -> float:
        """How long a viewer without a sign of life counts as present."""
        return self.heartbeat * (2 + HEARTBEAT_TOLERANCE)

    @property
    def node_lease(self) -> float:
        """How long the report of a node counts."""
        return self.heartbeat * 1.5

    @property
    def report_interval(self) -> float:
        """The interval of reports without changes."""
        return self.heartbeat / 2

    @property
    def tick(self) -> float:
        """The interval of the timer wheel."""
        return self.heartbeat / WHEEL_SLOTS


@dataclass(slots=True, eq=False)
class Viewer:
    """One connection of a user to a room."""

    user_id: str
    room: "LocalRoom"
    connection: Connection
    #: the address of the client, as counted by the limit
    address: str
    authorized_until: datetime
    last_seen_at: float
    slot: int = 0
    #: whether it received the first message
    is_welcomed: bool = False


@dataclass(slots=True, eq=False)
class LocalRoom:
    """The viewers of one room in this process, and what changed since the last report."""

    event: StreamEvent
    grace: float
    count_by: CountBy
    #: the last sign of life of any viewer, of those who left too
    last_seen_at: float
    viewers: set[Viewer] = field(default_factory=set)
    #: user → connections
    users: dict[str, int] = field(default_factory=dict)
    #: until when viewers whose connections were lost count as present
    lost_until: float = 0.0
    joined: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    #: whether the next report lists all users
    needs_complete: bool = False
    #: as of the last report
    view: RoomView | None = None
    #: the number of viewers that was announced last
    announced: int = -1

    def count(self) -> int:
        """Return the number of viewers on all nodes, as the room counts them."""
        if self.view is None:
            return 0
        return self.view.users if self.count_by is CountBy.USER else self.view.connections

    def add(self, viewer: Viewer) -> None:
        """Add a viewer."""
        self.viewers.add(viewer)
        self.last_seen_at = max(self.last_seen_at, viewer.last_seen_at)
        self.users[viewer.user_id] = connections = self.users.get(viewer.user_id, 0) + 1
        if connections == 1:
            self.left.discard(viewer.user_id)
            self.joined.add(viewer.user_id)

    def remove(self, viewer: Viewer, *, is_clean: bool, now: float, lease: float) -> None:
        """Remove a viewer. is_clean: whether the client closed; else its lease continues from its last sign of life."""
        self.viewers.discard(viewer)
        if is_clean:
            self.last_seen_at = now
        else:
            self.lost_until = max(self.lost_until, viewer.last_seen_at + lease)
        self.users[viewer.user_id] -= 1
        if not self.users[viewer.user_id]:
            del self.users[viewer.user_id]
            self.joined.discard(viewer.user_id)
            self.left.add(viewer.user_id)

    def build_report(self, timing: Timing, now: float) -> RoomReport:
        """Return the report of the room, and forget the changes in it.

        A process that was suspended reports no lease until a viewer shows a sign of life again.
        """
        silent_for = max(0.0, now - self.last_seen_at)
        is_present = bool(self.viewers) and silent_for <= timing.viewer_lease
        lease = timing.node_lease if is_present else min(self.lost_until - now, timing.node_lease)
        is_complete = self.needs_complete and is_present
        report = RoomReport(
            self.event.id,
            connections=len(self.viewers) if is_present else 0,
            lease=max(0.0, lease),
            silent_for=silent_for,
            grace=self.grace,
            joined=tuple(self.users) if is_complete else tuple(self.joined),
            left=tuple(self.left),
            is_complete=is_complete,
            departure_delay=timing.node_lease,
        )
        self.joined, self.left = set(), set()
        # a presence that received no lease has removed the users
        self.needs_complete = report.lease <= 0
        return report

    def is_expired(self, timing: Timing, now: float) -> bool:
        """Return whether the room has nothing to report any more, not even after a reset of the presence."""
        return not self.viewers and now > self.last_seen_at + self.grace + 2 * timing.viewer_lease


class ViewerRegistry:
    """The rooms and viewers of this process, with the limits per user and address, and the timer wheel."""

    def __init__(self, timing: Timing, *, max_per_user: int, max_per_address: int, max_total: int) -> None:
        """max_…: connections; 0 = no limit."""
        self.timing = timing
        self.rooms: dict[str, LocalRoom] = {}
        self._limits = max_per_user, max_per_address, max_total
        self._by_user: dict[str, int] = {}
        self._by_address: dict[str, int] = {}
        self._wheel: list[set[Viewer]] = [set() for _ in range(WHEEL_SLOTS)]
        self._next_slot = 0
        self.total = 0

    def has_capacity(self, user_id: str, address: str) -> bool:
        """Return whether another connection is within the limits."""
        counts = self._by_user.get(user_id, 0), self._by_address.get(address, 0), self.total
        return all(not limit or count < limit for count, limit in zip(counts, self._limits, strict=True))

    def add(self, viewer: Viewer) -> None:
        """Register a viewer in its room and on the wheel."""
        viewer.room.add(viewer)
        self.rooms[viewer.room.event.id] = viewer.room
        viewer.slot = self.total % WHEEL_SLOTS
        self._wheel[viewer.slot].add(viewer)
        self._count(viewer, 1)

    def remove(self, viewer: Viewer, *, is_clean: bool, now: float) -> bool:
        """Remove a viewer; return False if it was removed before."""
        if viewer not in viewer.room.viewers:
            return False
        viewer.room.remove(viewer, is_clean=is_clean, now=now, lease=self.timing.viewer_lease)
        self._wheel[viewer.slot].discard(viewer)
        self._count(viewer, -1)
        return True

    def advance_wheel(self) -> list[Viewer]:
        """Return the viewers whose heartbeat is due, and advance the wheel by one slot."""
        slot, self._next_slot = self._next_slot, (self._next_slot + 1) % WHEEL_SLOTS
        return list(self._wheel[slot])

    def count_rooms(self) -> int:
        """Return the number of rooms with viewers in this process."""
        return sum(bool(room.viewers) for room in self.rooms.values())

    def _count(self, viewer: Viewer, change: int) -> None:
        self.total += change
        for counts, key in ((self._by_user, viewer.user_id), (self._by_address, viewer.address)):
            counts[key] = counts.get(key, 0) + change
            if not counts[key]:
                del counts[key]
