"""Suite for audiences by attributes, place, topic and engagement, for topics, and for saved audiences."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidings.model import audience as described
from tidings.model.audience import Audience, Complement, Intersection, NamedSet, Union
from tidings.model.contact_point import ContactPoint
from tidings.model.geography import compute_distance_km
from tidings.model.ids import new_id
from tidings.model.receipt import EventCause, ProviderEvent
from tidings.model.saved_audience import SavedAudience
from tidings.model.topic import TopicSubscription
from tidings.model.user import User
from tidings.ports.store import Store, Transaction
from tidings.testing.contracts.inbox_contract import make_item
from tidings.testing.contracts.samples import NOW

DAY = timedelta(days=1)
TOPICS = ("jazz", "rock")
VALUES: tuple[object, ...] = (
    *(0, 1, -2, 1.5, True, False, "1", "pro", "Pro", "ä", "profile", None),
    *([1, "pro", True], ["1.5"], [], {"a": 1}),
)
POINTS = (
    *(None, (47.37, 8.54), (47.05, 8.31), (64.1, -21.9)),
    *((-16.8, 179.9), (-16.8, -179.9), (89.0, 0.0), (89.0, 170.0)),
)
#: (attributes, operator, value) → whether it matches
RULES: list[tuple[Mapping[str, object], str, object, bool]] = [
    ({"plan": "pro"}, "eq", "pro", True),
    ({"plan": "Pro"}, "eq", "pro", False),
    ({"plan": 1}, "eq", 1.0, True),
    ({"plan": True}, "eq", 1, False),
    ({"plan": 1}, "eq", True, False),
    ({"plan": "1"}, "eq", 1, False),
    ({"plan": False}, "eq", False, True),
    ({}, "eq", "pro", False),
    ({"plan": "free"}, "ne", "pro", True),
    ({"plan": 1}, "ne", "1", True),
    ({"plan": "pro"}, "ne", "pro", False),
    ({}, "ne", "pro", False),
    ({"plan": None}, "ne", "pro", False),
    ({"plan": "pro"}, "in", ["free", "pro"], True),
    ({"plan": 2}, "in", ["2", 2.0], True),
    ({"plan": "2"}, "in", [2, True], False),
    ({"plan": 2}, "gt", 1.5, True),
    ({"plan": 2}, "gt", 2, False),
    ({"plan": 2}, "gte", 2, True),
    ({"plan": -3}, "lt", -2.5, True),
    ({"plan": 2}, "lte", 2, True),
    ({"plan": 3}, "lte", 2, False),
    ({"plan": "2026-11-20"}, "lt", "2026-11-21", True),
    ({"plan": "é"}, "gt", "z", True),
    ({"plan": "a"}, "gt", "B", True),
    ({"plan": "10"}, "gt", 2, False),
    ({"plan": True}, "gt", 0, False),
    ({"plan": ["a", "pro"]}, "contains", "pro", True),
    ({"plan": ["a", "profile"]}, "contains", "pro", False),
    ({"plan": [1, 2.0]}, "contains", 2, True),
    ({"plan": [True]}, "contains", 1, False),
    ({"plan": [[1]]}, "contains", 1, False),
    ({"plan": "a profile"}, "contains", "pro", True),
    ({"plan": "a profile"}, "contains", "PRO", False),
    ({"plan": 1}, "contains", 1, False),
    ({"plan": {"pro": 1}}, "contains", "pro", False),
    ({"plan": "100%"}, "contains", "%", True),
    ({"plan": "100"}, "contains", "%", False),
    ({"plan": 0}, "exists", None, True),
    ({"plan": {}}, "exists", None, True),
    ({"plan": None}, "exists", None, False),
    ({}, "exists", None, False),
]


@dataclass(frozen=True, slots=True)
class _Person:
    """A user, and what is known of it."""

    attributes: Mapping[str, object] = field(default_factory=dict)
    country: str | None = None
    point: tuple[float, float] | None = None
    topics: frozenset[str] = frozenset()
    #: days since the last open of a mail
    opened: int | None = None


def match_value(stored: object, operator: str, value: object) -> bool:
    """Return whether an attribute satisfies an operator, computed in memory: the expected result."""
    match operator:
        case "exists":
            return stored is not None
        case "in":
            assert isinstance(value, list)
            return any(match_value(stored, "eq", one) for one in value)
        case "eq":
            return _type_of(stored) == _type_of(value) and stored == value
        case "ne":
            return stored is not None and not match_value(stored, "eq", value)
        case "contains":
            if isinstance(stored, list):
                return any(match_value(item, "eq", value) for item in stored)
            return isinstance(stored, str) and isinstance(value, str) and value in stored
        case _:
            if _type_of(stored) != _type_of(value) or _type_of(stored) not in ("number", "text"):
                return False
            first, second = _sort_key(stored), _sort_key(value)
            results = {"gt": first > second, "gte": first >= second, "lt": first < second, "lte": first <= second}
            return results[operator]


def _sort_key(value: object) -> tuple[float, bytes]:
    return (0.0, value.encode()) if isinstance(value, str) else (float(str(value)), b"")


def _type_of(value: object) -> str:
    match value:
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "text"
        case _:
            return "other"


def is_expected(person: _Person, audience: Audience) -> bool:
    """Return whether a person is in an audience, computed in memory."""
    match audience:
        case Union(parts):
            return any(is_expected(person, part) for part in parts)
        case Intersection(parts):
            return all(is_expected(person, part) for part in parts)
        case Complement(part):
            return not is_expected(person, part)
        case NamedSet("everyone"):
            return True
        case NamedSet("attribute", arguments):
            stored: object = person.attributes
            for key in str(arguments["name"]).split("."):
                stored = stored.get(key) if isinstance(stored, Mapping) else None
            return match_value(stored, str(arguments["operator"]), arguments.get("value"))
        case NamedSet("country", arguments):
            return person.country == arguments["country"]
        case NamedSet("near", {"latitude": float(lat), "longitude": float(lon), "radiusKm": radius}):
            return person.point is not None and compute_distance_km(lat, lon, *person.point) <= float(str(radius))
        case NamedSet("topic", arguments):
            return arguments["topic"] in person.topics
        case NamedSet(kind, {"since": since}):
            engaged = person.opened is not None and NOW - person.opened * DAY >= datetime.fromisoformat(str(since))
            return engaged is (kind == "engaged")
        case _:
            raise AssertionError(f"no such kind: {audience}")


def _opened_within(days: int) -> Mapping[str, object]:
    """Return the pinned arguments of opens within a number of days."""
    return {"action": "opened", "channel": "email", "since": (NOW - timedelta(days=days)).isoformat()}


_SCALARS = [value for value in VALUES if isinstance(value, bool | int | float | str)]
_scalars = st.sampled_from(_SCALARS)
_ordered = st.sampled_from([value for value in _SCALARS if not isinstance(value, bool)])
_names = st.sampled_from(("plan", "floor", "home.floor"))
_tests = st.one_of(
    st.tuples(_names, st.just("exists"), st.none()),
    st.tuples(_names, st.sampled_from(("eq", "ne", "contains")), _scalars),
    st.tuples(_names, st.sampled_from(("gt", "gte", "lt", "lte")), _ordered),
    st.tuples(_names, st.just("in"), st.lists(_scalars, min_size=1, max_size=3)),
)
_points = st.sampled_from([point for point in POINTS if point is not None])
_leaves: st.SearchStrategy[Audience] = st.one_of(
    _tests.map(lambda test: described.attribute(*test)),
    st.sampled_from(("CH", "IS")).map(described.country),
    st.tuples(_points, st.sampled_from((1.0, 60.0, 200.0, 3_000.0, 15_000.0))).map(
        lambda circle: described.near(*circle[0], radius_km=circle[1])
    ),
    st.sampled_from(TOPICS).map(described.topic),
    st.tuples(st.sampled_from(("engaged", "not_engaged")), st.sampled_from((1, 7, 30))).map(
        lambda kind: NamedSet(kind[0], _opened_within(kind[1]))
    ),
    st.just(described.everyone()),
)
_audiences = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: Union(tuple(parts))),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: Intersection(tuple(parts))),
        inner.map(Complement),
    ),
    max_leaves=6,
)
_attributes = st.fixed_dictionaries(
    {},
    optional={
        "plan": st.sampled_from(VALUES),
        "floor": st.sampled_from(VALUES),
        "home": st.fixed_dictionaries({"floor": st.sampled_from(VALUES)}),
    },
)
_people = st.builds(
    _Person,
    _attributes,
    st.sampled_from((None, "CH", "IS")),
    st.sampled_from(POINTS),
    st.frozensets(st.sampled_from(TOPICS)),
    st.sampled_from((None, 0, 5, 29, 31)),
)
#: function-scoped fixtures are safe here, because each example rolls back its changes
_SUPPRESSED_HEALTH_CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]


class _RollbackSignal(Exception):
    """Raised at the end of an example to roll back its transaction."""


@asynccontextmanager
async def _rolled_back(store: Store) -> AsyncIterator[Transaction]:
    """Open a transaction that is rolled back, so that the next example starts with an empty store."""
    with suppress(_RollbackSignal):
        async with store.transaction() as tx:
            yield tx
            raise _RollbackSignal


async def add_event(store: Store, tx: Transaction, cause: EventCause, at: datetime, **fields: str | None) -> None:
    """Store an open or a click, of a user by id or by the address."""
    event = ProviderEvent(
        channel="email",
        provider="postmark",
        event_id=new_id(NOW),
        occurred_at=at,
        cause=cause,
        user_id=fields.get("user_id"),
        recipient=fields.get("recipient"),
    )
    await store.receipts.add(tx, event, NOW)


async def list_members(store: Store, tx: Transaction, audience: Audience) -> list[str]:
    """Return the user ids of an audience."""
    page = await store.audiences.page(tx, audience, category="NEWS", after=None, limit=100)
    return [one.user_id for one in page]


class TargetingContract:
    """Provide a fixture `store`: empty, with the audience kinds of the core pack."""

    async def test_each_operator_compares_by_type_and_value(self, store: Store) -> None:
        found = {}
        async with store.transaction() as tx:
            people = [User(f"u{number:03}", attributes=rule[0]) for number, rule in enumerate(RULES)]
            await store.users.upsert(tx, people, NOW)
            for number, (stored, operator, value, _) in enumerate(RULES):
                members = await list_members(store, tx, described.attribute("plan", operator, value))
                found[number] = (stored, operator, value, f"u{number:03}" in members)
        assert list(found.values()) == RULES
        for stored, operator, value, result in RULES:
            assert match_value(stored.get("plan"), operator, value) is result

    async def test_an_attribute_within_another_is_named_with_a_dot(self, store: Store) -> None:
        async with store.transaction() as tx:
            people = [
                User("ana", attributes={"home": {"floor": 3}}),
                User("ben", attributes={"home": 3, "home.floor": 3}),
                User("cleo", attributes={"home": [{"floor": 3}]}),
            ]
            await store.users.upsert(tx, people, NOW)
            assert await list_members(store, tx, described.attribute("home.floor", "eq", 3)) == ["ana"]

    @settings(max_examples=40, deadline=None, suppress_health_check=_SUPPRESSED_HEALTH_CHECKS)
    @given(people=st.lists(_people, min_size=3, max_size=8), several=st.lists(_audiences, min_size=3, max_size=6))
    async def test_composed_audiences_are_those_of_the_model(
        self, store: Store, people: list[_Person], several: list[Audience]
    ) -> None:
        by_id = {f"u{number}": person for number, person in enumerate(people)}
        async with _rolled_back(store) as tx:
            await self._store_people(store, tx, by_id)
            for audience in several:
                expected = [user_id for user_id, person in by_id.items() if is_expected(person, audience)]
                assert await list_members(store, tx, audience) == expected
                assert await store.audiences.filter_members(tx, audience, by_id) == set(expected)
                assert await store.audiences.estimate_size(tx, audience) == len(expected)

    async def test_a_radius_crosses_the_antimeridian_and_contains_a_pole(self, store: Store) -> None:
        fiji = {"fiji-east": (-16.8, -179.9), "fiji-west": (-16.8, 179.9)}
        places = fiji | {"pole": (89.9, 10.0), "zurich": (47.37, 8.54)}
        async with store.transaction() as tx:
            people = [User(name, latitude=point[0], longitude=point[1]) for name, point in places.items()]
            await store.users.upsert(tx, [*people, User("nowhere")], NOW)
            assert await list_members(store, tx, described.near(-16.8, 179.95, radius_km=30)) == sorted(fiji)
            assert await list_members(store, tx, described.near(89.9, -170.0, radius_km=30)) == ["pole"]
            assert await list_members(store, tx, described.near(0, 0, radius_km=20_000)) == sorted(places)

    async def test_engagement_is_what_people_did_on_a_channel(self, store: Store) -> None:
        old = (NOW - 40 * DAY, NOW - 3 * DAY)
        async with store.transaction() as tx:
            await store.users.upsert(tx, [User(name) for name in ("ana", "ben", "cleo", "dan", "eve", "fay")], NOW)
            mail = ContactPoint(new_id(NOW), "cleo", "email", "cleo@example.org", created_at=NOW)
            await store.contact_points.add(tx, [mail], NOW)
            await add_event(store, tx, EventCause.OPEN, old[1], user_id="ana")
            await add_event(store, tx, EventCause.MACHINE_OPEN, old[1], user_id="ben")
            await add_event(store, tx, EventCause.CLICK, old[1], recipient="cleo@example.org")
            await add_event(store, tx, EventCause.OPEN, old[0], user_id="dan")
            items = [make_item(name) for name in ("eve", "fay")]
            await store.inbox.add_many(tx, items, NOW)
            await store.inbox.set_seen(tx, "eve", [items[0].id], NOW)
            await store.inbox.set_read(tx, "fay", [items[1].id], NOW)
            found = {
                (kind, action, channel): await list_members(store, tx, NamedSet(kind, _engagement(action, channel)))
                for kind, action, channel in (
                    ("engaged", "opened", None),
                    ("engaged", "clicked", "email"),
                    ("engaged", "clicked", "sms"),
                    ("engaged", "seen", None),
                    ("engaged", "read", "inapp"),
                    ("engaged", "any", "email"),
                    ("engaged", "any", None),
                    ("not_engaged", "any", None),
                )
            }
        assert found == {
            ("engaged", "opened", None): ["ana"],
            ("engaged", "clicked", "email"): ["cleo"],
            ("engaged", "clicked", "sms"): [],
            # what is read was seen
            ("engaged", "seen", None): ["eve", "fay"],
            ("engaged", "read", "inapp"): ["fay"],
            ("engaged", "any", "email"): ["ana", "cleo"],
            ("engaged", "any", None): ["ana", "cleo", "eve", "fay"],
            ("not_engaged", "any", None): ["ben", "dan"],
        }

    async def test_a_topic_is_subscribed_to_once_and_listed_in_pages(self, store: Store) -> None:
        topics = store.topics
        async with store.transaction() as tx:
            await store.users.upsert(tx, [User("ana"), User("ben")], NOW)
            assert [await topics.subscribe(tx, "ana", name, NOW) for name in ("rock", "Jazz", "rock")] == [
                True,
                True,
                False,
            ]
            assert await topics.subscribe(tx, "ben", "rock", NOW)
            assert await topics.get(tx, "ana", "rock") == TopicSubscription("rock", NOW)
            assert await topics.get(tx, "ana", "jazz") is None
            # by bytes
            assert [one.topic for one in await topics.list_by_user(tx, "ana", limit=9)] == ["Jazz", "rock"]
            assert [one.topic for one in await topics.list_by_user(tx, "ana", after="Jazz", limit=9)] == ["rock"]
            assert await topics.count(tx, "ana") == 2
            assert await topics.unsubscribe(tx, "ana", "rock")
            assert not await topics.unsubscribe(tx, "ana", "rock")
            assert await list_members(store, tx, described.topic("rock")) == ["ben"]

    async def test_a_saved_audience_is_replaced_and_deleted(self, store: Store) -> None:
        saved = store.saved_audiences
        first = SavedAudience("vip", described.attribute("plan", "eq", "pro"), "Customers who pay")
        second = SavedAudience("vip", described.users("ana") - described.saved("blocked"))
        async with store.transaction() as tx:
            await saved.lock(tx)
            assert await saved.put(tx, first, NOW)
            assert not await saved.put(tx, second, NOW + DAY)
            assert await saved.put(tx, SavedAudience("blocked", described.city("Basel")), NOW)
            found = await saved.get_many(tx, ["vip", "unknown"])
            assert found == {"vip": SavedAudience("vip", second.definition, "", NOW, NOW + DAY)}
            assert [one.name for one in await saved.page(tx, after=None, limit=9)] == ["blocked", "vip"]
            assert [one.name for one in await saved.page(tx, after="blocked", limit=9)] == ["vip"]
            assert await saved.delete(tx, "vip")
            assert not await saved.delete(tx, "vip")

    async def test_an_erasure_removes_a_user_from_topics_and_saved_audiences(self, store: Store) -> None:
        async with store.transaction() as tx:
            await store.users.upsert(tx, [User("ana", country="CH", latitude=1.5, longitude=2.5), User("ben")], NOW)
            assert await store.users.get(tx, "ana") == User(
                "ana", created_at=NOW, updated_at=NOW, country="CH", latitude=1.5, longitude=2.5
            )
            await store.topics.subscribe(tx, "ana", "jazz", NOW)
            await add_event(store, tx, EventCause.OPEN, NOW, user_id="ana")
            await store.saved_audiences.put(tx, SavedAudience("vip", described.users("ana", "ben")), NOW)
            assert await store.personal_data.list_saved_audiences(tx, "ana") == ["vip"]
            assert await store.users.erase(tx, "ana")
            assert await store.personal_data.list_saved_audiences(tx, "ana") == []
            assert (await store.saved_audiences.get_many(tx, ["vip"]))["vip"].definition == described.users("ben")
            assert await list_members(store, tx, described.topic("jazz")) == []
            assert list(await store.receipts.page(tx, channel=None, cause=None, before=None, limit=9)) == []

    async def _store_people(self, store: Store, tx: Transaction, by_id: Mapping[str, _Person]) -> None:
        users = [
            User(
                user_id,
                attributes=person.attributes,
                country=person.country,
                latitude=person.point[0] if person.point else None,
                longitude=person.point[1] if person.point else None,
            )
            for user_id, person in by_id.items()
        ]
        await store.users.upsert(tx, users, NOW)
        for user_id, person in by_id.items():
            for topic in sorted(person.topics):
                await store.topics.subscribe(tx, user_id, topic, NOW)
            if person.opened is not None:
                await add_event(store, tx, EventCause.OPEN, NOW - person.opened * DAY, user_id=user_id)


def _engagement(action: str, channel: str | None) -> Mapping[str, object]:
    arguments = {"action": action, "since": (NOW - 30 * DAY).isoformat()}
    return arguments if channel is None else arguments | {"channel": channel}
