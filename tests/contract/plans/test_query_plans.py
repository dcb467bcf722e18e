"""Hot queries find what they want by the index meant for them at a million rows, with and without statistics.

A database has no statistics until somebody runs ANALYZE, and its plans must be good before that too. Plans are asked
for the statements that the store really executes, with their parameters.
"""

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tidings.model import audience
from tidings.model.audience import Audience, favourited_host, ticket_holders
from tidings.model.delivery import Attempted
from tidings.model.outcome import Delivered
from tidings.packs.events import store as events
from tidings.packs.events.events import EventStatus
from tidings.ports.store import Transaction
from tidings.stores.store import SqlStore

if TYPE_CHECKING:
    from tests.contract.plans.conftest import Million

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOW = datetime(2026, 11, 22, 13, tzinfo=UTC)
NOTIFICATION = "00000000-0000-7000-8000-000000000004"
DELIVERY = "10000000-0000-7000-8000-000000200004"
BATCH = "30000000-0000-7000-8000-000000001000"
LATE = "user-149000"
HOLDERS = ticket_holders("event-001")
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
    #: temporary B-trees over rows that a limit or a key has bounded before
    sorts: int = 0


def page(of: Audience, after: str | None) -> Work:
    return lambda store, tx: store.audiences.page(tx, of, category="NEWS-1", after=after, limit=1000)


def among(of: Audience) -> Work:
    return lambda store, tx: store.audiences.among(tx, of, ["user-000001", "user-000007"])


def claim(store: SqlStore, tx: Transaction) -> Awaitable[object]:
    return store.deliveries.claim(tx, [BATCH], token="token", now=NOW, lease_until=NOW)


def record(store: SqlStore, tx: Transaction) -> Awaitable[object]:
    tried = Attempted(DELIVERY, NOTIFICATION, "u", "webpush", None, "token", 1, Delivered(), NOW, NOW, NOW)
    return store.deliveries.record(tx, [tried], NOW)


def trace(user_id: str | None, after: str | None = None) -> Work:
    return lambda store, tx: store.deliveries.trace(tx, NOTIFICATION, user_id=user_id, after=after, limit=100)


def skips(user_id: str | None, after: str | None = None) -> Work:
    return lambda store, tx: store.deliveries.skips(tx, NOTIFICATION, user_id=user_id, after=after, limit=100)


def event_list(*, status: EventStatus | None = None, city: str | None = None) -> Work:
    return lambda _store, tx: events.page(tx, status=status, city=city, before="event-400", limit=50)


def pages(name: str, of: Audience, index: str, sorts: int = 1) -> list[Case]:
    """The first page and a late one. The page itself, at most its limit, may be sorted once more."""
    return [Case(f"{name}, {when}", page(of, at), index, sorts=sorts) for when, at in (("first", None), ("late", LATE))]


