"""Recurring notifications on a subject: the runs of other time zones do not supersede what is unsent."""

from datetime import UTC, datetime, timedelta

import pytest
from tests.adapters.recurring.test_runs import World

from tidings.model.audience import everyone
from tidings.model.recurring import RunState
from tidings.model.user import User
from tidings.stores.store import SqlStore
from tidings.testing.clock import FrozenClock

#: a Sunday, before it is Monday anywhere
START = datetime(2026, 11, 22, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)
ZONES = {"kim": "Pacific/Kiritimati", "ana": "Europe/Berlin", "ben": "America/New_York", "nia": "Pacific/Niue"}


@pytest.fixture
async def world(any_store: SqlStore) -> World:
    """Users from one side of the date line to the other."""
    async with any_store.transaction() as tx:
        await any_store.users.upsert(tx, [User(name, timezone=zone) for name, zone in ZONES.items()], START)
    return World(any_store, FrozenClock(START))


async def run_hours(world: World, hours: int) -> list[tuple[str, int, bool]]:
    """Return scheduled hour, version and whether it is superseded of each accepted notification, oldest first."""
    for _ in range(hours):
        world.clock.advance(HOUR)
        await world.run_due()
    by_id = {one.id: one for one in await world.list_accepted()}
    found = []
    for run in await world.list_runs():
        assert run.state is RunState.ACCEPTED
        accepted = by_id[str(run.notification_id)]
        assert accepted.subject == "summary"
        assert accepted.subject_version is not None
        found.append((f"{run.scheduled_at:%a %H}", accepted.subject_version, accepted.superseded_by is not None))
    return found


async def test_c15_the_zones_of_one_occurrence_stand_side_by_side_and_the_next_week_supersedes(world: World) -> None:
    await world.put(audience=everyone(), timezone=None, at=("MON 09:00",), options={"subject": "summary"})
    found = await run_hours(world, 48)
    assert [(hour, is_superseded) for hour, _, is_superseded in found] == [
        ("Sun 19", False),
        ("Mon 08", False),
        ("Mon 14", False),
        ("Mon 20", False),
    ]
    assert len({version for _, version, _ in found}) == 1
    world.clock.advance(5 * 24 * HOUR)
    found = await run_hours(world, 48)
    assert [is_superseded for _, _, is_superseded in found] == [True] * 4 + [False] * 4
    assert found[4][1] > found[0][1]


async def test_c15_times_that_follow_closely_do_not_supersede_those_of_other_zones(world: World) -> None:
    """It is Tuesday on one side of the date line while Monday's times come on the other."""
    await world.put(audience=everyone(), timezone=None, at=("09:00", "18:00"), options={"subject": "summary"})
    found = await run_hours(world, 36)
    assert len(found) > 8
    assert not any(is_superseded for _, _, is_superseded in found)
    # those of three days ago are over in each zone
    world.clock.advance(48 * HOUR)
    found = await run_hours(world, 24)
    assert found[0][2]


async def test_c15_a_version_of_the_definition_is_kept(world: World) -> None:
    options = {"subject": {"key": "summary", "version": 7}}
    await world.put(audience=everyone(), timezone=None, at=("MON 09:00",), options=options)
    assert {version for _, version, _ in await run_hours(world, 48)} == {7}
