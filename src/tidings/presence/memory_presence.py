"""Presence of one process, in memory."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tidings.ports.presence import MAX_SWEEP_GAP, EpochEnd, RoomReport, RoomView, Sweep
from tidings.presence import room_state
from tidings.presence.deadlines import Deadlines
from tidings.presence.room_state import EndDecision, MissingEpoch, Phase, RoomState

#: seconds until a room whose decision is held back is checked again
HELD_BACK_FOR = 1.0


@dataclass(slots=True)
class _Room:
    state: RoomState
    #: node → its users
    users: dict[str, set[str]] = field(default_factory=dict)

    def has_user(self, user: str) -> bool:
        return any(user in users for users in self.users.values())

    def count_users(self) -> int:
        if len(self.users) == 1:
            return len(next(iter(self.users.values())))
        return len(set().union(*self.users.values()))


class MemoryPresence:
    """Implements `ports.presence.Presence` for the nodes of one process."""

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        """timer: returns seconds of a clock that is never set back."""
        self._timer = timer
        self._rooms: dict[str, _Room] = {}
        self._checks: Deadlines[str] = Deadlines()
        self._departures: Deadlines[tuple[str, str]] = Deadlines()
        #: room and user of the departures that are waiting
        self._departing: set[tuple[str, str]] = set()
        self._last_sweep_at: float | None = None
        self._held_until = 0.0

    @property
    def resync_version(self) -> int:
        """Constant: a process does not lose its own memory."""
        return 0

    async def report(self, node: str, reports: Sequence[RoomReport]) -> Sequence[RoomView]:
        now = self._timer()
        return [self._apply(node, report, now) for report in reports]

    async def sweep(self, limit: int, *, node_lease: float) -> Sweep:
        return self.sweep_rooms(limit, node_lease=node_lease)

    def sweep_rooms(self, limit: int, *, node_lease: float, can_decide: Callable[[str], bool] | None = None) -> Sweep:
        """Do as `sweep`. can_decide: whether the end of a room may be decided here; None = of all rooms."""
        now = self._timer()
        if self._last_sweep_at is None or now - self._last_sweep_at > MAX_SWEEP_GAP * node_lease:
            self._held_until = now + node_lease
        self._last_sweep_at = now
        ends: list[EpochEnd] = []
        unnumbered: list[str] = []
        for name in self._checks.pop_due(now, limit):
            if now < self._held_until or (can_decide is not None and not can_decide(name)):
                self._checks.set(name, max(self._held_until, now + min(HELD_BACK_FOR, node_lease)))
                continue
            room = self._rooms[name]
            room.state, decision = room_state.decide(room.state, now)
            self._drop_expired_users(name, room, now + node_lease)
            if isinstance(decision, EndDecision):
                ends.append(EpochEnd(name, decision.epoch, now - room.state.last_seen_at))
            elif isinstance(decision, MissingEpoch):
                unnumbered.append(name)
            self._schedule(name, room.state, now, after=HELD_BACK_FOR if decision else 0.0)
        departed = self._departures.pop_due(now)
        self._departing.difference_update(departed)
        return Sweep(ends, unnumbered, [(name, user) for name, user in departed if not self._is_present(name, user)])

    async def set_epoch(self, room: str, epoch: int) -> None:
        if (found := self._rooms.get(room)) is not None:
            found.state = room_state.set_epoch(found.state, epoch)

    async def confirm_end(self, room: str, epoch: int | None) -> None:
        if (found := self._rooms.get(room)) is None:
            return
        state = room_state.confirm_end(found.state, epoch, self._timer())
        if state is None:
            del self._rooms[room]
            self._checks.drop(room)
        else:
            found.state = state
            self._schedule(room, state, self._timer())

    async def get_room(self, room: str) -> RoomView | None:
        found = self._rooms.get(room)
        return None if found is None else self._to_view(room, found, self._timer())

    async def list_rooms(self, after: str, limit: int) -> Sequence[RoomView]:
        now = self._timer()
        names = sorted(name for name, room in self._rooms.items() if name > after and room.state.has_live_lease(now))
        return [self._to_view(name, self._rooms[name], now) for name in names[:limit]]

    async def count_connections(self) -> int:
        now = self._timer()
        return sum(room.state.count_connections(now) for room in self._rooms.values())

    async def remove_node(self, node: str) -> None:
        for name, room in self._rooms.items():
            if node in room.state.leases:
                room.state = room_state.remove_node(room.state, node)
                room.users.pop(node, None)
                self._schedule(name, room.state, self._timer())

    async def start_node(self, name: str, node: str) -> None:
        """Do nothing: the memory of an earlier process is gone."""

    async def close(self) -> None:
        """Do nothing: there is nothing to free."""

    def find_epoch(self, room: str) -> int | None:
        """Return the present epoch of a room, if it is numbered."""
        found = self._rooms.get(room)
        return None if found is None else found.state.epoch

    def _apply(self, node: str, report: RoomReport, now: float) -> RoomView:
        if (room := self._rooms.get(report.room)) is None:
            room = self._rooms[report.room] = _Room(RoomState())
        room.state = room_state.apply_report(
            room.state,
            node,
            connections=report.connections,
            lease=report.lease,
            silent_for=report.silent_for,
            grace=report.grace,
            now=now,
        )
        arrived = self._change_users(node, room, report, now)
        self._schedule(report.room, room.state, now)
        return self._to_view(report.room, room, now, node, arrived)

    def _change_users(self, node: str, room: _Room, report: RoomReport, now: float) -> tuple[str, ...]:
        """Apply the users of a report, and return those who were absent."""
        users = room.users.setdefault(node, set())
        left = users.intersection(report.left)
        if report.is_complete or report.lease <= 0:
            left = users.difference(report.joined)
        users -= left
        arrived = []
        for user in report.joined:
            key = report.room, user
            if not room.has_user(user) and key not in self._departing:
                arrived.append(user)
            users.add(user)
            self._departing.discard(key)
            self._departures.drop(key)
        if not users:
            del room.users[node]
        for user in left:
            if not room.has_user(user):
                self._departing.add((report.room, user))
                self._departures.set((report.room, user), now + report.departure_delay)
        return tuple(arrived)

    def _drop_expired_users(self, name: str, room: _Room, departure_at: float) -> None:
        for node in room.users.keys() - room.state.leases.keys():
            for user in room.users.pop(node):
                if not room.has_user(user):
                    self._departing.add((name, user))
                    self._departures.set((name, user), departure_at)

    def _is_present(self, name: str, user: str) -> bool:
        room = self._rooms.get(name)
        return room is not None and room.has_user(user)

    def _schedule(self, name: str, state: RoomState, now: float, *, after: float = 0.0) -> None:
        at = state.next_check_at()
        if at is None:
            self._checks.drop(name)
        else:
            self._checks.set(name, max(at, now + after))

    def _to_view(self, name: str, room: _Room, now: float, node: str = "", arrived: tuple[str, ...] = ()) -> RoomView:
        state = room.state
        return RoomView(
            name,
            state.epoch,
            state.unrecorded,
            state.compute_phase(now) is Phase.LIVE,
            room.count_users(),
            state.count_connections(now),
            has_others=state.has_live_lease(now, besides=node),
            arrived=arrived,
        )
