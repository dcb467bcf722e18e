"""Hot queries find what they want by the index meant for them at a million rows, on each database.

Plans are asked for the statements that the store really executes, with their parameters. SQLite has no statistics until
somebody runs ANALYZE, and its plans must be good before that too. PostgreSQL plans a statement for its parameters at
first, and for any parameters when a connection has used it a few times: both plans must be good.
"""

import re
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tidings.model import audience
from tidings.model.audience import Audience, favourited_host, ticket_holders
from tidings.model.delivery import Attempted
from tidings.model.outcome import Delivered
from tidings.model.priority import Lane
from tidings.model.user import Address
from tidings.packs.events import store as events
from tidings.packs.events.events import EventStatus
from tidings.ports.operations import DeadLetterFilter
from tidings.ports.store import Transaction
from tidings.stores.store import SqlStore
from tidings.testing.million import EACH, NOW, made_id

if TYPE_CHECKING:
    from tests.contract.plans.conftest import Million, Statement

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOTIFICATION = made_id(0, 10_000)
DELIVERY = made_id(1, 10_000 * EACH + 4)
BATCH = made_id(3, 10_000)
TOKEN = made_id(0, 1)
HERS = "user-050004"
LATE = "user-030000"
HOLDERS = ticket_holders("event-0001")
NAMED = audience.users("user-000001", "user-000002")

Work = Callable[[SqlStore, Transaction], Awaitable[object]]


@dataclass(frozen=True)
class Case:
    """A query with the index that must find its first rows."""

    name: str
    work: Work
    index: str
    #: tables of which an index is read in order from its start, with a limit or because the index holds only the rows
    #: that are wanted
    in_order: tuple[str, ...] = ()
    #: temporary B-trees of SQLite over rows that a limit or a key has bounded before
    sorts: int = 0
    #: the index on PostgreSQL where it is another one, or `one|other` where both are as good
    postgresql: str | None = None

    @property
    def indexes_of_postgresql(self) -> Sequence[str]:
        name = self.postgresql or self.index.partition(" (")[0].rpartition(" ")[2]
        return re.sub(r"^sqlite_autoindex_(\w+)_1$", r"\1_pkey", name).split("|")


def page(of: Audience, after: str | None) -> Work:
    return lambda store, tx: store.audiences.page(tx, of, category="NEWS-1", after=after, limit=1000)


def among(of: Audience) -> Work:
    return lambda store, tx: store.audiences.among(tx, of, ["user-000001", "user-000007"])


def claim(store: SqlStore, tx: Transaction) -> Awaitable[object]:
    return store.deliveries.claim(tx, [BATCH], token=TOKEN, now=NOW, lease_until=NOW)


def record(store: SqlStore, tx: Transaction) -> Awaitable[object]:
    tried = Attempted(DELIVERY, NOTIFICATION, "u", "webpush", None, TOKEN, 1, Delivered(), NOW, NOW, NOW)
    return store.deliveries.record(tx, [tried], NOW)


def trace(user_id: str | None, after: str | None = None) -> Work:
    return lambda store, tx: store.deliveries.trace(tx, NOTIFICATION, user_id=user_id, after=after, limit=100)


def skips(user_id: str | None, after: str | None = None) -> Work:
    return lambda store, tx: store.deliveries.skips(tx, NOTIFICATION, user_id=user_id, after=after, limit=100)


def dead(before: str | None) -> Work:
    return lambda store, tx: store.dead_letters.page(tx, DeadLetterFilter(), before=before, limit=50)


def event_list(*, status: EventStatus | None = None, city: str | None = None) -> Work:
    return lambda _store, tx: events.page(tx, status=status, city=city, before="event-4000", limit=50)


def pages(name: str, of: Audience, index: str, sorts: int = 1, in_order: tuple[str, ...] = ()) -> list[Case]:
    """The first page and a late one. The page itself, at most its limit, may be sorted once more."""
    return [
        Case(f"{name}, {when}", page(of, at), index, sorts=sorts, in_order=in_order)
        for when, at in (("first", None), ("late", LATE))
    ]


