"""Presence inside the process: rooms in memory, and two heaps of deadlines."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice

from tidings.ports.presence import Vacancy
from tidings.presence.deadlines import Deadlines
from tidings.presence.instants import CLOCKS_AGREE_WITHIN, EPOCHS_KEPT, microseconds, next_epoch

#: epochs that one look tries to forget
FORGOTTEN_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Sign:
    """What a member said last."""

    room: str
    member: str
    now: datetime
    until: datetime
    #: of the room
    grace: timedelta


@dataclass(frozen=True, slots=True)
class Grace:
    """A room that nobody is in."""

    room: str
    #: when that was noticed
    emptied: datetime
    grace: timedelta


@dataclass(slots=True)
class _Room:
    grace: timedelta
    #: the last sign of life
    since: datetime
    signs: dict[str, Sign] = field(default_factory=dict)
    #: when it was noticed that nobody is there any more; None = somebody is
    emptied: datetime | None = None


class LocalPresence:
    """Implements `ports.presence.Presence` for one process."""

    def __init__(self) -> None:
        self._rooms: dict[str, _Room] = {}
        self._silent: Deadlines[tuple[str, str]] = Deadlines()
        self._due: Deadlines[str] = Deadlines()
        #: room → the last epoch, those of long ago first
        self._epochs: dict[str, int] = {}
        #: how far the clock has been
        self._furthest: datetime | None = None

    async def seen(self, room: str, member: str, *, until: datetime, grace: timedelta, now: datetime) -> None:
        self._at(now)
        held = self._rooms.setdefault(room, _Room(grace, now))
        held.grace, held.since = grace, now
        held.signs[member] = Sign(room, member, now, until, grace)
        self._silent.set((room, member), until)
        if held.emptied is not None:
            held.emptied = None
            self._due.drop(room)

    async def left(self, room: str, member: str, *, now: datetime) -> None:
        self._at(now)
        held = self._rooms.get(room)
        if held is not None and member in held.signs:
            held.since = now
            self._silent.drop((room, member))
            self._take_out(room, member, now)

    async def members(self, room: str, now: datetime) -> int:
        held = self._rooms.get(room)
        return sum(sign.until > now for sign in held.signs.values()) if held else 0

    async def total(self, now: datetime) -> int:
        return sum(sign.until > now for sign in self.signs())

    async def vacated(self, now: datetime, limit: int) -> Sequence[Vacancy]:
        self._at(now)
        if self._furthest is not None and self._furthest > now + CLOCKS_AGREE_WITHIN:
            self._set_back(now)
        for room, member in self._silent.take(now):
            self._take_out(room, member, now)
        given = [self._given(room) for room in self._due.take(now, limit)]
        self._forget_epochs(now)
        return given

    async def close(self) -> None:
        """Nothing to free."""

    def signs(self) -> Iterator[Sign]:
        """Give the last sign of everybody who is there or was not missed yet."""
        return (sign for held in self._rooms.values() for sign in held.signs.values())

    def has(self, room: str, member: str) -> bool:
        """Return whether the member is there or was not missed yet."""
        return room in self._rooms and member in self._rooms[room].signs

    def knows(self, room: str) -> bool:
        """Return whether somebody is in the room, or its grace runs."""
        return room in self._rooms

    def graces(self) -> list[Grace]:
        """Return the graces that run."""
        rooms = self._rooms.items()
        return [Grace(room, held.emptied, held.grace) for room, held in rooms if held.emptied is not None]

    def forget(self, room: str) -> None:
        """Drop the vacancy of a room if it is empty: somebody else sees to it."""
        if room in self._rooms and self._rooms[room].emptied is not None:
            del self._rooms[room]
            self._due.drop(room)

    def settle(self, room: str, epoch: int) -> None:
        """Note a vacancy that somebody else gave."""
        self.forget(room)
        self._epochs[room] = max(epoch, self._epochs.pop(room, 0))

    def last_epoch(self, room: str) -> int:
        """Return the epoch of the last vacancy that was given of a room, 0 if that was long ago or never."""
        return self._epochs.get(room, 0)

    def _take_out(self, room: str, member: str, now: datetime) -> None:
        held = self._rooms[room]
        del held.signs[member]
        if not held.signs:
            self._begin_grace(room, held, now)

    def _begin_grace(self, room: str, held: _Room, now: datetime) -> None:
        held.emptied = now
        # a clock ahead may have said that somebody was there later than now
        held.since = min(held.since, now)
        self._due.set(room, now + held.grace)

    def _given(self, room: str) -> Vacancy:
        since = self._rooms.pop(room).since
        epoch = next_epoch(since, self._epochs.pop(room, 0))
        self._epochs[room] = epoch
        return Vacancy(room, since, epoch)

    def _at(self, now: datetime) -> None:
        self._furthest = max(self._furthest or now, now)

    def _set_back(self, now: datetime) -> None:
        """Bring what a clock ahead of `now` said to `now`: a life and a grace stay as long as they were."""
        for name, held in self._rooms.items():
            for member, sign in held.signs.items():
                if sign.now > now + CLOCKS_AGREE_WITHIN:
                    mended = Sign(name, member, now, now + (sign.until - sign.now), sign.grace)
                    held.signs[member] = mended
                    self._silent.set((name, member), mended.until)
            if held.emptied is not None and held.emptied > now + CLOCKS_AGREE_WITHIN:
                self._begin_grace(name, held, now)
        self._furthest = now

    def _forget_epochs(self, now: datetime) -> None:
        oldest = microseconds(now - EPOCHS_KEPT) // 1000
        for room, epoch in list(islice(self._epochs.items(), FORGOTTEN_AT_ONCE)):
            if epoch < oldest:
                del self._epochs[room]
