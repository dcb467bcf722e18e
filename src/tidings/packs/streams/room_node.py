"""The rooms of one process: registers viewers, reports them to the presence, and acts on its decisions.

One loop per process. Each tick serves one slot of the timer wheel with heartbeats, reports rooms that changed or are
due, and sweeps the presence. Joins and departures in between are reported together.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import msgspec
import structlog
from cachetools import TTLCache

from tidings.backend_health import BackendHealth
from tidings.concurrency import cancel_all
from tidings.errors import BackendError
from tidings.model.stream import CountBy, StreamAccess, StreamChange, StreamEvent, StreamSettings
from tidings.packs.streams.epochs import StreamEpochs
from tidings.packs.streams.viewers import CloseCode, Connection, LocalRoom, Viewer, ViewerRegistry
from tidings.ports.broadcaster import Broadcaster
from tidings.ports.clock import Clock
from tidings.ports.presence import Presence, RoomReport, RoomView

log = structlog.get_logger(__name__)

#: seconds for which the event of a stream and its settings are cached
EVENT_CACHE_SECONDS = 5.0
#: rooms per report and per sweep
ROOMS_PER_CALL = 200
#: a change of the number of viewers is sent with the next tick to rooms of this size, else with the heartbeat
MAX_ANNOUNCED = 100
#: seconds between purges, and between searches for due notices
PURGE_EVERY, NOTICES_EVERY = 60.0, 5.0
#: seconds between searches for open epochs that the presence does not have
RECOVER_EVERY = 60.0
#: ticks without the loop running, after which viewers have a whole lease to show a sign of life
MAX_MISSED_TICKS = 5

#: an event, None if there is none, and the settings of its room
_Stream = tuple[StreamEvent | None, StreamSettings]


@dataclass(frozen=True, slots=True)
class RoomDefaults:
    """The settings of rooms without settings of their own."""

    grace: float
    count_by: CountBy = CountBy.USER
    access: StreamAccess = StreamAccess.USERS


class RoomNode:
    """The live rooms of this process. One instance per process."""

    def __init__(
        self,
        epochs: StreamEpochs,
        presence: Presence,
        broadcaster: Broadcaster,
        clock: Clock,
        registry: ViewerRegistry,
        *,
        node: str,
        defaults: RoomDefaults,
        database_health: BackendHealth,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """node: the name of this process and its incarnation, `host:port#id`. timer: a monotonic clock."""
        self.epochs = epochs
        self.presence = presence
        self.registry = registry
        self.defaults = defaults
        self._broadcaster = broadcaster
        self._clock = clock
        self._node = node
        self._timer = timer
        self._database_health = database_health
        self._dirty: set[str] = set()
        self._flush_wanted = asyncio.Event()
        #: waits for the report that contains the latest join
        self._flushed: asyncio.Future[None] | None = None
        #: event → the look-up, which concurrent viewers share
        self._events: TTLCache[str, asyncio.Future[_Stream]] = TTLCache(10_000, EVENT_CACHE_SECONDS)
        self._resync_version = presence.resync_version
        self._last_tick_at = timer()
        self._last_report_at = self._last_notices_at = self._last_purge_at = 0.0
        self._recover_at = 0.0
        #: until when silent viewers are not cut, after the process was suspended
        self._patient_until = 0.0
        #: whether the process shuts down: lost connections are not departures
        self.is_stopping = False

    # --- viewers

    async def find_stream(self, event_id: str) -> _Stream:
        """Return the event of a stream, None if there is none, and the settings of its room; cached for seconds."""
        if (found := self._events.get(event_id)) is None:
            found = self._events[event_id] = asyncio.ensure_future(self.epochs.find(event_id))
            found.add_done_callback(lambda lookup: self._forget_failure(event_id, lookup))
        return await asyncio.shield(found)

    async def can_watch(self, event: StreamEvent, settings: StreamSettings, user_id: str) -> bool:
        """Return whether a user may join the room now. Raises BackendError."""
        if event.host_id == user_id:
            return True
        if not event.is_public:
            return False
        access = settings.access or self.defaults.access
        return access is StreamAccess.USERS or await self.epochs.has_ticket(event.id, user_id)

    def invalidate_stream(self, event_id: str) -> None:
        """Read the settings of a room again at the next use."""
        self._events.pop(event_id, None)

    def _forget_failure(self, event_id: str, lookup: asyncio.Future[_Stream]) -> None:
        if lookup.cancelled() or lookup.exception() is not None:
            self._events.pop(event_id, None)

    async def join(
        self, event: StreamEvent, user_id: str, connection: Connection, *, address: str, authorized_until: datetime
    ) -> Viewer:
        """Register a viewer, and return once the room was reported."""
        settings = (await self.find_stream(event.id))[1]
        now = self._timer()
        room = self.registry.rooms.get(event.id)
        if room is None:
            room = LocalRoom(event, self.defaults.grace, self.defaults.count_by, now)
        self.apply_settings(room, settings)
        viewer = Viewer(user_id, room, connection, address, authorized_until, now)
        self.registry.add(viewer)
        await self._report_soon(event.id)
        connection.send(encode(self._build_welcome(room)))
        viewer.is_welcomed = True
        return viewer

    def leave(self, viewer: Viewer, *, is_clean: bool) -> None:
        """Remove a viewer whose connection ended. During a shutdown viewers stay until the last report."""
        if not self.is_stopping and self.registry.remove(viewer, is_clean=is_clean, now=self._timer()):
            self._dirty.add(viewer.room.event.id)
            self._flush_wanted.set()

    def mark_seen(self, viewer: Viewer) -> None:
        """Record a sign of life."""
        viewer.last_seen_at = viewer.room.last_seen_at = self._timer()

    def apply_settings(self, room: LocalRoom, settings: StreamSettings) -> None:
        """Use the settings of a room, and the defaults for what they leave open."""
        room.grace = self.defaults.grace if settings.grace_seconds is None else settings.grace_seconds
        room.count_by = settings.count_by or self.defaults.count_by

    async def update_settings(self, event_id: str) -> None:
        """Apply the changed settings of a room, and report them."""
        if (room := self.registry.rooms.get(event_id)) is not None:
            self.apply_settings(room, (await self.find_stream(event_id))[1])
            self._dirty.add(event_id)
            self._flush_wanted.set()

    # --- the loop

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Run the loops for the duration of the block, then report that this process serves no viewers any more."""
        name = self._node.partition("#")[0]
        try:
            await self.presence.start_node(name, self._node)
        except BackendError as error:
            log.warning("presence_node_not_registered", error=error.message)
        tasks = [asyncio.create_task(self._run_ticks(), name="room ticks")]
        tasks.append(asyncio.create_task(self._run_flushes(), name="room reports"))
        try:
            yield
        finally:
            self.is_stopping = True
            await cancel_all(tasks)
            await self._report_shutdown()

    async def run_tick(self) -> None:
        """Serve one slot of the wheel, report what is due, and act on what the presence decides."""
        now = self._timer()
        timing = self.registry.timing
        if now - self._last_tick_at > MAX_MISSED_TICKS * timing.tick:
            self._patient_until = now + timing.viewer_lease
        self._last_tick_at = now
        self._send_heartbeats(now)
        self._announce_counts()
        if now - self._last_report_at >= timing.report_interval:
            self._last_report_at = now
            self._mark_due(now)
        self._flush_wanted.set()
        await self._sweep()
        if now >= self._recover_at:
            self._recover_at = now + RECOVER_EVERY
            await self._recover_rooms()
        if now - self._last_notices_at >= NOTICES_EVERY:
            self._last_notices_at = now
            await self.epochs.send_due_notices()
        if now - self._last_purge_at >= PURGE_EVERY:
            self._last_purge_at = now
            await self.epochs.purge()

    async def flush(self) -> None:
        """Report the rooms that changed, and begin the epochs that they need."""
        rooms, self._dirty = self._dirty, set()
        names = [name for name in rooms if name in self.registry.rooms]
        for start in range(0, len(names), ROOMS_PER_CALL):
            part = names[start : start + ROOMS_PER_CALL]
            now = self._timer()
            reports = [self.registry.rooms[name].build_report(self.registry.timing, now) for name in part]
            try:
                views = await self.presence.report(self._node, reports)
            except BackendError:
                self._require_complete(part)
                raise
            await self._apply_views(views)
        if self.presence.resync_version != self._resync_version:
            self._resync_version = self.presence.resync_version
            self._require_complete(self.registry.rooms)

    async def _run_ticks(self) -> None:
        while True:
            await asyncio.sleep(self.registry.timing.tick)
            await self._run_guarded(self.run_tick)

    async def _run_flushes(self) -> None:
        while True:
            await self._flush_wanted.wait()
            self._flush_wanted.clear()
            flushed, self._flushed = self._flushed, None
            await self._run_guarded(self.flush)
            if flushed is not None and not flushed.done():
                flushed.set_result(None)

    async def _run_guarded(self, work: Callable[[], object]) -> None:
        try:
            await work()  # type: ignore[misc]  # both are coroutine functions
        except BackendError as error:
            self._database_health.record_own_failure(error)
        except Exception:  # the next run repeats it; without the loop no room would ever end
            log.exception("room_loop_failed")

    async def _report_soon(self, room: str) -> None:
        """Have the room reported with the next report, and wait for it."""
        self._dirty.add(room)
        if self._flushed is None:
            self._flushed = asyncio.get_running_loop().create_future()
        self._flush_wanted.set()
        await asyncio.shield(self._flushed)

    def _require_complete(self, names: Collection[str]) -> None:
        for name in names:
            if (room := self.registry.rooms.get(name)) is not None:
                room.needs_complete = True
        self._dirty.update(names)

    def _mark_due(self, now: float) -> None:
        """Have all rooms with viewers reported, and drop those that have nothing to report."""
        for name, room in list(self.registry.rooms.items()):
            if room.is_expired(self.registry.timing, now):
                del self.registry.rooms[name]
            elif room.viewers or room.lost_until > now - self.registry.timing.report_interval:
                self._dirty.add(name)

    def _send_heartbeats(self, now: float) -> None:
        """Send heartbeats to the viewers of a slot; cut those that are silent or not authorised any more."""
        pings: dict[LocalRoom, bytes] = {}
        current = self._clock.now()
        for viewer in self.registry.advance_wheel():
            if viewer.authorized_until <= current:
                self._cut(viewer, CloseCode.TOKEN_EXPIRED)
            elif now - viewer.last_seen_at > self.registry.timing.viewer_lease and now >= self._patient_until:
                self._cut(viewer, CloseCode.SILENT)
            elif viewer.is_welcomed:
                if (ping := pings.get(viewer.room)) is None:
                    ping = pings[viewer.room] = encode({"type": "ping", "viewers": viewer.room.count()})
                viewer.connection.send(ping)

    def _cut(self, viewer: Viewer, code: CloseCode) -> None:
        viewer.connection.close(code)
        self.leave(viewer, is_clean=False)

    def _build_welcome(self, room: LocalRoom) -> dict[str, object]:
        """Return the first message to a viewer."""
        return {
            "type": "joined",
            "eventId": room.event.id,
            "epoch": None if room.view is None else room.view.epoch,
            "viewers": room.count(),
            "heartbeatSeconds": self.registry.timing.heartbeat,
        }

    # --- what the presence says

    async def _apply_views(self, views: Sequence[RoomView]) -> None:
        """Begin the epochs of rooms that went live, and announce the numbers of viewers and the arrivals."""
        changes: list[StreamChange] = []
        began = [view for view in views if view.is_live and view.epoch is None]
        for view in began:
            if view.unrecorded is not None:
                await self._record_end(view.room, view.unrecorded, 0.0)
        numbers = await self.epochs.begin([view.room for view in began]) if began else {}
        for name, epoch in numbers.items():
            await self.presence.set_epoch(name, epoch)
        for view in views:
            room = self.registry.rooms.get(view.room)
            if room is None:
                continue
            room.view = replace(view, epoch=numbers.get(view.room, view.epoch), arrived=())
            if (host := room.event.host_id) is not None:
                if view.room in numbers:
                    changes.append(StreamChange(host, view.room, "live", numbers[view.room]))
                changes += [StreamChange(host, view.room, "joined", viewer_id=user) for user in view.arrived]
        if changes:
            await self._broadcaster.publish(changes)

    def _announce_counts(self) -> None:
        """Send the numbers of viewers that changed since the last tick to small rooms."""
        for room in self.registry.rooms.values():
            count = room.count()
            if count != room.announced and len(room.viewers) <= MAX_ANNOUNCED:
                message = encode({"type": "viewers", "viewers": count})
                for viewer in room.viewers:
                    if viewer.is_welcomed:
                        viewer.connection.send(message)
            room.announced = count

    async def _sweep(self) -> None:
        sweep = await self.presence.sweep(ROOMS_PER_CALL, node_lease=self.registry.timing.node_lease)
        for end in sweep.ends:
            await self._record_end(end.room, end.epoch, end.silent_for)
        for name in sweep.unnumbered:
            epoch = await self.epochs.find_open(name)
            if epoch is None:
                await self.presence.confirm_end(name, None)
            else:
                await self.presence.set_epoch(name, epoch)
        changes = []
        for name, user in sweep.departed:
            event = (await self.find_stream(name))[0]
            if event is not None and event.host_id is not None:
                changes.append(StreamChange(event.host_id, name, "left", viewer_id=user))
        if changes:
            await self._broadcaster.publish(changes)

    async def _record_end(self, name: str, epoch: int, silent_for: float) -> None:
        event = await self.epochs.end(name, epoch, timedelta(seconds=silent_for))
        await self.presence.confirm_end(name, epoch)
        if event is not None and event.host_id is not None:
            await self._broadcaster.publish([StreamChange(event.host_id, name, "ended", epoch)])

    async def _recover_rooms(self) -> None:
        """Give rooms that the presence does not have, but whose epoch is open, a grace period from now on.

        So a room does not stay live for ever whose processes all ended, and viewers have time to come back.
        """
        after = ""
        while names := await self.epochs.list_open_events(after, ROOMS_PER_CALL):
            after = names[-1]
            missing = [name for name in names if await self.presence.get_room(name) is None]
            reports = []
            for name in missing:
                settings = (await self.find_stream(name))[1]
                grace = self.defaults.grace if settings.grace_seconds is None else settings.grace_seconds
                reports.append(RoomReport(name, connections=0, lease=0.0, silent_for=0.0, grace=grace))
            if reports:
                await self.presence.report(self._node, reports)

    async def _report_shutdown(self) -> None:
        """Report that the viewers are gone now, with the grace period to come back to another process."""
        reports = []
        for name, room in self.registry.rooms.items():
            if room.viewers:
                grace = room.grace
                reports.append(
                    RoomReport(
                        name,
                        connections=0,
                        lease=0.0,
                        silent_for=0.0,
                        grace=grace,
                        left=tuple(room.users),
                        departure_delay=grace,
                    )
                )
        try:
            for start in range(0, len(reports), ROOMS_PER_CALL):
                await self.presence.report(self._node, reports[start : start + ROOMS_PER_CALL])
            await self.presence.remove_node(self._node)
        except BackendError as error:
            # the leases expire by themselves
            log.warning("presence_shutdown_not_reported", error=error.message)


def encode(message: dict[str, object]) -> bytes:
    """Return a message of the stream's WebSocket as JSON."""
    return msgspec.json.encode(message)