AUDIENCES = [
    *pages("ticket holders", HOLDERS, "ix_tickets_holders (event_id=? AND status=? AND user_id>?)"),
    *pages("ticket holders but", HOLDERS - NAMED, "ix_tickets_holders (event_id=? AND status=? AND user_id>?)"),
    *pages("city", audience.city("city-1"), "ix_users_city (city=? AND id>?)"),
    *pages("everyone", audience.everyone(), "sqlite_autoindex_users_1 (id>?)"),
    *pages("everyone but", audience.everyone() - HOLDERS, "sqlite_autoindex_users_1 (id>?)"),
    *pages(
        "favourited host",
        favourited_host("host-1"),
        "ix_favourites_host (host_id=? AND user_id>?)",
        # merged with the page, both in the order of ids
        in_order=("users",),
    ),
    *pages("favourited", audience.favourited("event-0001"), "sqlite_autoindex_favourites_1 (event_id=? AND user_id>?)"),
    *pages("opted in", audience.opted_in("NEWS-1"), "ix_preferences_category (category=? AND enabled=? AND user_id>?)"),
    *pages("named", NAMED, "sqlite_autoindex_users_1 (id=?)"),
    # union and its order: two more, over two limited pages
    *pages("either", HOLDERS | audience.city("city-1"), "ix_users_city (city=? AND id>?)", sorts=3),
    Case(
        "still a holder",
        among(HOLDERS),
        "sqlite_autoindex_tickets_1 (event_id=? AND user_id=?)",
        postgresql="tickets_pkey|ix_tickets_user|ix_tickets_holders",
    ),
    Case(
        "still liked",
        among(favourited_host("host-1")),
        "ix_favourites_host (host_id=? AND user_id=?)",
        postgresql="ix_favourites_host|ix_favourites_user",
    ),
    Case(
        "people by name",
        lambda store, tx: store.audiences.named(tx, [("user-000001", "NEWS-1"), ("user-000007", "NEWS-2")]),
        "sqlite_autoindex_users_1 (id=?)",
    ),
]
SENDING = [
    Case("devices of a page", page(HOLDERS, LATE), "ix_push_subscriptions_user (user_id=? AND state=?)", sorts=1),
    Case("claim: the update", claim, "ix_deliveries_batch (batch_id=?)", sorts=1),
    Case("claim: what is needed to send", claim, "sqlite_autoindex_deliveries_1 (id=?)", sorts=1),
    # (PostgreSQL may also read all that is being sent, which is little, and look for the outcomes among it)
    Case("record", record, "sqlite_autoindex_deliveries_1 (id=?)", in_order=("deliveries",)),
    Case(
        "anything due", lambda store, tx: store.deliveries.any_due(tx, NOW), "deliveries USING INDEX ix_deliveries_due"
    ),
    Case("wake what is due", lambda store, tx: store.deliveries.wake_due(tx, NOW, 200), "ix_deliveries_due (due_at<?)"),
    Case(
        "leases that ran out",
        lambda store, tx: store.deliveries.release_expired(tx, NOW - timedelta(days=1)),
        "ix_deliveries_lease (lease_until<?)",
    ),
    Case(
        "give back: reads what is being sent",
        lambda store, tx: store.deliveries.give_back(tx, [TOKEN], NOW),
        "ix_deliveries_lease",
        in_order=("deliveries",),
    ),
    Case("outbox", lambda store, tx: store.outbox.due(tx, NOW, 500), "ix_outbox_due (due_at<?)"),
    Case("outbox: remove", lambda store, tx: store.outbox.remove(tx, [TOKEN]), "sqlite_autoindex_outbox_1 (id=?)"),
    Case(
        "unplanned, first",
        lambda store, tx: store.notifications.unplanned(tx, after=None, limit=100),
        "ix_notifications_unplanned",
        in_order=("notifications",),
    ),
    Case(
        "unplanned, late",
        lambda store, tx: store.notifications.unplanned(tx, after=NOTIFICATION, limit=100),
        "ix_notifications_unplanned (id>?)",
    ),
    Case(
        "batches that wait",
        lambda store, tx: store.deliveries.waiting_batches(tx, after=None, limit=100),
        "ix_deliveries_batch (batch_id>?)",
    ),
    Case(
        "batches of a lane that wait for long",
        lambda store, tx: store.deliveries.waiting_batches(
            tx, after=BATCH, limit=100, lane=Lane.HIGH, before=NOW - timedelta(minutes=1)
        ),
        "ix_deliveries_batch (batch_id>? AND batch_id<?)",
    ),
    Case(
        "counting for limits",
        lambda store, tx: store.limits.take(tx, "", [HERS, LATE], limit=5, window=timedelta(hours=1), now=NOW),
        "sqlite_autoindex_users_1 (id=?)",
    ),
]
DEAD = [
    Case("dead letters", dead(None), "ix_deliveries_dead", in_order=("deliveries",)),
    Case("dead letters, late", dead(DELIVERY), "ix_deliveries_dead (id<?)"),
    Case(
        "dead letters, counted",
        lambda store, tx: store.dead_letters.count(tx, most=1000),
        "ix_deliveries_dead",
        in_order=("deliveries",),
    ),
    Case(
        "dead letters by error",
        lambda store, tx: store.dead_letters.by_error(tx, DeadLetterFilter(), limit=10),
        "ix_deliveries_dead",
        in_order=("deliveries",),
        sorts=2,
    ),
    Case(
        "replay of one",
        lambda store, tx: store.dead_letters.replay(
            tx, DeadLetterFilter(ids=[DELIVERY]), due_at=NOW, limit=10, now=NOW - timedelta(days=1)
        ),
        "sqlite_autoindex_deliveries_1 (id=?)",
        sorts=1,
        in_order=("deliveries",),
        postgresql="ix_deliveries_dead",
    ),
]


