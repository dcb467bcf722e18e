"""Presence shared through Redis or Valkey, on the clock of the server."""

import json
import secrets
from collections.abc import Sequence
from typing import Any

from redis.commands.core import AsyncScript

from tidings.ports.presence import MAX_SWEEP_GAP, EpochEnd, RoomReport, RoomView, Sweep
from tidings.presence import redis_scripts
from tidings.redis_client import FAST_TIMEOUT, RedisClient


class RedisPresence:
    """Implements `ports.presence.Presence` for all processes that share a server and a prefix."""

    def __init__(self, redis_client: RedisClient, prefix: str) -> None:
        """redis_client: returns text; `close` closes it. prefix: first part of all key names."""
        self._redis_client = redis_client
        self._root = f"{{{prefix}-rooms}}"
        register = redis_client.client.register_script
        self._report = register(redis_scripts.REPORT)
        self._sweep = register(redis_scripts.SWEEP)
        self._set_epoch = register(redis_scripts.SET_EPOCH)
        self._confirm_end = register(redis_scripts.CONFIRM_END)
        self._get_room = register(redis_scripts.GET_ROOM)
        self._list_rooms = register(redis_scripts.LIST_ROOMS)
        self._remove_node = register(redis_scripts.REMOVE_NODE)
        #: as of the last report
        self._generation: str | None = None
        self.resync_version = 0

    async def report(self, node: str, reports: Sequence[RoomReport]) -> Sequence[RoomView]:
        if not reports:
            return []
        # stored by the first report after the server lost its data
        token = secrets.token_hex(8)
        encoded = [_encode_report(report) for report in reports]
        generation, views = await self._run(self._report, node=node, generation=token, reports=encoded)
        if self._generation not in (None, generation):
            self.resync_version += 1
        self._generation = generation
        return [_decode_view(view) for view in views]

    async def sweep(self, limit: int, *, node_lease: float) -> Sweep:
        lease = _to_milliseconds(node_lease)
        ends, unnumbered, departed = await self._run(
            self._sweep, limit=limit, node_lease=lease, max_gap=round(lease * MAX_SWEEP_GAP)
        )
        return Sweep(
            [EpochEnd(room, int(epoch), int(silent) / 1000) for room, epoch, silent in ends],
            unnumbered,
            [(room, user) for room, user in departed],
        )

    async def set_epoch(self, room: str, epoch: int) -> None:
        await self._run(self._set_epoch, room=room, epoch=epoch)

    async def confirm_end(self, room: str, epoch: int | None) -> None:
        await self._run(self._confirm_end, room=room, epoch=epoch)

    async def get_room(self, room: str) -> RoomView | None:
        view = await self._run(self._get_room, room=room)
        return None if view is None else _decode_view(view)

    async def list_rooms(self, after: str, limit: int) -> Sequence[RoomView]:
        found: list[RoomView] = []
        last: str | None = after
        while last is not None and len(found) < limit:
            # rooms in their grace period are left out, so one call may return fewer than the limit
            views, last = await self._run(self._list_rooms, after=last, limit=limit)
            found += [_decode_view(view) for view in views]
        return found[:limit]

    async def count_connections(self) -> int:
        async with self._redis_client.deadline(FAST_TIMEOUT) as client:
            return sum(int(count) for count in await client.hvals(f"{self._root}:connections"))

    async def remove_node(self, node: str) -> None:
        await self._run(self._remove_node, node=node)

    async def start_node(self, name: str, node: str) -> None:
        await self._run(self._remove_node, name=name, node=node)

    async def close(self) -> None:
        await self._redis_client.close()

    async def _run(self, script: AsyncScript, **arguments: object) -> Any:
        async with self._redis_client.deadline(FAST_TIMEOUT):
            return await script([self._root], [json.dumps(arguments)])


def _encode_report(report: RoomReport) -> dict[str, object]:
    return {
        "room": report.room,
        "connections": report.connections,
        "lease": _to_milliseconds(report.lease),
        "silent": _to_milliseconds(report.silent_for),
        "grace": _to_milliseconds(report.grace),
        "joined": list(report.joined),
        "left": list(report.left),
        "complete": report.is_complete,
        "delay": _to_milliseconds(report.departure_delay),
    }


def _decode_view(view: Sequence[Any]) -> RoomView:
    room, epoch, unrecorded, is_live, users, connections, has_others, arrived = view
    return RoomView(
        room,
        None if epoch is None else int(epoch),
        None if unrecorded is None else int(unrecorded),
        bool(is_live),
        int(users),
        int(connections),
        bool(has_others),
        tuple(arrived),
    )


def _to_milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
