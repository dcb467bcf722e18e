"""Suite for `ports.store.Users` and `ports.store.Subscriptions`."""

from dataclasses import replace
from datetime import timedelta

from msgspec import structs

from tidings.model.audience import everyone, users
from tidings.model.delivery import Skipped, SkipReason
from tidings.model.ids import new_id
from tidings.model.subscription import SubscriptionState
from tidings.model.user import Address, Preference, User
from tidings.ports.store import Registration, Store
from tidings.testing.contracts.samples import NOW, a_notification, a_subscription, planned_scene, reachable

LATER = NOW + timedelta(days=2)


class UsersContract:
    """Subclass it and give a fixture `store`: an empty store of the adapter."""

    async def test_a_user_reads_back_as_written(self, store: Store) -> None:
        ana = User("ana", "ana@example.org", "+41441234567", "de-CH", "Europe/Zurich", "Zürich", {"tier": ["a", 1]})
        async with store.begin() as tx:
            assert await store.users.upsert(tx, [ana], NOW) == [True]
            assert await store.users.get(tx, "ana") == replace(ana, created_at=NOW, updated_at=NOW)
            assert await store.users.get(tx, "Ana") is None

    async def test_an_upsert_replaces_and_tells_who_is_new(self, store: Store) -> None:
        async with store.begin() as tx:
            await store.users.upsert(tx, [User("ana", city="Basel"), User("ben")], NOW)
            assert await store.users.upsert(tx, [User("cleo"), User("ana")], LATER) == [True, False]
            assert await store.users.upsert(tx, [User("dan"), User("dan", city="Bern")], LATER) == [True, False]
            assert await store.users.upsert(tx, [], LATER) == []
            assert await store.users.get(tx, "ana") == User("ana", created_at=NOW, updated_at=LATER)
            dan = await store.users.get(tx, "dan")
        assert dan is not None
        assert dan.city == "Bern"

    async def test_users_are_listed_in_pages(self, store: Store) -> None:
        async with store.begin() as tx:
            await store.users.upsert(tx, [User(user_id) for user_id in ("c", "a", "b", "Z", "é")], NOW)
            first = await store.users.page(tx, after=None, limit=3)
            second = await store.users.page(tx, after=first[-1].id, limit=3)
        assert [user.id for user in (*first, *second)] == ["Z", "a", "b", "c", "é"]

    async def test_unknown_ids_come_back_in_the_order_given(self, store: Store) -> None:
        async with store.begin() as tx:
            await store.users.upsert(tx, [User("ana")], NOW)
            assert await store.users.unknown(tx, ["zoe", "ana", "ben", "zoe", 'o"neil']) == ["zoe", "ben", 'o"neil']
            assert await store.users.unknown(tx, []) == []

    async def test_those_who_have_an_address_are_found(self, store: Store) -> None:
        people = [
            User("u1", email="ana@example.org", phone="+41441234567"),
            User("u2", email="both@example.org"),
            User("u3", email="both@example.org"),
            User("u4"),
        ]
        async with store.begin() as tx:
            await store.users.upsert(tx, people, NOW)
        ana, phone, both = (
            Address("email", "ana@example.org"),
            Address("phone", "+41441234567"),
            Address("email", "both@example.org"),
        )
        async with store.read() as tx:
            found = await store.users.holders(tx, [ana, phone, both, Address("phone", "+41440000000")])
            assert found == {ana: ("u1", 1), phone: ("u1", 1), both: ("u2", 2)}
            assert await store.users.holders(tx, []) == {}

    async def test_preferences_are_kept_per_category_and_channel(self, store: Store) -> None:
        on, off = Preference("NEWS", "webpush", True), Preference("NEWS", "email", False)
        async with store.begin() as tx:
            await store.users.upsert(tx, [User("ana"), User("ben")], NOW)
            await store.users.set_preferences(tx, "ana", [on, off])
            await store.users.set_preferences(tx, "ana", [])
            await store.users.set_preferences(tx, "ana", [replace(on, enabled=False)])
            assert await store.users.preferences(tx, "ana") == [off, replace(on, enabled=False)]
            assert await store.users.preferences(tx, "ben") == []

    async def test_erasing_removes_the_user_and_all_that_hangs_on_them(self, store: Store) -> None:
        scene = await planned_scene(store, "ana", "ben")
        async with store.begin() as tx:
            await store.users.set_preferences(tx, "ana", [Preference("NEWS", "webpush", True)])
            skipped = Skipped(scene.notification.id, "ana", "email", SkipReason.CHANNEL_NOT_SET_UP)
            await store.deliveries.add(tx, [], [skipped], NOW)
            assert await store.users.erase(tx, "ana")
            assert not await store.users.erase(tx, "ana")
            assert await store.users.get(tx, "ana") is None
            assert await store.users.preferences(tx, "ana") == []
            assert await store.subscriptions.of_user(tx, "ana") == []
            ids = scene.notification.id
            left = await store.deliveries.trace(tx, ids, user_id=None, after=None, limit=9)
            assert [trace.user_id for trace in left] == ["ben"]
            assert await store.deliveries.skips(tx, ids, user_id=None, after=None, limit=9) == []

    async def test_erasing_deletes_what_was_said_to_the_user_alone_and_unnames_them_elsewhere(
        self, store: Store
    ) -> None:
        alone, among = a_notification(users("ana")), a_notification(users("ben", "ana") - users("ana"))
        broad = a_notification(everyone())
        async with store.begin() as tx:
            await store.users.upsert(tx, [User("ana"), User("ben")], NOW)
            for one in (alone, among, broad):
                await store.notifications.add(tx, one)
            await store.users.erase(tx, "ana")
            assert await store.notifications.get(tx, alone.id) is None
            kept = await store.notifications.get(tx, among.id)
            assert kept == replace(among, audience=users("ben") - users())
            assert await store.notifications.get(tx, broad.id) == broad

    async def test_erasing_unnames_the_user_in_what_was_planned_to_them_long_ago(self, store: Store) -> None:
        scene = await planned_scene(store, "ana", "ben")
        old = a_notification(users("ana", "ben")).moved(cursor="ben", recipients=2, deliveries=0, skipped=2, done=True)
        async with store.begin() as tx:
            await store.notifications.add(tx, old)
            await store.deliveries.add(tx, [], [Skipped(old.id, "ana", "email", SkipReason.NO_DEVICE)], NOW)
            await store.users.erase(tx, "ana")
            kept = await store.notifications.get(tx, old.id)
        assert kept == replace(old, audience=users("ben"))
        assert scene.notification.id != old.id


