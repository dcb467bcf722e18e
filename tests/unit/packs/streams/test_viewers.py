"""Limits, the timer wheel, and what a node reports of its viewers."""

from datetime import UTC, datetime

import pytest

from tidings.model.stream import CountBy, StreamEvent
from tidings.packs.streams.viewers import WHEEL_SLOTS, CloseCode, LocalRoom, Timing, Viewer, ViewerRegistry

TIMING = Timing(10.0)
FOR_EVER = datetime(2099, 1, 1, tzinfo=UTC)


class NoConnection:
    def send(self, message: bytes) -> None: ...

    def close(self, code: CloseCode) -> None: ...


def make_room(now: float = 0.0, *, grace: float = 30.0) -> LocalRoom:
    return LocalRoom(StreamEvent("jazz", "Jazz", "host", is_public=True), grace, CountBy.USER, now)


def make_viewer(room: LocalRoom, user: str = "ada", *, address: str = "10.0.0.1", now: float = 0.0) -> Viewer:
    return Viewer(user, room, NoConnection(), address, FOR_EVER, now)


def make_registry(*, per_user: int = 0, per_address: int = 0, total: int = 0) -> ViewerRegistry:
    return ViewerRegistry(TIMING, max_per_user=per_user, max_per_address=per_address, max_total=total)


def test_the_defaults_leave_at_most_45_seconds_to_an_end() -> None:
    assert (TIMING.viewer_lease, TIMING.node_lease, TIMING.report_interval, TIMING.tick) == (25.0, 15.0, 5.0, 1.0)
    assert max(TIMING.viewer_lease, 30.0) + TIMING.node_lease <= 45.0


@pytest.mark.parametrize(
    ("limits", "user", "address", "allowed"),
    [
        ({"per_user": 2}, "ada", "10.0.0.9", False),
        ({"per_user": 2}, "bo", "10.0.0.1", True),
        ({"per_address": 2}, "bo", "10.0.0.1", False),
        ({"total": 2}, "bo", "10.0.0.9", False),
        ({}, "ada", "10.0.0.1", True),
    ],
)
def test_connections_are_limited_per_user_address_and_process(
    limits: dict[str, int], user: str, address: str, allowed: bool
) -> None:
    registry, room = make_registry(**limits), make_room()
    viewers = [make_viewer(room), make_viewer(room)]
    for viewer in viewers:
        assert registry.has_capacity("ada", "10.0.0.1")
        registry.add(viewer)
    assert registry.has_capacity(user, address) is allowed
    assert registry.remove(viewers[0], is_clean=True, now=1.0)
    assert not registry.remove(viewers[0], is_clean=True, now=1.0)
    assert registry.has_capacity(user, address)


def test_e17_each_turn_of_the_wheel_serves_every_viewer_once() -> None:
    registry, room = make_registry(), make_room()
    viewers = [make_viewer(room, f"user-{number}") for number in range(95)]
    for viewer in viewers:
        registry.add(viewer)
    slots = [registry.advance_wheel() for _ in range(WHEEL_SLOTS)]
    assert sorted(viewer.user_id for slot in slots for viewer in slot) == sorted(viewer.user_id for viewer in viewers)
    assert max(len(slot) for slot in slots) <= 10


def test_e05_a_user_joins_and_leaves_with_the_first_and_the_last_connection() -> None:
    room = make_room()
    first, second = make_viewer(room), make_viewer(room)
    room.add(first)
    room.add(second)
    report = room.build_report(TIMING, 0.0)
    assert (report.joined, report.connections) == (("ada",), 2)
    room.remove(first, is_clean=True, now=1.0, lease=TIMING.viewer_lease)
    assert room.build_report(TIMING, 1.0).left == ()
    room.remove(second, is_clean=True, now=2.0, lease=TIMING.viewer_lease)
    assert room.build_report(TIMING, 2.0).left == ("ada",)


def test_e04_a_clean_close_starts_the_grace_at_once_and_a_loss_after_the_lease() -> None:
    clean, lost = make_room(), make_room()
    for room, is_clean in ((clean, True), (lost, False)):
        viewer = make_viewer(room)
        room.add(viewer)
        room.build_report(TIMING, 0.0)
        room.remove(viewer, is_clean=is_clean, now=12.0, lease=TIMING.viewer_lease)
    report = clean.build_report(TIMING, 12.0)
    assert (report.lease, report.silent_for) == (0.0, 0.0)
    report = lost.build_report(TIMING, 12.0)
    # the lease of 25 s began with the last sign of life, from which the grace period counts too
    assert (report.lease, report.silent_for, report.connections) == (13.0, 12.0, 0)
    assert lost.build_report(TIMING, 25.0).lease == 0.0


def test_e08_a_suspended_process_reports_no_lease_before_a_sign_of_life() -> None:
    room = make_room()
    viewer = make_viewer(room)
    room.add(viewer)
    room.build_report(TIMING, 0.0)
    asleep = room.build_report(TIMING, 60.0)
    assert (asleep.lease, asleep.silent_for, asleep.connections) == (0.0, 60.0, 0)
    viewer.last_seen_at = room.last_seen_at = 61.0
    awake = room.build_report(TIMING, 61.0)
    assert (awake.lease, awake.connections, awake.joined, awake.is_complete) == (15.0, 1, ("ada",), True)


def test_row_38_a_user_is_accepted_while_a_dead_connection_still_counts() -> None:
    registry, room = make_registry(per_user=20), make_room()
    dead = make_viewer(room)
    registry.add(dead)
    assert registry.has_capacity("ada", "10.0.0.1")
    registry.add(make_viewer(room, now=20.0))
    registry.remove(dead, is_clean=False, now=25.0)
    report = room.build_report(TIMING, 25.0)
    assert (report.connections, report.left, tuple(room.users)) == (1, (), ("ada",))
