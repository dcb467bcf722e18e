"""Suite for `ports.presence.Presence`: signs of life, graces, vacancies, jumping clocks. Time comes in as arguments."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest

from tidings.ports.presence import Presence, Vacancy
from tidings.testing.contracts.samples import NOW

SECOND = timedelta(seconds=1)
LIFE = 15 * SECOND
GRACE = 30 * SECOND
A_MOMENT = timedelta(microseconds=1)
MANY = 1000
#: names that another notation might stumble over
ODD_NAMES = ("", " ", "a:b", "7:", "{tag}", "%s*?[", "line\nbreak", "nul\0", "Jürgen", "日本", "x" * 300)


async def see(
    presence: Presence, room: str, *members: str, now: datetime = NOW, life: timedelta = LIFE, grace: timedelta = GRACE
) -> None:
    """Say that members are there."""
    for member in members:
        await presence.seen(room, member, until=now + life, grace=grace, now=now)


async def rooms_of(presence: Presence, now: datetime, limit: int = MANY) -> list[str]:
    """Take vacancies and return their rooms."""
    return [vacancy.room for vacancy in await presence.vacated(now, limit)]


class PresenceContract:
    """Subclass it and give a fixture `presence`: an empty presence of the adapter."""

    async def test_nobody_is_anywhere_at_first(self, presence: Presence) -> None:
        assert (await presence.members("jazz", NOW), await presence.total(NOW)) == (0, 0)
        assert await rooms_of(presence, NOW) == []

    async def test_members_are_counted_once_and_by_room(self, presence: Presence) -> None:
        await see(presence, "jazz", "ana", "ben", "ana")
        await see(presence, "folk", "ana")
        assert [await presence.members(room, NOW) for room in ("jazz", "folk", "rock")] == [2, 1, 0]
        assert await presence.total(NOW) == 3

    async def test_a_member_counts_until_its_time_and_longer_if_it_is_seen_again(self, presence: Presence) -> None:
        await see(presence, "jazz", "ana", "ben")
        await see(presence, "jazz", "ana", now=NOW + 10 * SECOND)
        counted = [await presence.members("jazz", NOW + after) for after in (LIFE - A_MOMENT, LIFE, 25 * SECOND)]
        assert counted == [2, 1, 0]
        assert await presence.total(NOW + LIFE) == 1

    async def test_what_was_said_last_holds(self, presence: Presence) -> None:
        await see(presence, "jazz", "ana")
        await see(presence, "jazz", "ana", life=SECOND)
        assert await presence.members("jazz", NOW + 2 * SECOND) == 0

    async def test_who_left_does_not_count(self, presence: Presence) -> None:
        await see(presence, "jazz", "ana", "ben")
        await presence.left("jazz", "ana", now=NOW)
        assert (await presence.members("jazz", NOW), await presence.total(NOW)) == (1, 1)

    async def test_a_room_is_vacated_when_its_grace_is_over_and_not_a_moment_before(self, presence: Presence) -> None:
        await see(presence, "jazz", "ana")
        left = NOW + 5 * SECOND
        await presence.left("jazz", "ana", now=left)
        assert await rooms_of(presence, left + GRACE - A_MOMENT) == []
        (vacancy,) = await presence.vacated(left + GRACE, MANY)
        assert (vacancy.room, vacancy.since) == ("jazz", left)
        assert await rooms_of(presence, left + GRACE) == []
        assert await rooms_of(presence, left + 100 * GRACE) == []

    async def test_a_room_is_not_vacated_while_anybody_is_there(self, presence: Presence) -> None:
        await see(presence, "jazz", "ana", "ben")
        await presence.left("jazz", "ana", now=NOW)
        for beat in range(10):
            await see(presence, "jazz", "ben", now=NOW + beat * 10 * SECOND)
            assert await rooms_of(presence, NOW + beat * 10 * SECOND) == []

    async def test_somebody_who_comes_back_in_time_cancels_it(self, presence: Presence) -> None:
        await see(presence, "jazz", "ana")
        await presence.left("jazz", "ana", now=NOW)
        back = NOW + GRACE - A_MOMENT
        await see(presence, "jazz", "ben", now=back)
        assert await rooms_of(presence, back + SECOND) == []
        await presence.left("jazz", "ben", now=back + SECOND)
        assert await rooms_of(presence, back + GRACE) == []
        assert await rooms_of(presence, back + SECOND + GRACE) == ["jazz"]

    async def test_somebody_who_comes_back_before_it_was_taken_cancels_it(self, presence: Presence) -> None:
        await see(presence, "jazz", "ana")
        await presence.left("jazz", "ana", now=NOW)
        await see(presence, "jazz", "ana", now=NOW + 2 * GRACE)
        assert await rooms_of(presence, NOW + 2 * GRACE) == []

    async def test_who_falls_silent_is_missed_and_then_has_the_grace(self, presence: Presence) -> None:
        await see(presence, "jazz", "ana")
        for after in (LIFE - A_MOMENT, LIFE, LIFE + GRACE - A_MOMENT):
            assert await rooms_of(presence, NOW + after) == []
        (vacancy,) = await presence.vacated(NOW + LIFE + GRACE, MANY)
        assert (vacancy.room, vacancy.since) == ("jazz", NOW)

    async def test_nobody_is_given_up_who_was_not_looked_for(self, presence: Presence) -> None:
        await see(presence, "jazz", "ana")
        await see(presence, "folk", "ben")
        late = NOW + timedelta(hours=1)
        assert await rooms_of(presence, late) == []
        await see(presence, "jazz", "ana", now=late + GRACE - SECOND)
        assert await rooms_of(presence, late + GRACE) == ["folk"]

    async def test_to_leave_a_room_twice_or_without_being_there_vacates_nothing(self, presence: Presence) -> None:
        await presence.left("jazz", "ana", now=NOW)
        await see(presence, "folk", "ben")
        await presence.left("folk", "ana", now=NOW)
        assert await presence.members("folk", NOW) == 1
        await presence.left("folk", "ben", now=NOW)
        await presence.left("folk", "ben", now=NOW + 20 * SECOND)
        assert await rooms_of(presence, NOW + GRACE) == ["folk"]
        await presence.left("folk", "ben", now=NOW + GRACE)
        assert await rooms_of(presence, NOW + 3 * GRACE) == []

    async def test_each_room_has_its_own_grace_and_the_last_one_given_holds(self, presence: Presence) -> None:
        await see(presence, "short", "ana", grace=SECOND)
        await see(presence, "long", "ana", grace=timedelta(hours=1))
        await see(presence, "none", "ana", grace=0 * SECOND)
        await see(presence, "changed", "ana", grace=SECOND)
        await see(presence, "changed", "ana", grace=GRACE)
        for room in ("short", "long", "none", "changed"):
            await presence.left(room, "ana", now=NOW)
        given = [await rooms_of(presence, NOW + after) for after in (0 * SECOND, SECOND, GRACE, 120 * GRACE)]
        assert given == [["none"], ["short"], ["changed"], ["long"]]

    async def test_epochs_of_a_room_grow(self, presence: Presence) -> None:
        epochs = []
        for day in range(0, 12, 3):
            now = NOW + timedelta(days=day)
            await see(presence, "jazz", "ana", now=now)
            await presence.left("jazz", "ana", now=now)
            epochs += [vacancy.epoch for vacancy in await presence.vacated(now + GRACE, MANY)]
        assert len(epochs) == 4
        assert epochs == sorted(set(epochs))

    async def test_no_epoch_is_used_twice_when_an_instant_comes_again(self, presence: Presence) -> None:
        given: list[Vacancy] = []
        for _ in range(3):
            await see(presence, "jazz", "ana")
            await presence.left("jazz", "ana", now=NOW)
            given += await presence.vacated(NOW + GRACE, MANY)
        assert len({vacancy.epoch for vacancy in given}) == 3

    async def test_no_more_are_given_than_asked_for_and_those_due_first_come_first(self, presence: Presence) -> None:
        rooms = [f"room-{number:03}" for number in range(25)]
        for place, room in enumerate(rooms):
            await see(presence, room, "ana")
            await presence.left(room, "ana", now=NOW + place * A_MOMENT)
        given = [await rooms_of(presence, NOW + 2 * GRACE, limit=10) for _ in range(4)]
        assert given == [rooms[:10], rooms[10:20], rooms[20:], []]

    async def test_thousands_who_fall_silent_together_are_all_missed(self, presence: Presence) -> None:
        rooms = [f"room-{number}" for number in range(1500)]
        await asyncio.gather(*(see(presence, room, "ana", "ben") for room in rooms))
        assert await presence.total(NOW) == 3000
        assert await rooms_of(presence, NOW + LIFE) == []
        assert await presence.total(NOW) == 0, "one look missed them all"
        given = [await rooms_of(presence, NOW + LIFE + GRACE) for _ in range(3)]
        assert [len(some) for some in given] == [1000, 500, 0]
        assert {room for some in given for room in some} == set(rooms)

    async def test_each_vacancy_goes_to_one_of_many_who_ask_at_once(self, presence: Presence) -> None:
        rooms = {f"room-{number}" for number in range(60)}
        for room in rooms:
            await see(presence, room, "ana")
            await presence.left(room, "ana", now=NOW)
        takes = await asyncio.gather(*(rooms_of(presence, NOW + GRACE, limit=7) for _ in range(12)))
        given = [room for some in takes for room in some]
        assert len(given) == len(rooms)
        assert set(given) == rooms

    @pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
    async def test_rooms_and_members_have_any_name(self, presence: Presence, name: str) -> None:
        await see(presence, name, name, "ana")
        await see(presence, name + "x", name)
        assert (await presence.members(name, NOW), await presence.total(NOW)) == (2, 3)
        await presence.left(name, "ana", now=NOW)
        assert await rooms_of(presence, NOW + LIFE) == []
        assert sorted(await rooms_of(presence, NOW + LIFE + GRACE)) == sorted([name, name + "x"])

    @pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(days=1)])
    async def test_a_clock_that_jumps_forward_gives_nobody_up_who_is_still_seen(
        self, presence: Presence, jump: timedelta
    ) -> None:
        await see(presence, "jazz", "ana")
        await see(presence, "folk", "ben")
        jumped = NOW + jump
        assert await rooms_of(presence, jumped) == []
        await see(presence, "jazz", "ana", now=jumped + 5 * SECOND)
        assert await rooms_of(presence, jumped + 5 * SECOND) == []
        assert await presence.members("jazz", jumped + 5 * SECOND) == 1
        assert await rooms_of(presence, jumped + GRACE) == ["folk"]

    @pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(days=1)])
    async def test_a_clock_that_is_set_back_keeps_nobody_longer_than_a_life_and_a_grace(
        self, presence: Presence, jump: timedelta
    ) -> None:
        ahead = NOW + jump
        await see(presence, "silent", "ana", now=ahead)
        await see(presence, "left", "ana", now=ahead)
        await presence.left("left", "ana", now=ahead)
        assert await rooms_of(presence, NOW) == []
        assert await rooms_of(presence, NOW + GRACE - A_MOMENT) == []
        assert await rooms_of(presence, NOW + GRACE) == ["left"]
        given = await self._looked(presence, NOW + GRACE, NOW + LIFE + 3 * GRACE)
        assert [vacancy.room for vacancy in given] == ["silent"]

    async def test_a_clock_that_is_set_back_and_a_member_who_is_seen_by_it(self, presence: Presence) -> None:
        await see(presence, "jazz", "ana", now=NOW + timedelta(days=1))
        await see(presence, "jazz", "ana")
        assert await presence.members("jazz", NOW + LIFE) == 0
        given = await self._looked(presence, NOW + LIFE, NOW + LIFE + GRACE)
        assert [(vacancy.room, vacancy.since) for vacancy in given] == [("jazz", NOW)]

    async def test_nobody_was_there_later_than_it_was_noticed_that_nobody_is(self, presence: Presence) -> None:
        await see(presence, "jazz", "ana")
        await see(presence, "jazz", "ben")
        await presence.left("jazz", "ben", now=NOW + timedelta(hours=1))
        given = await self._looked(presence, NOW + LIFE, NOW + LIFE + GRACE)
        assert [(vacancy.room, vacancy.since) for vacancy in given] == [("jazz", NOW + LIFE)]

    async def test_clocks_that_differ_by_seconds_give_nobody_up(self, presence: Presence) -> None:
        behind, ahead = -3 * SECOND, 3 * SECOND
        for beat in range(20):
            now = NOW + beat * 10 * SECOND
            await see(presence, "jazz", "ana", now=now + behind)
            for clock in (ahead, behind):
                assert await rooms_of(presence, now + clock) == []

    async def _looked(self, presence: Presence, start: datetime, end: datetime) -> Sequence[Vacancy]:
        """Look every second from start to end, both included."""
        given: list[Vacancy] = []
        while start <= end:
            given += await presence.vacated(start, MANY)
            start += SECOND
        return given