class SubscriptionsContract:
    """Subclass it and give a fixture `store`: an empty store of the adapter."""

    async def _people(self, store: Store) -> None:
        async with store.begin() as tx:
            await store.users.upsert(tx, [User("ana"), User("ben")], NOW)

    async def test_a_new_subscription_reads_back_as_given(self, store: Store) -> None:
        await self._people(store)
        given = a_subscription("ana")
        async with store.begin() as tx:
            assert await store.subscriptions.register(tx, given, replaces=None, now=NOW) == (Registration.NEW, given)
            assert await store.subscriptions.of_user(tx, "ana") == [given]
            assert await store.subscriptions.of_user(tx, "ben") == []

    async def test_the_same_endpoint_again_is_known_and_takes_the_new_keys(self, store: Store) -> None:
        await self._people(store)
        first = a_subscription("ana")
        again = structs.replace(a_subscription("ana"), auth=b"n" * 16, device="Phone", created_at=LATER)
        kept = structs.replace(again, id=first.id, created_at=first.created_at)
        async with store.begin() as tx:
            await store.subscriptions.register(tx, first, replaces=None, now=NOW)
            outcome = await store.subscriptions.register(tx, again, replaces=None, now=LATER)
            assert outcome == (Registration.KNOWN, kept)
            assert await store.subscriptions.of_user(tx, "ana") == [kept]

    async def test_a_dead_subscription_lives_again_when_its_browser_registers(self, store: Store) -> None:
        await self._people(store)
        given = a_subscription("ana")
        async with store.begin() as tx:
            await store.subscriptions.register(tx, given, replaces=None, now=NOW)
            assert await store.subscriptions.mark(tx, [given.id], SubscriptionState.GONE, NOW) == 1
            assert await reachable(store, tx, "ana") == set()
            await store.subscriptions.register(tx, given, replaces=None, now=NOW)
            assert await reachable(store, tx, "ana") == {("ana", given.id)}

    async def test_a_browser_that_proves_its_keys_moves_to_its_new_user(self, store: Store) -> None:
        await self._people(store)
        old = a_subscription("ana")
        async with store.begin() as tx:
            await store.subscriptions.register(tx, old, replaces=None, now=NOW)
            moved = await store.subscriptions.register(tx, a_subscription("ben"), replaces=None, now=NOW)
            assert moved == (Registration.MOVED, structs.replace(old, user_id="ben"))
            assert await store.subscriptions.of_user(tx, "ana") == []

    async def test_another_users_endpoint_without_its_keys_is_refused_and_nothing_changes(self, store: Store) -> None:
        await self._people(store)
        hers, his = a_subscription("ana", "1"), a_subscription("ben", "2")
        stolen = a_subscription("ben", "1", auth=b"b" * 16)
        async with store.begin() as tx:
            for one in (hers, his):
                await store.subscriptions.register(tx, one, replaces=None, now=NOW)
            outcome, _ = await store.subscriptions.register(tx, stolen, replaces=his.endpoint, now=NOW)
            assert outcome is Registration.REFUSED
            assert await store.subscriptions.of_user(tx, "ana") == [hers]
            assert await store.subscriptions.of_user(tx, "ben") == [his]

    async def test_a_subscription_replaces_the_users_own_old_one_only(self, store: Store) -> None:
        await self._people(store)
        hers, his = a_subscription("ana", "1"), a_subscription("ben", "2")
        new, other = a_subscription("ana", "3"), a_subscription("ana", "4")
        async with store.begin() as tx:
            for one in (hers, his):
                await store.subscriptions.register(tx, one, replaces=None, now=NOW)
            await store.subscriptions.register(tx, new, replaces=hers.endpoint, now=NOW)
            assert await store.subscriptions.of_user(tx, "ana") == [new]
            await store.subscriptions.register(tx, other, replaces=his.endpoint, now=NOW)
            assert await store.subscriptions.of_user(tx, "ben") == [his]
            await store.subscriptions.register(tx, other, replaces=other.endpoint, now=NOW)
            assert await store.subscriptions.of_user(tx, "ana") == [new, other]

    async def test_users_remove_their_own_subscriptions_only(self, store: Store) -> None:
        await self._people(store)
        hers = a_subscription("ana")
        async with store.begin() as tx:
            await store.subscriptions.register(tx, hers, replaces=None, now=NOW)
            assert not await store.subscriptions.remove(tx, "ben", hers.endpoint)
            assert not await store.subscriptions.remove(tx, "ana", "https://push.example/send/other")
            assert await store.subscriptions.remove(tx, "ana", hers.endpoint)
            assert not await store.subscriptions.remove(tx, "ana", hers.endpoint)

    async def test_active_ones_of_a_page_of_users(self, store: Store) -> None:
        await self._people(store)
        made = [a_subscription("ana", "1"), a_subscription("ana", "2"), a_subscription("ben", "3")]
        async with store.begin() as tx:
            for one in made:
                await store.subscriptions.register(tx, one, replaces=None, now=NOW)
            await store.subscriptions.mark(tx, [made[1].id], SubscriptionState.REBIND, NOW)
            assert await reachable(store, tx, "ana", "ben", new_id(NOW)) == {("ana", made[0].id), ("ben", made[2].id)}
            assert await reachable(store, tx, "ben") == {("ben", made[2].id)}

    async def test_dead_ones_are_counted_and_purged_after_their_time(self, store: Store) -> None:
        await self._people(store)
        made = [a_subscription("ana", str(place)) for place in range(4)]
        async with store.begin() as tx:
            for one in made:
                await store.subscriptions.register(tx, one, replaces=None, now=NOW)
            await store.subscriptions.mark(tx, [made[0].id], SubscriptionState.GONE, NOW)
            await store.subscriptions.mark(tx, [made[1].id], SubscriptionState.GONE, LATER)
            await store.subscriptions.mark(tx, [made[2].id], SubscriptionState.REBIND, NOW)
            assert await store.subscriptions.mark(tx, [made[0].id], SubscriptionState.GONE, LATER) == 0
            assert await store.subscriptions.count_gone(tx, since=NOW) == (2, 4)
            assert await store.subscriptions.count_gone(tx, since=LATER) == (1, 4)
            assert await store.subscriptions.purge(tx, LATER) == 1
            left = await store.subscriptions.of_user(tx, "ana")
        assert [one.id for one in left] == [one.id for one in made[1:]]
