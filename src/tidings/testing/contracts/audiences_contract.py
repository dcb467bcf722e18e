"""Suite for `ports.store.Audiences`: compositions of sets over random populations, in pages of any size."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TypeAlias

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidings.model import audience as described
from tidings.model.audience import Audience, Complement, Intersection, NamedSet, Union
from tidings.model.delivery import Recipient
from tidings.model.preference import ALL_SUBJECTS, ANY, Preference
from tidings.model.subscription import SubscriptionState
from tidings.model.user import User
from tidings.ports.store import Store, Transaction
from tidings.testing.contracts.samples import NOW, create_planned_notification, make_subscription

USERS = ("Zoe", "ana", "ben", "cleo", "d'arc", "é", 'o"x', "u%_")
CITIES = ("Basel", "Bern")
CATEGORIES = ("NEWS", "ORDERS")
CHANNELS = ("email", "webpush")
EVENTS = ("event-0", "event-1", "event-2")
HOSTS = ("host-0", "host-1")


@dataclass(frozen=True, slots=True)
class Population:
    """Users with their relations to events."""

    #: user id → city
    users: Mapping[str, str | None]
    #: (user id, category, channel) → the user's preference
    preferences: Mapping[tuple[str, str, str], bool]
    #: event id → host
    hosts: Mapping[str, str]
    #: (event id, user id) → whether the ticket is active
    tickets: Mapping[tuple[str, str], bool]
    #: (event id, user id)
    favourites: frozenset[tuple[str, str]]

    def expected_members(self, audience: Audience) -> set[str]:
        """Return the user ids of the audience, computed in memory: the expected result."""
        match audience:
            case Union(parts):
                return set().union(*(self.expected_members(part) for part in parts))
            case Intersection(parts):
                return set(self.users).intersection(*(self.expected_members(part) for part in parts))
            case Complement(part):
                return set(self.users) - self.expected_members(part)
            case NamedSet(kind, arguments):
                return {one for one in self.users if self._is_member(one, kind, arguments)}

    def _is_member(self, user_id: str, kind: str, arguments: Mapping[str, object]) -> bool:
        match kind, dict(arguments):
            case "everyone", _:
                return True
            case "users", {"userIds": list(ids)}:
                return user_id in ids
            case "city", {"city": city}:
                return self.users[user_id] == city
            case "opted_in", {"category": category}:
                return any(
                    enabled
                    for (preferring_user, name, _), enabled in self.preferences.items()
                    if (preferring_user, name) == (user_id, category)
                )
            case "ticket_holders", {"eventId": event_id}:
                return self.tickets.get((str(event_id), user_id), False)
            case "favourited", {"eventId": event_id}:
                return (event_id, user_id) in self.favourites
            case "favourited_host", {"hostId": host}:
                return any((event_id, user_id) in self.favourites for event_id, by in self.hosts.items() if by == host)
            case _:
                raise AssertionError(f"no such kind: {kind}")


#: stores the events, tickets and favourites of a population whose users are already stored
Populate: TypeAlias = Callable[[Store, Transaction, Population], Awaitable[None]]

_pairs = st.tuples(st.sampled_from(EVENTS), st.sampled_from(USERS))
_leaves = st.one_of(
    st.lists(st.sampled_from((*USERS, "nobody")), min_size=1).map(lambda ids: described.users(*ids)),
    st.just(described.everyone()),
    st.sampled_from(CITIES).map(described.city),
    st.sampled_from(CATEGORIES).map(described.opted_in),
    st.sampled_from(EVENTS).map(described.ticket_holders),
    st.sampled_from(EVENTS).map(described.favourited),
    st.sampled_from(HOSTS).map(described.favourited_host),
)
audiences: st.SearchStrategy[Audience] = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: Union(tuple(parts))),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: Intersection(tuple(parts))),
        inner.map(Complement),
    ),
    max_leaves=8,
)


@st.composite
def populations(draw: st.DrawFn) -> Population:
    """Draw a population whose tickets and favourites belong to its own users."""
    people = draw(st.dictionaries(st.sampled_from(USERS), st.none() | st.sampled_from(CITIES), min_size=4))
    choice = st.tuples(st.sampled_from(USERS), st.sampled_from(CATEGORIES), st.sampled_from(CHANNELS))
    choices = draw(st.dictionaries(choice, st.booleans()))
    tickets = draw(st.dictionaries(_pairs, st.booleans(), min_size=6))
    favourites = draw(st.frozensets(_pairs, min_size=6))
    return Population(
        people,
        {key: on for key, on in choices.items() if key[0] in people},
        draw(st.fixed_dictionaries({event_id: st.sampled_from(HOSTS) for event_id in EVENTS})),
        {key: active for key, active in tickets.items() if key[1] in people},
        frozenset(pair for pair in favourites if pair[1] in people),
    )


#: function-scoped fixtures are safe here, because each example rolls back its changes
_SUPPRESSED_HEALTH_CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]


class _RollbackSignal(Exception):
    """Raised at the end of an example to roll back its transaction."""


class AudiencesContract:
    """Provide the fixtures `store` (empty, with the audience kinds of the built-in packs) and `populate`."""

    @settings(max_examples=40, deadline=None, suppress_health_check=_SUPPRESSED_HEALTH_CHECKS)
    @given(
        population=populations(),
        several=st.lists(audiences, min_size=4, max_size=8),
        limit=st.integers(1, 9),
        candidates=st.sets(st.sampled_from(USERS)),
    )
    async def test_pages_are_the_audience_in_order_and_without_repeats(
        self,
        store: Store,
        populate: Populate,
        population: Population,
        several: list[Audience],
        limit: int,
        candidates: set[str],
    ) -> None:
        async with self._rolled_back_transaction(store) as tx:
            await self._store_users(store, tx, population)
            await populate(store, tx, population)
            for audience in several:
                expected = population.expected_members(audience)
                assert await self._collect_pages(store, tx, audience, limit) == sorted(expected)
                assert await store.audiences.filter_members(tx, audience, candidates) == candidates & expected
                assert await store.audiences.estimate_size(tx, audience) == len(expected)

    async def test_a_page_brings_what_planning_needs(self, store: Store) -> None:
        async with store.transaction() as tx:
            await store.users.upsert(
                tx, [User("ana", locale="de-CH", timezone="Europe/Zurich"), User("ben"), User("cleo")], NOW
            )
            await store.users.set_preferences(
                tx, "ana", [Preference("NEWS", "webpush", False), Preference("NEWS", "email", True)]
            )
            await store.users.set_preferences(tx, "ben", [Preference("ORDERS", "webpush", False)])
            page = await store.audiences.page(tx, described.everyone(), category="NEWS", after=None, limit=2)
        assert [(one.user_id, one.locale, one.timezone, set(one.preferences)) for one in page] == [
            (
                "ana",
                "de-CH",
                "Europe/Zurich",
                {Preference("NEWS", "email", True), Preference("NEWS", "webpush", False)},
            ),
            ("ben", "en", "UTC", set()),
        ]

    async def test_c24_recipients_bring_the_preferences_of_the_subject_and_of_all(self, store: Store) -> None:
        applying = (
            Preference(ANY, "email", False),
            Preference("NEWS", ANY, True, "event:9"),
            Preference("NEWS", ANY, True, "event:9/message:1"),
        )
        others = [Preference("NEWS", ANY, False, f"event:{subject}") for subject in ("8", "90", "9/message:2")]
        device = make_subscription("ana", "1")
        subject = "event:9/message:1"
        async with store.transaction() as tx:
            await store.users.upsert(tx, [User("ana"), User("ben")], NOW)
            await store.users.set_preferences(tx, "ana", [*applying, *others, Preference("ORDERS", ANY, False)])
            await store.subscriptions.register(tx, device, replaces=None, now=NOW)
            everyone = described.everyone()
            page = await store.audiences.page(tx, everyone, category="NEWS", subject=subject, after=None, limit=9)
            named = await store.audiences.load_recipients(tx, [("ana", "NEWS", subject), ("ben", "NEWS", subject)])
            [plain, _] = await store.audiences.page(tx, everyone, category="NEWS", after=None, limit=9)
            [unnamed] = await store.audiences.load_recipients(tx, [("ana", "NEWS", None)])
            [of_digest] = await store.audiences.load_recipients(tx, [("ana", "NEWS", ALL_SUBJECTS)])
        assert of_digest is not None
        assert set(of_digest.preferences) == {*applying, *others}
        assert [one.user_id for one in page if one.preferences] == ["ana"]
        assert [set(one.preferences) for one in named if one] == [set(one.preferences) for one in page]
        assert set(page[0].preferences) == set(applying)
        assert page[0].targets == {"webpush": (device.id,)}
        assert page[1].preferences == ()
        assert unnamed is not None
        assert plain.preferences == unnamed.preferences == applying[:1]

    async def test_named_recipients_come_in_the_order_asked(self, store: Store) -> None:
        device = make_subscription("ana", "1")
        async with store.transaction() as tx:
            await store.users.upsert(
                tx, [User("ana", locale="de-CH", timezone="Europe/Zurich"), User('b"n'), User("cleo")], NOW
            )
            await store.users.set_preferences(
                tx,
                "ana",
                [
                    Preference("NEWS", "webpush", False),
                    Preference("NEWS", "email", True),
                    Preference("ORDERS", "email", False),
                ],
            )
            for one in (device, second := make_subscription("ana", "2"), gone := make_subscription("ana", "3")):
                await store.subscriptions.register(tx, one, replaces=None, now=NOW)
            await store.subscriptions.set_state(tx, [gone.id], SubscriptionState.GONE, NOW)
            wanted = [
                ("nobody", "NEWS", None),
                ('b"n', "NEWS", None),
                ("ana", "ORDERS", None),
                ("ana", "NEWS", None),
                ("ana", "ORDERS", None),
            ]
            found = await store.audiences.load_recipients(tx, wanted)
            assert await store.audiences.load_recipients(tx, []) == []
        [nobody, ben, orders, news, again] = found
        assert nobody is None
        assert ben == Recipient('b"n', "en", "UTC", (), {})
        assert orders is not None
        assert news is not None
        assert (news.user_id, news.locale, news.timezone) == ("ana", "de-CH", "Europe/Zurich")
        assert set(news.preferences) == {Preference("NEWS", "email", True), Preference("NEWS", "webpush", False)}
        assert (orders.user_id, orders.preferences) == ("ana", (Preference("ORDERS", "email", False),))
        assert again == orders
        for seen in (orders, news):
            assert list(seen.targets) == ["webpush"]
            assert sorted(seen.targets["webpush"]) == sorted([device.id, second.id])

    async def test_who_is_named_is_seen_as_on_a_page(self, store: Store) -> None:
        scene = await create_planned_notification(store, *USERS)
        async with store.read_snapshot() as tx:
            page = await store.audiences.page(
                tx, described.users(*USERS), category="NEWS", after=None, limit=len(USERS)
            )
            named = await store.audiences.load_recipients(tx, [(one.user_id, "NEWS", None) for one in page])
        assert list(page) == list(named)
        assert len(page) == len(scene.devices)

    @asynccontextmanager
    async def _rolled_back_transaction(self, store: Store) -> AsyncIterator[Transaction]:
        """Open a transaction that is rolled back, so that the next example starts with an empty store."""
        with suppress(_RollbackSignal):
            async with store.transaction() as tx:
                yield tx
                raise _RollbackSignal

    async def _store_users(self, store: Store, tx: Transaction, population: Population) -> None:
        people = [User(user_id, city=city) for user_id, city in population.users.items()]
        await store.users.upsert(tx, people, NOW)
        for (user_id, category, channel), on in population.preferences.items():
            await store.users.set_preferences(tx, user_id, [Preference(category, channel, on)])

    async def _collect_pages(self, store: Store, tx: Transaction, audience: Audience, limit: int) -> list[str]:
        found: list[str] = []
        after = None
        while True:
            page = await store.audiences.page(tx, audience, category="NEWS", after=after, limit=limit)
            assert len(page) <= limit
            assert after is None or all(one.user_id > after for one in page), "or it never ends"
            found += [one.user_id for one in page]
            if len(page) < limit:
                return found
            after = found[-1]