async def holders(store: SqlStore, tx: Transaction) -> object:
    return await store.users.holders(tx, [Address("email", f"{HERS}@example.org"), Address("phone", "+4144050004")])


ASKING = [
    Case("who has an e-mail address", holders, "ix_users_email"),
    Case("who has a phone number", holders, "ix_users_phone"),
    Case("trace", trace(None), "ix_deliveries_notification (notification_id=?)", postgresql="deliveries_pkey"),
    Case(
        "trace, late",
        trace(None, DELIVERY),
        "ix_deliveries_notification (notification_id=? AND id>?)",
        postgresql="deliveries_pkey",
    ),
    Case(
        "trace of a user",
        trace(HERS),
        "ux_deliveries_once (notification_id=? AND user_id=?)",
        sorts=1,
        # of the notification's week alone
        postgresql="ux_deliveries_once|ix_deliveries_user",
    ),
    Case("skips", skips(None), "ix_skips_notification (notification_id=?)", postgresql="skips_pkey"),
    Case(
        "skips of a user",
        skips(HERS),
        "ux_skips_once (notification_id=? AND user_id=?)",
        sorts=1,
        postgresql="ux_skips_once|ix_skips_user",
    ),
    Case(
        "counts",
        lambda store, tx: store.notifications.counts(tx, NOTIFICATION),
        "(notification_id=?)",
        sorts=1,
        postgresql="deliveries_pkey|ux_deliveries_once",
    ),
    Case(
        "an API key",
        lambda store, tx: store.api_keys.find(tx, "digest"),
        "sqlite_autoindex_api_keys_2 (digest=?)",
        postgresql="api_keys_digest_key",
    ),
    Case(
        "a user's notifications",
        lambda store, tx: store.notifications.recent(tx, before=None, limit=50, user_id=HERS),
        "ix_deliveries_user (user_id=?)",
        sorts=2,
    ),
    Case(
        "notifications",
        lambda store, tx: store.notifications.recent(tx, before=NOTIFICATION, limit=50),
        "sqlite_autoindex_notifications_1 (id<?)",
    ),
    Case(
        "notifications of a template",
        lambda store, tx: store.notifications.recent(tx, before=NOTIFICATION, limit=50, template="CODE-1"),
        "ix_notifications_template (template_code=? AND id<?)",
    ),
    Case("events", event_list(), "sqlite_autoindex_events_1 (id<?)"),
    Case("events by status", event_list(status=EventStatus.ACTIVE), "ix_events_status (status=? AND id<?)"),
    Case("events by city", event_list(city="city-1"), "ix_events_city (city=? AND id<?)"),
    Case(
        "an endpoint",
        lambda store, tx: store.subscriptions.remove(tx, "user-000001", "https://push.example/1"),
        "sqlite_autoindex_push_subscriptions_2 (endpoint_digest=?)",
        postgresql="push_subscriptions_endpoint_digest_key|ix_push_subscriptions_user",
    ),
    Case(
        "dead devices",
        lambda store, tx: store.subscriptions.purge(tx, NOW - timedelta(days=9)),
        "ix_push_subscriptions_gone (state_changed_at<?)",
    ),
    Case(
        "old answers",
        lambda store, tx: store.idempotency.purge(tx, NOW - timedelta(days=9)),
        "ix_idempotency_keys_created (created_at<?)",
    ),
    Case(
        "erasing a user",
        lambda store, tx: store.users.erase(tx, HERS),
        "ix_deliveries_user (user_id=?)",
        in_order=("notifications",),
        sorts=2,
    ),
]


