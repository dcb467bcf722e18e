"""Presence in the process keeps nothing of rooms that are over, apart from their epochs for two days."""

from datetime import datetime, timedelta

from tidings.presence.local import LocalPresence
from tidings.testing.contracts.presence_contract import GRACE, MANY, see
from tidings.testing.contracts.samples import NOW


async def over(presence: LocalPresence, room: str, now: datetime) -> None:
    """Have a room joined, left and vacated."""
    await see(presence, room, "ana", now=now)
    await presence.left(room, "ana", now=now)
    assert len(await presence.vacated(now + GRACE, MANY)) == 1


async def test_epochs_are_kept_for_two_days() -> None:
    presence = LocalPresence()
    for number in range(30):
        await over(presence, f"room-{number}", NOW)
    assert presence.last_epoch("room-7") > 0
    await presence.vacated(NOW + timedelta(days=2) - GRACE, MANY)
    assert len(presence._epochs) == 30
    await presence.vacated(NOW + timedelta(days=2, seconds=1), MANY)
    assert presence._epochs == {}


async def test_nothing_else_is_left_of_rooms_that_are_over() -> None:
    presence = LocalPresence()
    for number in range(30):
        await over(presence, f"room-{number}", NOW)
    assert (presence._rooms, len(presence._silent), len(presence._due)) == ({}, 0, 0)
