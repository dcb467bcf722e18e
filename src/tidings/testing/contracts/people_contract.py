"""Suites for `ports.store.Users` and `ports.store.Subscriptions`."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from msgspec import structs

from tidings.model.audience import everyone, users
from tidings.model.delivery import SkipReason, SkipRecord
from tidings.model.ids import new_id
from tidings.model.preference import ANY, Condition, Operator, Preference
from tidings.model.subscription import ENDED_STATES, MAX_ACTIVE_DEVICES, SubscriptionState, TargetChange
from tidings.model.user import ContactAddress, User
from tidings.ports.store import RegistrationResult, Store
from tidings.testing.contracts.samples import (
    NOW,
    create_planned_notification,
    list_reachable_devices,
    make_notification,
    make_subscription,
)

LATER = NOW + timedelta(days=2)


class UsersContract:
    """Provide a fixture `store`: an empty store of the adapter."""

    async def test_a_user_reads_back_as_written(self, store: Store) -> None:
        ana = User("ana", "ana@example.org", "+41441234567", "de-CH", "Europe/Zurich", "Zürich", {"tier": ["a", 1]})
        async with store.transaction() as tx:
            assert await store.users.upsert(tx, [ana], NOW) == [True]
            assert await store.users.get(tx, "ana") == replace(ana, created_at=NOW, updated_at=NOW)
            assert await store.users.get(tx, "Ana") is None

    async def test_an_upsert_replaces_and_tells_who_is_new(self, store: Store) -> None:
        async with store.transaction() as tx:
            await store.users.upsert(tx, [User("ana", city="Basel"), User("ben")], NOW)
            assert await store.users.upsert(tx, [User("cleo"), User("ana")], LATER) == [True, False]
            assert await store.users.upsert(tx, [User("dan"), User("dan", city="Bern")], LATER) == [True, False]
            assert await store.users.upsert(tx, [], LATER) == []
            assert await store.users.get(tx, "ana") == User("ana", created_at=NOW, updated_at=LATER)
            dan = await store.users.get(tx, "dan")
        assert dan is not None
        assert dan.city == "Bern"

    async def test_users_are_listed_in_pages(self, store: Store) -> None:
        async with store.transaction() as tx:
            await store.users.upsert(tx, [User(user_id) for user_id in ("c", "a", "b", "Z", "é")], NOW)
            first = await store.users.page(tx, after=None, limit=3)
            second = await store.users.page(tx, after=first[-1].id, limit=3)
        assert [user.id for user in (*first, *second)] == ["Z", "a", "b", "c", "é"]

    async def test_unknown_ids_come_back_in_the_order_given(self, store: Store) -> None:
        async with store.transaction() as tx:
            await store.users.upsert(tx, [User("ana")], NOW)
            assert await store.users.missing_ids(tx, ["zoe", "ana", "ben", "zoe", 'o"neil']) == ["zoe", "ben", 'o"neil']
            assert await store.users.missing_ids(tx, []) == []

    async def test_locked_users_read_like_others(self, store: Store) -> None:
        async with store.transaction() as tx:
            await store.users.upsert(tx, [User("ana"), User("ben")], NOW)
        async with store.transaction() as tx:
            assert await store.users.get(tx, "ana", lock=True) == await store.users.get(tx, "ana")
            assert await store.users.get(tx, "zoe", lock=True) is None
            assert await store.users.missing_ids(tx, ["zoe", "ben", "ana"], lock=True) == ["zoe"]
            assert await store.users.lock_for_erasure(tx, "ana")
            assert not await store.users.lock_for_erasure(tx, "zoe")
            assert await store.users.get(tx, "ana") is not None

    async def test_those_who_have_an_address_are_found(self, store: Store) -> None:
        people = [
            User("u1", email="ana@example.org", phone="+41441234567"),
            User("u2", email="both@example.org"),
            User("u3", email="both@example.org"),
            User("u4"),
        ]
        async with store.transaction() as tx:
            await store.users.upsert(tx, people, NOW)
        ana, phone, both = (
            ContactAddress("email", "ana@example.org"),
            ContactAddress("phone", "+41441234567"),
            ContactAddress("email", "both@example.org"),
        )
        async with store.read_snapshot() as tx:
            found = await store.users.find_by_address(tx, [ana, phone, both, ContactAddress("phone", "+41440000000")])
            assert found == {ana: ("u1", 1), phone: ("u1", 1), both: ("u2", 2)}
            assert await store.users.find_by_address(tx, []) == {}

    async def test_preferences_are_kept_per_category_and_channel(self, store: Store) -> None:
        on, off = Preference("NEWS", "webpush", True), Preference("NEWS", "email", False)
        async with store.transaction() as tx:
            await store.users.upsert(tx, [User("ana"), User("ben")], NOW)
            await store.users.set_preferences(tx, "ana", [on, off])
            await store.users.set_preferences(tx, "ana", [])
            await store.users.set_preferences(tx, "ana", [structs.replace(on, enabled=False)])
            assert await store.users.get_preferences(tx, "ana") == [off, structs.replace(on, enabled=False)]
            assert await store.users.get_preferences(tx, "ben") == []

    async def test_preferences_of_subjects_stand_beside_those_of_the_category(self, store: Store) -> None:
        condition = Condition("amount", Operator.GREATER, 5)
        entries = [
            Preference(ANY, ANY, True, "event:9"),
            Preference(ANY, "email", False),
            Preference("NEWS", ANY, True, condition=condition),
            Preference("NEWS", "email", True),
            Preference("NEWS", "email", False, "event:9"),
        ]
        async with store.transaction() as tx:
            await store.users.upsert(tx, [User("ana")], NOW)
            await store.users.set_preferences(tx, "ana", entries[::-1])
            assert await store.users.get_preferences(tx, "ana") == entries
            unconditional = structs.replace(entries[2], condition=None)
            await store.users.set_preferences(tx, "ana", [unconditional])
            await store.users.remove_preferences(tx, "ana", [entries[0], entries[4], Preference("NEWS", "sms", True)])
            assert await store.users.get_preferences(tx, "ana") == [entries[1], unconditional, entries[3]]
            assert await store.users.lock_preferences(tx, "ana")
            assert not await store.users.lock_preferences(tx, "ben")

    async def test_erasing_removes_the_user_and_all_that_hangs_on_them(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana", "ben")
        async with store.transaction() as tx:
            await store.users.set_preferences(tx, "ana", [Preference("NEWS", "webpush", True)])
            skipped = SkipRecord(scene.notification.id, "ana", "email", SkipReason.CHANNEL_NOT_SET_UP)
            await store.deliveries.add(tx, [], [skipped], NOW)
            assert await store.users.erase(tx, "ana")
            assert not await store.users.erase(tx, "ana")
            assert await store.users.get(tx, "ana") is None
            assert await store.users.get_preferences(tx, "ana") == []
            assert await store.subscriptions.list_by_user(tx, "ana") == []
            ids = scene.notification.id
            left = await store.deliveries.list_with_attempts(tx, ids, user_id=None, after=None, limit=9)
            assert [trace.user_id for trace in left] == ["ben"]
            assert await store.deliveries.list_skips(tx, ids, user_id=None, after=None, limit=9) == []

    async def test_erasing_deletes_what_was_said_to_the_user_alone_and_unnames_them_elsewhere(
        self, store: Store
    ) -> None:
        alone, among = make_notification(users("ana")), make_notification(users("ben", "ana") - users("ana"))
        broad = make_notification(everyone())
        async with store.transaction() as tx:
            await store.users.upsert(tx, [User("ana"), User("ben")], NOW)
            for one in (alone, among, broad):
                await store.notifications.add_many(tx, [one])
            await store.users.erase(tx, "ana")
            assert await store.notifications.get(tx, alone.id) is None
            kept = await store.notifications.get(tx, among.id)
            assert kept == replace(among, audience=users("ben") - users())
            assert await store.notifications.get(tx, broad.id) == broad

    async def test_erasing_unnames_the_user_in_what_was_planned_to_them_long_ago(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana", "ben")
        old = make_notification(users("ana", "ben")).with_progress(
            cursor="ben", recipients=2, deliveries=0, skipped=2, is_complete=True
        )
        async with store.transaction() as tx:
            await store.notifications.add_many(tx, [old])
            await store.deliveries.add(tx, [], [SkipRecord(old.id, "ana", "email", SkipReason.NO_DEVICE)], NOW)
            await store.users.erase(tx, "ana")
            kept = await store.notifications.get(tx, old.id)
        assert kept == replace(old, audience=users("ben"))
        assert scene.notification.id != old.id


class SubscriptionsContract:
    """Provide a fixture `store`: an empty store of the adapter."""

    async def _add_users(self, store: Store) -> None:
        async with store.transaction() as tx:
            await store.users.upsert(tx, [User("ana"), User("ben")], NOW)

    async def test_a_new_subscription_reads_back_as_given(self, store: Store) -> None:
        await self._add_users(store)
        given = make_subscription("ana")
        async with store.transaction() as tx:
            assert await store.subscriptions.register(tx, given, replaces=None, now=NOW) == (
                RegistrationResult.NEW,
                given,
            )
            assert await store.subscriptions.list_by_user(tx, "ana") == [given]
            assert await store.subscriptions.list_by_user(tx, "ben") == []

    async def test_the_same_endpoint_again_is_known_and_takes_the_new_keys(self, store: Store) -> None:
        await self._add_users(store)
        first = make_subscription("ana")
        again = structs.replace(make_subscription("ana"), auth=b"n" * 16, device="Phone", created_at=LATER)
        kept = structs.replace(again, id=first.id, created_at=first.created_at, version=2, last_seen_at=LATER)
        async with store.transaction() as tx:
            await store.subscriptions.register(tx, first, replaces=None, now=NOW)
            outcome = await store.subscriptions.register(tx, again, replaces=None, now=LATER)
            assert outcome == (RegistrationResult.KNOWN, kept)
            assert await store.subscriptions.list_by_user(tx, "ana") == [kept]

    @pytest.mark.parametrize("state", sorted(ENDED_STATES))
    @pytest.mark.parametrize("user_id", ["ana", "ben"])
    async def test_an_ended_endpoint_is_not_registered_again_and_its_successor_takes_its_place(
        self, store: Store, state: SubscriptionState, user_id: str
    ) -> None:
        await self._add_users(store)
        given, fresh = make_subscription("ana"), make_subscription("ana", "2")
        async with store.transaction() as tx:
            await store.subscriptions.register(tx, given, replaces=None, now=NOW)
            assert await store.subscriptions.set_state(tx, [given.id], state, NOW) == 1
            again = structs.replace(make_subscription(user_id), device="Phone")
            result, stored = await store.subscriptions.register(tx, again, replaces=None, now=LATER)
            assert (result, stored) == (RegistrationResult.ENDED, structs.replace(given, state=state))
            assert await list_reachable_devices(store, tx, "ana", "ben") == set()
            await store.subscriptions.register(tx, fresh, replaces=given.endpoint, now=LATER)
            assert await list_reachable_devices(store, tx, "ana") == {("ana", given.id)}
            assert await store.subscriptions.purge(tx, LATER + timedelta(days=1)) == 0

    async def test_a_browser_that_proves_its_keys_moves_to_its_new_user(self, store: Store) -> None:
        await self._add_users(store)
        old = make_subscription("ana")
        async with store.transaction() as tx:
            await store.subscriptions.register(tx, old, replaces=None, now=NOW)
            moved = await store.subscriptions.register(tx, make_subscription("ben"), replaces=None, now=NOW)
            assert moved == (RegistrationResult.MOVED, structs.replace(old, user_id="ben", version=2))
            assert await store.subscriptions.list_by_user(tx, "ana") == []

    async def test_another_users_endpoint_without_its_keys_is_refused_and_nothing_changes(self, store: Store) -> None:
        await self._add_users(store)
        hers, his = make_subscription("ana", "1"), make_subscription("ben", "2")
        stolen = make_subscription("ben", "1", auth=b"b" * 16)
        async with store.transaction() as tx:
            for one in (hers, his):
                await store.subscriptions.register(tx, one, replaces=None, now=NOW)
            outcome, _ = await store.subscriptions.register(tx, stolen, replaces=his.endpoint, now=NOW)
            assert outcome is RegistrationResult.REFUSED
            assert await store.subscriptions.list_by_user(tx, "ana") == [hers]
            assert await store.subscriptions.list_by_user(tx, "ben") == [his]

    async def test_a_subscription_replaces_the_users_own_old_one_only(self, store: Store) -> None:
        await self._add_users(store)
        hers, his = make_subscription("ana", "1"), make_subscription("ben", "2")
        new, other = make_subscription("ana", "3"), make_subscription("ana", "4")
        async with store.transaction() as tx:
            for one in (hers, his):
                await store.subscriptions.register(tx, one, replaces=None, now=NOW)
            # under the same id, so that waiting deliveries are sent to the new endpoint
            successor = structs.replace(new, id=hers.id, version=2)
            result = await store.subscriptions.register(tx, new, replaces=hers.endpoint, now=NOW)
            assert result == (RegistrationResult.NEW, successor)
            assert await store.subscriptions.list_by_user(tx, "ana") == [successor]
            await store.subscriptions.register(tx, other, replaces=his.endpoint, now=NOW)
            assert await store.subscriptions.list_by_user(tx, "ben") == [his]
            await store.subscriptions.register(tx, other, replaces=other.endpoint, now=NOW)
            assert await store.subscriptions.list_by_user(tx, "ana") == [successor, structs.replace(other, version=2)]

    async def test_a_successor_that_is_registered_already_replaces_the_old_row(self, store: Store) -> None:
        await self._add_users(store)
        old, new = make_subscription("ana", "1"), make_subscription("ana", "2")
        async with store.transaction() as tx:
            for one in (old, new):
                await store.subscriptions.register(tx, one, replaces=None, now=NOW)
            await store.subscriptions.register(tx, new, replaces=old.endpoint, now=NOW)
            assert await store.subscriptions.list_by_user(tx, "ana") == [structs.replace(new, version=2)]

    async def test_a_renewal_keeps_user_and_id_and_applies_once(self, store: Store) -> None:
        await self._add_users(store)
        old, new = make_subscription("ana", "1"), make_subscription("ana", "2", auth=b"n" * 16)
        async with store.transaction() as tx:
            await store.subscriptions.register(tx, old, replaces=None, now=NOW)
            await store.subscriptions.set_state(tx, [old.id], SubscriptionState.GONE, NOW)
            renewed = await store.subscriptions.renew(tx, old, new, LATER)
            assert renewed == structs.replace(new, id=old.id, version=2, last_seen_at=LATER)
            assert await store.subscriptions.list_by_user(tx, "ana") == [renewed]
            assert await store.subscriptions.find_by_endpoint(tx, old.endpoint) is None
            assert await store.subscriptions.find_by_endpoint(tx, new.endpoint) == renewed
            # the row has changed since `old` was read
            assert await store.subscriptions.renew(tx, old, make_subscription("ana", "3"), LATER) is None
            await store.subscriptions.remove(tx, "ana", new.endpoint)
            assert await store.subscriptions.renew(tx, renewed, make_subscription("ana", "3"), LATER) is None
            assert await store.subscriptions.list_by_user(tx, "ana") == []

    async def test_a_renewal_does_not_take_another_browsers_endpoint(self, store: Store) -> None:
        await self._add_users(store)
        hers, his, other = make_subscription("ana", "1"), make_subscription("ben", "2"), make_subscription("ana", "3")
        async with store.transaction() as tx:
            for one in (hers, his, other):
                await store.subscriptions.register(tx, one, replaces=None, now=NOW)
            assert await store.subscriptions.renew(tx, hers, make_subscription("ana", "2"), NOW) is None
            forged = make_subscription("ana", "3", auth=b"f" * 16)
            assert await store.subscriptions.renew(tx, hers, forged, NOW) is None
            assert await store.subscriptions.list_by_user(tx, "ana") == [hers, other]
            assert await store.subscriptions.list_by_user(tx, "ben") == [his]

    async def test_versions_of_existing_subscriptions_are_read(self, store: Store) -> None:
        await self._add_users(store)
        given = make_subscription("ana")
        async with store.transaction() as tx:
            await store.subscriptions.register(tx, given, replaces=None, now=NOW)
            assert await store.subscriptions.lock_versions(tx, [given.id, new_id(NOW)]) == {given.id: 1}

    async def test_users_remove_their_own_subscriptions_only(self, store: Store) -> None:
        await self._add_users(store)
        hers = make_subscription("ana")
        async with store.transaction() as tx:
            await store.subscriptions.register(tx, hers, replaces=None, now=NOW)
            assert not await store.subscriptions.remove(tx, "ben", hers.endpoint)
            assert not await store.subscriptions.remove(tx, "ana", "https://push.example/send/other")
            assert await store.subscriptions.remove(tx, "ana", hers.endpoint)
            assert not await store.subscriptions.remove(tx, "ana", hers.endpoint)

    async def test_the_device_seen_longest_ago_makes_room(self, store: Store) -> None:
        await self._add_users(store)
        made = [make_subscription("ana", str(place)) for place in range(MAX_ACTIVE_DEVICES + 2)]
        async with store.transaction() as tx:
            await store.subscriptions.register(tx, make_subscription("ben", "other"), replaces=None, now=NOW)
            for place, one in enumerate(made[:-2]):
                await store.subscriptions.register(tx, one, replaces=None, now=NOW + timedelta(seconds=place))
            # the first device visits again, so that the second one is the oldest
            await store.subscriptions.register(tx, made[0], replaces=None, now=LATER)
            await store.subscriptions.set_state(tx, [made[5].id], SubscriptionState.GONE, LATER)
            await store.subscriptions.register(tx, made[-2], replaces=None, now=LATER)
            before = {one.id for one in await store.subscriptions.list_by_user(tx, "ana")}
            await store.subscriptions.register(tx, made[-1], replaces=None, now=LATER)
            after = {one.id for one in await store.subscriptions.list_by_user(tx, "ana")}
            others = await store.subscriptions.list_by_user(tx, "ben")
        assert before == {one.id for one in made[:-1]}, "20 are active, and one that is gone does not count"
        assert after == {one.id for one in made} - {made[1].id}
        assert len(others) == 1

    async def test_three_refusals_in_a_row_for_one_reason_suspend_a_device(self, store: Store) -> None:
        await self._add_users(store)
        given, now = make_subscription("ana"), NOW
        refused = TargetChange(given.id, is_reached=False, refusals=1, reason="400: odd")
        steps: list[tuple[TargetChange, Sequence[tuple[str, str]]]] = [
            (refused, []),
            (refused, []),
            (structs.replace(refused, reason="403: other"), []),
            (refused, []),
            (refused, []),
            (TargetChange(given.id, is_reached=True, continues=False), []),
            (refused, []),
            (refused, []),
            (refused, [("push.example", "400: odd")]),
            (refused, []),
        ]
        async with store.transaction() as tx:
            await store.subscriptions.register(tx, given, replaces=None, now=NOW)
            for change, suspended in steps:
                now += timedelta(seconds=1)
                assert await store.subscriptions.record_results(tx, [change], now) == suspended
            [left] = await store.subscriptions.list_by_user(tx, "ana")
            assert left.state is SubscriptionState.SUSPENDED
            assert await list_reachable_devices(store, tx, "ana") == set()
            await store.subscriptions.register(tx, given, replaces=None, now=now)
            assert await store.subscriptions.record_results(tx, [refused], now) == [], "registering starts anew"

    async def test_refusals_of_one_batch_count_together(self, store: Store) -> None:
        await self._add_users(store)
        given = make_subscription("ana")
        change = TargetChange(given.id, is_reached=True, refusals=3, reason="400: odd", continues=False)
        async with store.transaction() as tx:
            await store.subscriptions.register(tx, given, replaces=None, now=NOW)
            assert await store.subscriptions.record_results(tx, [change], NOW) == [("push.example", "400: odd")]

    async def test_devices_neither_seen_nor_reached_are_listed(self, store: Store) -> None:
        await self._add_users(store)
        made = [make_subscription("ana", str(place)) for place in range(4)]
        async with store.transaction() as tx:
            for one in made:
                await store.subscriptions.register(tx, one, replaces=None, now=NOW)
            await store.subscriptions.register(tx, made[0], replaces=None, now=LATER)
            await store.subscriptions.record_results(tx, [TargetChange(made[1].id, is_reached=True)], LATER)
            await store.subscriptions.set_state(tx, [made[2].id], SubscriptionState.REBIND, NOW)
            assert await store.subscriptions.list_unseen(tx, before=LATER, limit=9) == [made[3].id]
            assert await store.subscriptions.list_unseen(tx, before=NOW, limit=9) == []

    async def test_unused_ones_are_deleted_after_their_time(self, store: Store) -> None:
        await self._add_users(store)
        made = [make_subscription("ana", str(place)) for place in range(4)]
        async with store.transaction() as tx:
            for one in made:
                await store.subscriptions.register(tx, one, replaces=None, now=NOW)
            await store.subscriptions.set_state(tx, [made[0].id], SubscriptionState.SUSPENDED, NOW)
            await store.subscriptions.set_state(tx, [made[1].id], SubscriptionState.REBIND, NOW)
            await store.subscriptions.set_state(tx, [made[2].id], SubscriptionState.SUSPENDED, LATER)
            assert await store.subscriptions.purge_unused(tx, before=LATER) == 2
            left = await store.subscriptions.list_by_user(tx, "ana")
        assert [one.id for one in left] == [made[2].id, made[3].id]

    async def test_active_ones_of_a_page_of_users(self, store: Store) -> None:
        await self._add_users(store)
        made = [make_subscription("ana", "1"), make_subscription("ana", "2"), make_subscription("ben", "3")]
        async with store.transaction() as tx:
            for one in made:
                await store.subscriptions.register(tx, one, replaces=None, now=NOW)
            await store.subscriptions.set_state(tx, [made[1].id], SubscriptionState.REBIND, NOW)
            assert await list_reachable_devices(store, tx, "ana", "ben", new_id(NOW)) == {
                ("ana", made[0].id),
                ("ben", made[2].id),
            }
            assert await list_reachable_devices(store, tx, "ben") == {("ben", made[2].id)}

    async def test_dead_ones_are_counted_and_purged_after_their_time(self, store: Store) -> None:
        await self._add_users(store)
        made = [make_subscription("ana", str(place)) for place in range(4)]
        async with store.transaction() as tx:
            for one in made:
                await store.subscriptions.register(tx, one, replaces=None, now=NOW)
            await store.subscriptions.set_state(tx, [made[0].id], SubscriptionState.GONE, NOW)
            await store.subscriptions.set_state(tx, [made[1].id], SubscriptionState.GONE, LATER)
            await store.subscriptions.set_state(tx, [made[2].id], SubscriptionState.REBIND, NOW)
            assert await store.subscriptions.set_state(tx, [made[0].id], SubscriptionState.GONE, LATER) == 0
            assert await store.subscriptions.count_gone(tx, since=NOW) == (2, 4)
            assert await store.subscriptions.count_gone(tx, since=LATER) == (1, 4)
            assert await store.subscriptions.purge(tx, LATER) == 1
            left = await store.subscriptions.list_by_user(tx, "ana")
        assert [one.id for one in left] == [one.id for one in made[1:]]