AUDIENCES = [
    *pages("ticket holders", HOLDERS, "ix_tickets_holders (event_id=? AND status=? AND user_id>?)"),
    *pages("ticket holders but", HOLDERS - NAMED, "ix_tickets_holders (event_id=? AND status=? AND user_id>?)"),
    *pages("city", audience.city("city-1"), "ix_users_city (city=? AND id>?)"),
    *pages("everyone", audience.everyone(), "sqlite_autoindex_users_1 (id>?)"),
    *pages("everyone but", audience.everyone() - HOLDERS, "sqlite_autoindex_users_1 (id>?)"),
    *pages("favourited host", favourited_host("host-1"), "ix_favourites_host (host_id=? AND user_id>?)"),
    *pages("favourited", audience.favourited("event-001"), "sqlite_autoindex_favourites_1 (event_id=? AND user_id>?)"),
    *pages("opted in", audience.opted_in("NEWS-1"), "ix_preferences_category (category=? AND enabled=? AND user_id>?)"),
    *pages("named", NAMED, "sqlite_autoindex_users_1 (id=?)"),
    # union and its order: two more, over two limited pages
    *pages("either", HOLDERS | audience.city("city-1"), "ix_users_city (city=? AND id>?)", sorts=3),
    Case("still a holder", among(HOLDERS), "sqlite_autoindex_tickets_1 (event_id=? AND user_id=?)"),
    Case("still liked", among(favourited_host("host-1")), "ix_favourites_host (host_id=? AND user_id=?)"),
]
SENDING = [
    Case("devices of a page", page(HOLDERS, LATE), "ix_push_subscriptions_user (user_id=? AND state=?)", sorts=1),
    Case("claim: the update", claim, "ix_deliveries_batch (batch_id=?)", sorts=1),
    Case("claim: what is needed to send", claim, "sqlite_autoindex_deliveries_1 (id=?)", sorts=1),
    Case("record", record, "sqlite_autoindex_deliveries_1 (id=?)"),
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
        lambda store, tx: store.deliveries.give_back(tx, ["token-1"], NOW),
        "ix_deliveries_lease",
        in_order=("deliveries",),
    ),
    Case("outbox", lambda store, tx: store.outbox.due(tx, NOW, 500), "ix_outbox_due (due_at<?)"),
    Case("outbox: remove", lambda store, tx: store.outbox.remove(tx, ["task"]), "sqlite_autoindex_outbox_1 (id=?)"),
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
]
ASKING = [
    Case("trace", trace(None), "ix_deliveries_notification (notification_id=?)"),
    Case("trace, late", trace(None, DELIVERY), "ix_deliveries_notification (notification_id=? AND id>?)"),
    Case("trace of a user", trace("user-000004"), "ux_deliveries_once (notification_id=? AND user_id=?)", sorts=1),
    Case("skips", skips(None), "ix_skips_notification (notification_id=?)"),
    Case("skips of a user", skips("user-000004"), "ux_skips_once (notification_id=? AND user_id=?)", sorts=1),
    Case("counts", lambda store, tx: store.notifications.counts(tx, NOTIFICATION), "(notification_id=?)", sorts=1),
    Case("an API key", lambda store, tx: store.api_keys.find(tx, "digest"), "sqlite_autoindex_api_keys_2 (digest=?)"),
    Case(
        "a user's notifications",
        lambda store, tx: store.notifications.recent(tx, before=None, limit=50, user_id="user-000004"),
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
    ),
    Case(
        "dead devices", lambda store, tx: store.subscriptions.purge(tx, NOW - timedelta(days=9)), "(state_changed_at<?)"
    ),
    Case(
        "old answers",
        lambda store, tx: store.idempotency.purge(tx, NOW - timedelta(days=9)),
        "ix_idempotency_keys_created (created_at<?)",
    ),
    Case(
        "erasing a user",
        lambda store, tx: store.users.erase(tx, "user-000004"),
        "ix_deliveries_user (user_id=?)",
        in_order=("notifications",),
        sorts=2,
    ),
]


@pytest.fixture(scope="module", params=["without statistics", "after ANALYZE"])
def statistics(million: "Million", request: pytest.FixtureRequest) -> None:
    if request.param == "after ANALYZE":
        with closing(sqlite3.connect(million.path)) as connection:
            connection.execute("ANALYZE")


@pytest.mark.usefixtures("statistics")
@pytest.mark.parametrize("case", [*AUDIENCES, *SENDING, *ASKING], ids=lambda case: case.name)
async def test_a_hot_query_finds_its_rows_by_index(million: "Million", case: Case) -> None:
    statements = await million.explained(case.work)
    steps = [step for statement in statements for step in statement.steps]
    scans = [scan for statement in statements for scan in statement.scans]
    assert [step for step in steps if case.index in step], steps
    assert [scan for scan in scans if not scan.startswith(tuple(f"SCAN {one} USING" for one in case.in_order))] == []
    assert sum(len(statement.sorts) for statement in statements) <= case.sorts, steps
    assert not [step for step in steps if "AUTOMATIC" in step], "SQLite builds an index of its own for each run"


async def test_the_plans_are_asked_of_a_million_rows(million: "Million") -> None:
    with closing(sqlite3.connect(million.path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
        assert sum(connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for (name,) in tables) > 1_000_000
