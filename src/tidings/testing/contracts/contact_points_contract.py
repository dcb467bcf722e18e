"""Suite for `ports.store.ContactPoints`, and for planning and claims of deliveries to contact points."""

from dataclasses import replace
from typing import Literal

import pytest

from tidings.model.audience import users
from tidings.model.contact_point import ContactPoint, ContactPointState
from tidings.model.delivery import PlannedDelivery
from tidings.model.ids import new_id
from tidings.model.outcome import InvalidTarget
from tidings.model.priority import Lane
from tidings.model.user import User
from tidings.ports.store import Store, TargetVersion
from tidings.testing.contracts.samples import LEASE, NOW, make_attempt_result, make_notification


def make_contact_point(user_id: str, address: str, channel: str = "chat") -> ContactPoint:
    """Return a contact point that is not from a profile."""
    return ContactPoint(new_id(NOW), user_id, channel, address, "Work", {"region": "eu"}, created_at=NOW)


class ContactPointsContract:
    """Provide a fixture `store`: an empty store of the adapter."""

    async def test_contact_points_read_back_as_written_and_once_each(self, store: Store) -> None:
        point = make_contact_point("ana", "https://chat.example/grüße")
        async with store.transaction() as tx:
            await store.users.upsert(tx, [User("ana"), User("ben")], NOW)
            assert await store.contact_points.add(tx, [point], NOW) == [True]
            again = make_contact_point("ana", point.address)
            assert await store.contact_points.add(tx, [again], NOW) == [False]
            assert await store.contact_points.add(tx, [make_contact_point("ben", point.address)], NOW) == [True]
        async with store.read_snapshot() as tx:
            assert await store.contact_points.list_by_user(tx, "ana") == [point]
            assert set(await store.contact_points.find_users(tx, "chat", point.address.upper())) == {"ana", "ben"}
            assert await store.contact_points.find_users(tx, "email", point.address) == []

    async def test_a_user_removes_only_own_contact_points(self, store: Store) -> None:
        point = make_contact_point("ana", "a")
        async with store.transaction() as tx:
            await store.users.upsert(tx, [User("ana"), User("ben")], NOW)
            await store.contact_points.add(tx, [point], NOW)
            assert not await store.contact_points.remove(tx, "ben", point.id)
            assert not await store.contact_points.remove(tx, "ana", "not an id")
            assert await store.contact_points.remove(tx, "ana", point.id)
            assert await store.contact_points.list_by_user(tx, "ana") == []

    async def test_the_addresses_of_a_profile_follow_it(self, store: Store) -> None:
        async with store.transaction() as tx:
            await store.users.upsert(tx, [User("ana", email="ana@example.org", phone="+41440000000")], NOW)
            await store.contact_points.add(tx, [make_contact_point("ana", "home@example.org", "email")], NOW)
        assert await _addresses(store) == {"ana@example.org", "+41440000000", "home@example.org"}
        async with store.transaction() as tx:
            await store.users.upsert(tx, [User("ana", email="new@example.org")], NOW)
        assert await _addresses(store) == {"new@example.org", "home@example.org"}
        async with store.transaction() as tx:
            await store.users.upsert(tx, [User("ana", email="new@example.org")], NOW)
            assert await store.contact_points.list_missing_profiles(tx, limit=10) == []
            await store.users.erase(tx, "ana")
        assert await _addresses(store) == set()

    async def test_an_address_that_a_user_added_before_becomes_that_of_the_profile(self, store: Store) -> None:
        async with store.transaction() as tx:
            await store.users.upsert(tx, [User("ana")], NOW)
            await store.contact_points.add(tx, [make_contact_point("ana", "a@example.org", "email")], NOW)
            await store.users.upsert(tx, [User("ana", email="a@example.org")], NOW)
            [point] = await store.contact_points.list_by_user(tx, "ana")
            assert (point.address, point.label, point.is_from_profile) == ("a@example.org", "Work", True)
            assert await store.contact_points.list_missing_profiles(tx, limit=10) == []

    async def test_users_of_an_older_version_are_found(self, store: Store) -> None:
        async with store.transaction() as tx:
            await store.users.upsert(tx, [User("ana", email="ana@example.org"), User("ben")], NOW)
            for point in await store.contact_points.list_by_user(tx, "ana"):
                await store.contact_points.remove(tx, "ana", point.id)
            [found] = await store.contact_points.list_missing_profiles(tx, limit=10)
            await store.contact_points.sync_profiles(tx, [found], NOW)
            assert found.id == "ana"
            assert await store.contact_points.list_missing_profiles(tx, limit=10) == []
        assert await _addresses(store) == {"ana@example.org"}

    @pytest.mark.parametrize("action", ["delete", "rebind"])
    async def test_a_delivery_to_a_contact_point_is_claimed_with_its_address(
        self, store: Store, action: Literal["delete", "rebind"]
    ) -> None:
        point = make_contact_point("ana", "a")
        notification = replace(make_notification(users("ana")), channels=("chat",))
        async with store.transaction() as tx:
            await store.users.upsert(tx, [User("ana")], NOW)
            await store.contact_points.add(tx, [point], NOW)
            await store.notifications.add_many(tx, [notification])
            [recipient] = await store.audiences.page(tx, users("ana"), category="NEWS", after=None, limit=5)
            [same] = await store.audiences.load_recipients(tx, [("ana", "NEWS", None)])
            assert same == recipient
            assert dict(recipient.targets) == {"chat": (point.id,)}
            batch = new_id(NOW)
            planned = PlannedDelivery(
                new_id(NOW), notification.id, "ana", "chat", point.id, batch, Lane.HIGH, NOW, "on by default"
            )
            await store.deliveries.add(tx, [planned], [], NOW)
            [claimed] = await store.deliveries.claim(tx, [batch], token=new_id(NOW), now=NOW, lease_until=NOW + LEASE)
            assert claimed.target == point
            gone = make_attempt_result(claimed, InvalidTarget("550 no such user", 550, action))
            assert await store.deliveries.record(tx, [gone], NOW) == 1
            assert [one.state for one in await store.contact_points.list_by_user(tx, "ana")] == [ContactPointState.GONE]
            [after] = await store.audiences.page(tx, users("ana"), category="NEWS", after=None, limit=5)
            assert dict(after.targets) == {}

    async def test_an_outcome_applies_only_to_the_version_that_was_tried(self, store: Store) -> None:
        point, gone = make_contact_point("ana", "a"), ContactPointState.GONE
        async with store.transaction() as tx:
            await store.users.upsert(tx, [User("ana")], NOW)
            await store.contact_points.add(tx, [point], NOW)
            await store.contact_points.set_state_of_versions(tx, [TargetVersion(point.id, 7)], gone, NOW)
            assert [one.is_usable for one in await store.contact_points.list_by_user(tx, "ana")] == [True]
            await store.contact_points.set_state_of_versions(tx, [TargetVersion(point.id, 1)], gone, NOW)
            assert [one.is_usable for one in await store.contact_points.list_by_user(tx, "ana")] == [False]


async def _addresses(store: Store) -> set[str]:
    async with store.read_snapshot() as tx:
        return {point.address for point in await store.contact_points.list_by_user(tx, "ana")}
