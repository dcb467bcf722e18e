"""Conformance suite for `ports.presence.Presence`."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from tidings.ports.presence import EpochEnd, Presence, RoomReport, RoomView, Sweep
from tidings.testing.polling import eventually

T = TypeVar("T")

#: seconds; long enough that a slow machine does not miss a lease
LEASE = 0.6
GRACE = 0.9
ROOM = "event-1"


def make_report(*users: str, room: str = ROOM, grace: float = GRACE) -> RoomReport:
    """Return the report of a node with one connection per user."""
    return RoomReport(
        room, connections=len(users), lease=LEASE, silent_for=0.0, grace=grace, joined=users, departure_delay=0.05
    )


def make_departure(*left: str, room: str = ROOM, silent_for: float = 0.0, grace: float = GRACE) -> RoomReport:
    """Return the report of a node without viewers, after users left."""
    return RoomReport(
        room, connections=0, lease=0.0, silent_for=silent_for, grace=grace, left=left, departure_delay=0.05
    )


class PresenceContract:
    """Fixture `presence`: an empty adapter. Reports of several nodes may reach it over one instance."""

    async def test_a_room_is_live_while_a_node_reports_viewers(self, presence: Presence) -> None:
        view = await self.report(presence, "a", make_report("ada", "bo"))
        assert view == RoomView(ROOM, None, None, True, 2, 2, has_others=False, arrived=("ada", "bo"))
        assert await presence.count_connections() == 2
        assert [found.room for found in await presence.list_rooms("", 10)] == [ROOM]
        assert await presence.list_rooms(ROOM, 10) == []
        assert await presence.get_room("unknown") is None

    async def test_e05_a_user_of_two_nodes_counts_once_and_departs_with_the_last(self, presence: Presence) -> None:
        await self.report(presence, "a", make_report("ada"))
        second = await self.report(presence, "b", make_report("ada"))
        assert (second.users, second.connections, second.arrived, second.has_others) == (1, 2, (), True)
        first = await self.report(presence, "a", make_departure("ada"))
        assert (first.users, first.connections, first.is_live) == (1, 1, True)
        assert (await presence.sweep(10, node_lease=LEASE)).departed == []
        await self.report(presence, "b", make_departure("ada"))
        assert await self.wait_for(presence, lambda sweep: sweep.departed) == [(ROOM, "ada")]

    async def test_e09_a_user_who_returns_in_time_neither_departs_nor_arrives(self, presence: Presence) -> None:
        await self.report(presence, "a", make_report("ada"))
        await self.report(presence, "a", replace(make_departure("ada"), departure_delay=30.0))
        back = await self.report(presence, "b", make_report("ada"))
        assert back.arrived == ()
        assert (await presence.sweep(10, node_lease=LEASE)).departed == []

    async def test_e01_an_end_is_decided_once_after_the_grace_period(self, presence: Presence) -> None:
        await self.open_epoch(presence, 7)
        await self.report(presence, "a", make_departure("ada"))
        ends = await self.wait_for_ends(presence)
        assert [(end.room, end.epoch) for end in ends] == [(ROOM, 7)]
        assert GRACE <= ends[0].silent_for < GRACE + 20 * LEASE
        assert (await presence.sweep(10, node_lease=LEASE)).ends == []
        await presence.confirm_end(ROOM, 7)
        assert await presence.get_room(ROOM) is None

    async def test_e02_the_grace_counts_from_the_last_sign_of_life(self, presence: Presence) -> None:
        await self.open_epoch(presence, 1)
        await self.report(presence, "a", make_departure("ada", silent_for=60.0))
        # the report that opened the room was a later sign of life
        assert (await self.wait_for_ends(presence))[0].silent_for < 60.0

    async def test_e03_a_lease_at_the_deadline_prevents_the_end(self, presence: Presence) -> None:
        await self.open_epoch(presence, 1)
        await self.report(presence, "a", make_departure("ada"))
        await asyncio.sleep(GRACE / 2)
        for _ in range(6):
            # the grace period passes while the user is back
            await self.report(presence, "a", make_report("ada"))
            assert (await presence.sweep(10, node_lease=LEASE)).ends == []
            await asyncio.sleep(LEASE / 3)
        room = await presence.get_room(ROOM)
        assert room is not None
        assert (room.is_live, room.epoch) == (True, 1)

    async def test_e06_the_leases_of_a_silent_node_expire_and_its_rooms_end(self, presence: Presence) -> None:
        await self.open_epoch(presence, 3)
        ends = await self.wait_for_ends(presence)
        assert [(end.room, end.epoch) for end in ends] == [(ROOM, 3)]
        assert await presence.count_connections() == 0

    async def test_e06_the_users_of_a_silent_node_do_not_count_while_others_watch(self, presence: Presence) -> None:
        await self.open_epoch(presence, 3)

        async def is_dropped() -> bool:
            view = await self.report(presence, "b", make_report("bo"))
            await presence.sweep(10, node_lease=LEASE)
            return (view.users, view.connections, view.epoch) == (1, 1, 3)

        await eventually(is_dropped, within=10.0)

    async def test_e07_a_restarted_node_removes_the_leases_of_its_predecessor(self, presence: Presence) -> None:
        await presence.start_node("host:8000", "host:8000#1")
        await self.report(presence, "host:8000#1", make_report("ada"))
        await presence.remove_node("host:8000#1")
        await presence.start_node("host:8000", "host:8000#2")
        room = await presence.get_room(ROOM)
        assert room is not None
        assert (room.is_live, room.users, room.connections) == (False, 0, 0)
        assert await presence.count_connections() == 0

    async def test_e08_a_late_report_neither_ends_nor_prolongs_a_room(self, presence: Presence) -> None:
        await self.open_epoch(presence, 1)
        await self.report(presence, "b", make_report("bo"))
        stale = await self.report(presence, "a", make_departure("ada", silent_for=60.0))
        assert (stale.is_live, stale.epoch, stale.users) == (True, 1, 1)
        await self.report(presence, "b", make_departure("bo"))
        ends = await self.wait_for_ends(presence)
        await presence.confirm_end(ROOM, 1)
        await self.report(presence, "a", make_departure("ada", silent_for=60.0))
        # an old sign of life reopens no epoch: the room has no number, and its owner finds none to end
        assert await self.wait_for(presence, lambda sweep: sweep.unnumbered) == [ROOM]
        await presence.confirm_end(ROOM, None)
        assert await presence.get_room(ROOM) is None
        assert len(ends) == 1

    async def test_a_viewer_after_the_decision_begins_the_next_epoch(self, presence: Presence) -> None:
        await self.open_epoch(presence, 4)
        await self.report(presence, "a", make_departure("ada"))
        await self.wait_for_ends(presence)
        back = await self.report(presence, "a", make_report("ada"))
        assert (back.epoch, back.unrecorded, back.is_live) == (None, 4, True)
        await presence.set_epoch(ROOM, 4)
        await presence.confirm_end(ROOM, 4)
        await presence.set_epoch(ROOM, 5)
        await presence.set_epoch(ROOM, 6)
        room = await presence.get_room(ROOM)
        assert room is not None
        assert (room.epoch, room.unrecorded) == (5, None)

    async def test_an_epoch_that_ended_elsewhere_is_followed_by_a_new_one(self, presence: Presence) -> None:
        await self.open_epoch(presence, 2)
        await presence.confirm_end(ROOM, 2)
        room = await presence.get_room(ROOM)
        assert room is not None
        assert (room.is_live, room.epoch) == (True, None)

    async def test_a_complete_report_replaces_the_users(self, presence: Presence) -> None:
        await self.report(presence, "a", make_report("ada", "bo"))
        view = await self.report(presence, "a", replace(make_report("bo", "cy"), is_complete=True))
        assert (view.users, view.arrived) == (2, ("cy",))

    async def test_e16_counts_need_no_list(self, presence: Presence) -> None:
        users = [f"user-{number}" for number in range(300)]
        await presence.report("a", [make_report(*users, room=f"room-{number}") for number in range(3)])
        await presence.report("b", [make_report("user-7", room="room-1")])
        assert await presence.count_connections() == 901
        pages = [await presence.list_rooms("", 2), await presence.list_rooms("room-1", 2)]
        assert [[(view.room, view.users) for view in page] for page in pages] == [
            [("room-0", 300), ("room-1", 300)],
            [("room-2", 300)],
        ]

    # --- steps

    async def report(self, presence: Presence, node: str, report: RoomReport) -> RoomView:
        """Send one report."""
        return (await presence.report(node, [report]))[0]

    async def open_epoch(self, presence: Presence, epoch: int) -> None:
        """Have the user ada join at node a, in a numbered epoch. The first sweep has been made."""
        await presence.sweep(10, node_lease=LEASE)
        await self.report(presence, "a", make_report("ada"))
        await presence.set_epoch(ROOM, epoch)

    async def wait_for_ends(self, presence: Presence) -> Sequence[EpochEnd]:
        """Sweep until ends are decided."""
        return await self.wait_for(presence, lambda sweep: sweep.ends)

    async def wait_for(self, presence: Presence, part: Callable[[Sweep], Sequence[T]]) -> Sequence[T]:
        """Sweep until a part of the result is not empty, and return it."""

        async def sweep() -> Sequence[T] | None:
            return part(await presence.sweep(10, node_lease=LEASE)) or None

        return await eventually(sweep, within=10.0)
