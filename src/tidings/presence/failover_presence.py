"""The shared presence with a local fallback: in an outage a process decides only on rooms that no other node had."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tidings.backend_health import BackendHealth
from tidings.errors import BackendError
from tidings.ports.presence import RoomReport, RoomView, Sweep
from tidings.presence.memory_presence import MemoryPresence
from tidings.presence.redis_presence import RedisPresence

#: seconds between calls to an unavailable server
PROBE_INTERVAL = 1.0


class FailoverPresence:
    """Implements `ports.presence.Presence` over a shared presence that may become unavailable.

    All reports of this process are also kept in memory. During an outage the process sees only its own viewers. It
    decides the end of a room only if no other node had viewers there when the outage began; else the decision waits.
    After the outage each node reports completely, and the shared presence merges the reports by the last sign of life.
    """

    def __init__(
        self,
        shared: RedisPresence,
        *,
        probe_interval: float = PROBE_INTERVAL,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """probe_interval: seconds between calls during an outage. timer: returns seconds of a monotonic clock."""
        self._shared = shared
        self._local = MemoryPresence(timer)
        self._probe_interval = probe_interval
        self._timer = timer
        self._health = BackendHealth("presence", timer=timer)
        self._next_probe_at = 0.0
        #: rooms in which another node had viewers, at the last answer of the server
        self._shared_rooms: set[str] = set()
        #: ends that were recorded during an outage
        self._unconfirmed: dict[str, int] = {}
        #: outages that have ended
        self._outages = 0

    @property
    def is_down(self) -> bool:
        """Whether the shared presence is unavailable."""
        return not self._health.is_available

    @property
    def resync_version(self) -> int:
        """Grows after each outage, and when the server lost its data."""
        return self._outages + self._shared.resync_version

    async def report(self, node: str, reports: Sequence[RoomReport]) -> Sequence[RoomView]:
        local_views = await self._local.report(node, reports)
        if self._can_call():
            with self._record_failure():
                views = await self._shared.report(node, reports)
                await self._record_success()
                for view in views:
                    await self._remember(view)
                return views
        return local_views

    async def sweep(self, limit: int, *, node_lease: float) -> Sweep:
        if self._can_call():
            with self._record_failure():
                sweep = await self._shared.sweep(limit, node_lease=node_lease)
                await self._record_success()
                # the local rooms follow the shared decisions: their own are not used
                self._local.sweep_rooms(limit, node_lease=node_lease, can_decide=lambda _room: False)
                return sweep
        return self._local.sweep_rooms(limit, node_lease=node_lease, can_decide=self._has_all_viewers)

    async def set_epoch(self, room: str, epoch: int) -> None:
        await self._local.set_epoch(room, epoch)
        if not self.is_down:
            with self._record_failure():
                await self._shared.set_epoch(room, epoch)

    async def confirm_end(self, room: str, epoch: int | None) -> None:
        await self._local.confirm_end(room, epoch)
        if not self.is_down:
            with self._record_failure():
                await self._shared.confirm_end(room, epoch)
                return
        if epoch is not None:
            self._unconfirmed[room] = epoch

    async def get_room(self, room: str) -> RoomView | None:
        if not self.is_down:
            with self._record_failure():
                return await self._shared.get_room(room)
        return await self._local.get_room(room)

    async def list_rooms(self, after: str, limit: int) -> Sequence[RoomView]:
        if not self.is_down:
            with self._record_failure():
                return await self._shared.list_rooms(after, limit)
        return await self._local.list_rooms(after, limit)

    async def count_connections(self) -> int:
        if not self.is_down:
            with self._record_failure():
                return await self._shared.count_connections()
        return await self._local.count_connections()

    async def remove_node(self, node: str) -> None:
        await self._local.remove_node(node)
        if not self.is_down:
            with self._record_failure():
                await self._shared.remove_node(node)

    async def start_node(self, name: str, node: str) -> None:
        if not self.is_down:
            with self._record_failure():
                await self._shared.start_node(name, node)

    async def close(self) -> None:
        await self._shared.close()

    def _can_call(self) -> bool:
        """Return whether a report or a sweep may call the server: it is available, or the next probe is due."""
        if not self.is_down:
            return True
        now = self._timer()
        if now < self._next_probe_at:
            return False
        self._next_probe_at = now + self._probe_interval
        return True

    @contextmanager
    def _record_failure(self) -> Iterator[None]:
        """Suppress a BackendError of the block, which begins an outage. The code after the block is the fallback."""
        try:
            yield
        except BackendError as error:
            self._health.record_failure(error)
            self._next_probe_at = self._timer() + self._probe_interval

    async def _record_success(self) -> None:
        """After an outage, confirm the ends recorded during it, and have the nodes report completely."""
        if not self._health.record_success():
            return
        self._outages += 1
        while self._unconfirmed:
            room, epoch = next(iter(self._unconfirmed.items()))
            await self._shared.confirm_end(room, epoch)
            del self._unconfirmed[room]

    async def _remember(self, view: RoomView) -> None:
        """Keep what the local fallback needs to know of a room."""
        if view.has_others:
            self._shared_rooms.add(view.room)
        else:
            self._shared_rooms.discard(view.room)
        known = self._local.find_epoch(view.room)
        if known is not None and known != view.epoch:
            await self._local.confirm_end(view.room, known)
        if view.epoch is not None:
            await self._local.set_epoch(view.room, view.epoch)

    def _has_all_viewers(self, room: str) -> bool:
        return room not in self._shared_rooms