@pytest.fixture(scope="module", params=["without statistics", "after ANALYZE"])
def statistics(million: "Million", request: pytest.FixtureRequest) -> None:
    if request.param == "after ANALYZE" and million.path is not None:
        with closing(sqlite3.connect(million.path)) as connection:
            connection.execute("ANALYZE")


def scans_in_vain(case: Case, statements: "Sequence[Statement]") -> list[str]:
    meant = tuple(f"SCAN {table} USING" for table in case.in_order)
    return [scan for statement in statements for scan in statement.scans if not scan.startswith(meant)]


@pytest.mark.usefixtures("statistics")
@pytest.mark.parametrize("case", [*AUDIENCES, *SENDING, *DEAD, *ASKING], ids=lambda case: case.name)
async def test_a_hot_query_finds_its_rows_by_index(million: "Million", case: Case) -> None:
    statements = await million.explained(case.work)
    steps = [step for statement in statements for step in statement.steps]
    assert [step for step in steps if case.index in step], steps
    assert scans_in_vain(case, statements) == []
    assert sum(len(statement.sorts) for statement in statements) <= case.sorts, steps
    assert not [step for step in steps if "AUTOMATIC" in step], "SQLite builds an index of its own for each run"


@pytest.mark.parametrize("case", [*AUDIENCES, *SENDING, *DEAD, *ASKING], ids=lambda case: case.name)
async def test_a_hot_query_finds_its_rows_by_index_on_postgresql(million_in_weeks: "Million", case: Case) -> None:
    statements = await million_in_weeks.explained(case.work)
    steps = [step for statement in statements for step in statement.steps]
    meant = tuple(f"USING INDEX {index} " for index in case.indexes_of_postgresql)
    assert [step for step in steps if any(way in step for way in meant)], steps
    assert scans_in_vain(case, statements) == []


async def test_the_plans_are_asked_of_a_million_rows(million: "Million", million_in_weeks: "Million") -> None:
    async with million.writer.connect() as connection:
        tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        names = (await connection.exec_driver_sql(tables)).scalars().all()
        counts = [(await connection.exec_driver_sql(f"SELECT count(*) FROM {name}")).scalar_one() for name in names]
        assert sum(counts) > 1_000_000
    async with million_in_weeks.writer.connect() as connection:
        count = (await connection.exec_driver_sql("SELECT count(*) FROM deliveries")).scalar_one()
        assert count == 1_000_000
