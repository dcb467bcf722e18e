"""Hot queries use the intended index at a million rows, on each database.

Plans are those of the statements that the store executes, with their parameters. SQLite has no statistics until ANALYZE
runs, and its plans must be good before that too. PostgreSQL first plans a statement for its parameters (custom plan).
After a few executions on a connection it may use a generic plan. Both plans must be good.
"""

import sqlite3
from collections.abc import Awaitable, Sequence
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from msgspec import structs
from tests.adapters.query_plans.cases import DELIVERY, ENGAGEMENT, NOTIFICATION, STEPS, USER_ID, Case, Work
from tests.support.bulk_rows import NOW, row_id

from tidings.model import audience
from tidings.model.audience import Audience, NamedSet, favourited_host, ticket_holders
from tidings.model.delivery import AttemptResult
from tidings.model.inbox import InboxView
from tidings.model.outcome import Accepted
from tidings.model.priority import Lane
from tidings.model.subject import Supersession
from tidings.model.user import ContactAddress
from tidings.model.user_schedule import UserSchedule
from tidings.packs.events import repository as events
from tidings.packs.events.event import EventStatus
from tidings.ports.operations import DeadLetterFilter
from tidings.ports.store import Transaction
from tidings.stores.store import SqlStore
from tidings.testing.contracts.inbox_contract import make_item

if TYPE_CHECKING:
    from tests.adapters.query_plans.conftest import FilledStore, Statement

pytestmark = pytest.mark.asyncio(loop_scope="module")

BATCH = row_id(3, 10_000)
TOKEN = row_id(0, 1)
LATE = "user-030000"
HOLDERS = ticket_holders("event-0001")
NAMED = audience.users("user-000001", "user-000002")
TOPICS = "ix_user_topics_topic|user_topics_pkey"
NEAR = audience.near(47.37, 8.54, radius_km=50)
ENGAGED = NamedSet("engaged", {"action": "any", "since": (NOW - timedelta(days=30)).isoformat()})


def page(of: Audience, after: str | None) -> Work:
    return lambda store, tx: store.audiences.page(
        tx, of, category="NEWS-1", subject="event:7/message:1", after=after, limit=1000
    )


def among(of: Audience) -> Work:
    return lambda store, tx: store.audiences.filter_members(tx, of, ["user-000001", "user-000007"])


def claim(store: SqlStore, tx: Transaction) -> Awaitable[object]:
    return store.deliveries.claim(tx, [BATCH], token=TOKEN, now=NOW, lease_until=NOW)


def record(store: SqlStore, tx: Transaction) -> Awaitable[object]:
    tried = AttemptResult(DELIVERY, NOTIFICATION, "u", "webpush", None, TOKEN, 1, Accepted(), NOW, NOW, NOW)
    return store.deliveries.record(tx, [tried], NOW)


def failed(store: SqlStore, tx: Transaction) -> Awaitable[object]:
    return store.deliveries.list_with_attempts(
        tx, NOTIFICATION, user_id=None, after=DELIVERY, limit=100, failed_only=True
    )


def trace(user_id: str | None, after: str | None = None) -> Work:
    return lambda store, tx: store.deliveries.list_with_attempts(
        tx, NOTIFICATION, user_id=user_id, after=after, limit=100
    )


def skips(user_id: str | None, after: str | None = None) -> Work:
    return lambda store, tx: store.deliveries.list_skips(tx, NOTIFICATION, user_id=user_id, after=after, limit=100)


def dead(before: str | None) -> Work:
    return lambda store, tx: store.dead_letters.page(tx, DeadLetterFilter(), before=before, limit=50)


def event_list(*, status: EventStatus | None = None, city: str | None = None) -> Work:
    return lambda _store, tx: events.page(tx, status=status, city=city, before="event-4000", limit=50)


def pages(
    name: str, of: Audience, index: str, sorts: int = 1, in_order: tuple[str, ...] = (), postgresql: str | None = None
) -> list[Case]:
    """Return cases for the first page and a late one. The rows of the page itself may be sorted once more."""
    return [
        Case(f"{name}, {when}", page(of, at), index, sorts=sorts, in_order=in_order, postgresql=postgresql)
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
        # merged with the page; both are in id order
        in_order=("users",),
    ),
    *pages("favourited", audience.favourited("event-0001"), "sqlite_autoindex_favourites_1 (event_id=? AND user_id>?)"),
    *pages("opted in", audience.opted_in("NEWS-1"), "ix_preferences_category (category=? AND enabled=? AND user_id>?)"),
    *pages("country", audience.country("C7"), "ix_users_country (country=? AND id>?)"),
    *pages("topic", audience.topic("topic-1"), "ix_user_topics_topic (topic=? AND user_id>?)", postgresql=TOPICS),
    *pages("attribute", audience.attribute("plan", "eq", "pro"), "sqlite_autoindex_users_1 (id>?)"),
    # of these contact points none has an address, so the partial index is empty and may be scanned
    *pages("engaged", ENGAGED, "ix_receipts_user (user_id=? AND occurred_at>?)", in_order=("contact_points",)),
    *pages("engaged, by address", ENGAGED, "ix_receipts_address (address_digest=?", in_order=("contact_points",)),
    *pages("engaged, in the feed", ENGAGED, "ix_inbox_items_feed (user_id=?)", in_order=("contact_points",)),
    Case(
        "engagement of a page",
        lambda store, tx: store.audiences.load_engagement(tx, ["user-000001", "user-000003"], NOW - timedelta(days=30)),
        "ix_receipts_user (user_id=? AND occurred_at>?)",
        sorts=9,
    ),
    *pages("near", NEAR, "ix_users_location (latitude>? AND latitude<?)", sorts=2),
    Case(
        "topics of a user",
        lambda store, tx: store.topics.list_by_user(tx, "user-000001", after="a", limit=50),
        "user_topics USING PRIMARY KEY (user_id=? AND topic>?)",
        postgresql="user_topics_pkey",
    ),
    *pages("named", NAMED, "sqlite_autoindex_users_1 (id=?)"),
    # the union and its order need two more, over two limited pages
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
        lambda store, tx: store.audiences.load_recipients(
            tx, [("user-000001", "NEWS-1", "event:7"), ("user-000007", "NEWS-2", None)]
        ),
        "sqlite_autoindex_users_1 (id=?)",
    ),
]
SENDING = [
    Case("devices of a page", page(HOLDERS, LATE), "ix_contact_points_user (user_id=? AND state=?)", sorts=1),
    Case(
        "preferences of a page",
        page(HOLDERS, LATE),
        "preferences USING PRIMARY KEY (user_id=? AND category=?)",
        sorts=1,
        postgresql="preferences_pkey",
    ),
    Case(
        "preferences of named users",
        lambda store, tx: store.audiences.load_recipients(tx, [("user-000001", "NEWS-1", "event:7")]),
        "preferences USING PRIMARY KEY (user_id=? AND category=?)",
        postgresql="preferences_pkey",
    ),
    Case(
        "claim: preferences",
        claim,
        "preferences USING PRIMARY KEY (user_id=? AND category=?",
        sorts=1,
        postgresql="preferences_pkey",
    ),
    Case("claim: the update", claim, "ix_deliveries_batch (batch_id=?)", sorts=1),
    Case("claim: what is needed to send", claim, "sqlite_autoindex_deliveries_1 (id=?)", sorts=1),
    # PostgreSQL may also read all leased deliveries, which are few, and match the outcomes against them
    Case("record", record, "sqlite_autoindex_deliveries_1 (id=?)", in_order=("deliveries",)),
    Case(
        "anything due", lambda store, tx: store.deliveries.has_due(tx, NOW), "deliveries USING INDEX ix_deliveries_due"
    ),
    Case(
        "wake what is due", lambda store, tx: store.deliveries.batch_due(tx, NOW, 200), "ix_deliveries_due (due_at<?)"
    ),
    Case(
        "leases that ran out",
        lambda store, tx: store.deliveries.reap_expired_leases(tx, NOW - timedelta(days=1)),
        "ix_deliveries_lease (lease_until<?)",
    ),
    Case(
        "give back: reads what is being sent",
        lambda store, tx: store.deliveries.release_by_token(tx, [TOKEN], NOW),
        "ix_deliveries_lease",
        in_order=("deliveries",),
    ),
    Case("outbox", lambda store, tx: store.outbox.list_due(tx, NOW, 500), "ix_outbox_due (due_at<?)"),
    Case("outbox: remove", lambda store, tx: store.outbox.remove(tx, [TOKEN]), "sqlite_autoindex_outbox_1 (id=?)"),
    Case(
        "unplanned, first",
        lambda store, tx: store.notifications.list_open(tx, after=None, limit=100),
        "ix_notifications_unplanned",
        in_order=("notifications",),
    ),
    Case(
        "unplanned, late",
        lambda store, tx: store.notifications.list_open(tx, after=NOTIFICATION, limit=100),
        "ix_notifications_unplanned (id>?)",
    ),
    Case(
        "batches that wait",
        lambda store, tx: store.deliveries.list_pending_batches(tx, after=None, limit=100),
        "ix_deliveries_batch (batch_id>?)",
    ),
    Case(
        "batches of a lane that wait for long",
        lambda store, tx: store.deliveries.list_pending_batches(
            tx, after=BATCH, limit=100, lane=Lane.HIGH, created_before=NOW - timedelta(minutes=1)
        ),
        "ix_deliveries_batch (batch_id>? AND batch_id<?)",
    ),
    Case(
        "counting for limits",
        lambda store, tx: store.user_rate_limits.consume(
            tx, "", [USER_ID, LATE], limit=5, window=timedelta(hours=1), now=NOW
        ),
        "sqlite_autoindex_users_1 (id=?)",
    ),
]
SUBJECTS = [
    Case(
        "newest on a subject",
        lambda store, tx: store.subjects.find_newest(tx, ["event:1"]),
        "ix_notifications_subject",
        sorts=1,
        # no notification of this data has a subject, so that reading the whole partial index costs nothing
        in_order=("notifications",),
    ),
    Case(
        "history of a subject",
        lambda store, tx: store.subjects.list_history(tx, "event:1", limit=20),
        "ix_notifications_subject (subject=?)",
        sorts=1,
    ),
    Case(
        "supersede",
        lambda store, tx: store.subjects.supersede(tx, [Supersession("event:1", 2, NOTIFICATION, None, True)]),
        "ix_notifications_subject (subject=? AND subject_version<?)",
        sorts=2,
    ),
    Case("withdraw", lambda store, tx: store.subjects.withdraw(tx, "event:1"), "ix_notifications_subject", sorts=2),
    Case(
        "what users heard",
        lambda store, tx: store.subjects.list_prior_deliveries(tx, [NOTIFICATION], [USER_ID, LATE]),
        "ux_deliveries_once (notification_id=? AND user_id=?)|ix_deliveries_user (user_id=?)",
        postgresql="ux_deliveries_once|deliveries_pkey|ix_deliveries_user",
    ),
    Case(
        "informed users",
        page(audience.informed("event:1"), LATE),
        "ux_deliveries_once (notification_id=? AND user_id>?)",
        sorts=2,
        postgresql="ux_deliveries_once|deliveries_pkey|ix_deliveries_user|users_pkey",
    ),
]
DEAD = [
    Case("dead letters", dead(None), "ix_deliveries_dead", in_order=("deliveries",)),
    Case("dead letters, late", dead(DELIVERY), "ix_deliveries_dead (id<?)"),
    Case(
        "dead letters, counted",
        lambda store, tx: store.dead_letters.count(tx, limit=1000),
        "ix_deliveries_dead",
        in_order=("deliveries",),
    ),
    Case(
        "dead letters by error",
        lambda store, tx: store.dead_letters.group_by_error(tx, DeadLetterFilter(), limit=10),
        "ix_deliveries_dead",
        in_order=("deliveries",),
        sorts=2,
    ),
    Case(
        "replay of one",
        lambda store, tx: store.dead_letters.replay(
            tx, DeadLetterFilter(ids=[DELIVERY]), due_at=NOW, limit=10, now=NOW - timedelta(days=1)
        ),
        "sqlite_autoindex_deliveries_1 (id=?)|ix_deliveries_dead (id=?)",
        sorts=1,
        in_order=("deliveries",),
        postgresql="ix_deliveries_dead",
    ),
]


async def holders(store: SqlStore, tx: Transaction) -> object:
    return await store.users.find_by_address(
        tx, [ContactAddress("email", f"{USER_ID}@example.org"), ContactAddress("phone", "+4144050004")]
    )


ASKING = [
    Case("who has an e-mail address", holders, "ix_users_email"),
    Case("who has a phone number", holders, "ix_users_phone"),
    # two sorts are those of the receipts of the page
    Case(
        "trace",
        trace(None),
        "ix_deliveries_notification (notification_id=?)",
        sorts=2,
        postgresql="deliveries_pkey",
    ),
    Case(
        "trace, late",
        trace(None, DELIVERY),
        "ix_deliveries_notification (notification_id=? AND id>?)",
        sorts=2,
        postgresql="deliveries_pkey",
    ),
    Case("what failed", failed, "ix_deliveries_failed (notification_id=? AND id>?)"),
    Case(
        "trace of a user",
        trace(USER_ID),
        "ux_deliveries_once (notification_id=? AND user_id=?)",
        sorts=3,
        # the partition of the notification's week only
        postgresql="ux_deliveries_once|ix_deliveries_user",
    ),
    Case("skips", skips(None), "ix_skips_notification (notification_id=?)", postgresql="skips_pkey"),
    Case(
        "skips of a user",
        skips(USER_ID),
        "ux_skips_once (notification_id=? AND user_id=?)",
        sorts=1,
        postgresql="ux_skips_once|ix_skips_user",
    ),
    Case(
        "counts",
        lambda store, tx: store.notifications.get_counts(tx, NOTIFICATION),
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
        lambda store, tx: store.notifications.list_page(tx, before=None, limit=50, user_id=USER_ID),
        "ix_deliveries_user (user_id=?)",
        sorts=2,
    ),
    Case(
        "export of a user's deliveries",
        lambda store, tx: store.personal_data.list_deliveries(tx, USER_ID, after=DELIVERY, limit=50),
        "ix_deliveries_user (user_id=? AND id>?)",
    ),
    Case(
        "export of a user's skips",
        lambda store, tx: store.personal_data.list_skips(tx, USER_ID, after=DELIVERY, limit=50),
        "ix_skips_user (user_id=? AND id>?)",
    ),
    Case(
        "export of a user's idempotency keys",
        lambda store, tx: store.personal_data.list_idempotent_calls(tx, USER_ID),
        "sqlite_autoindex_idempotency_keys_1 (caller=?)",
        postgresql="idempotency_keys_pkey",
    ),
    Case(
        "notifications",
        lambda store, tx: store.notifications.list_page(tx, before=NOTIFICATION, limit=50),
        "sqlite_autoindex_notifications_1 (id<?)",
    ),
    Case(
        "notifications of a template",
        lambda store, tx: store.notifications.list_page(tx, before=NOTIFICATION, limit=50, template="CODE-1"),
        "ix_notifications_template (template_code=? AND id<?)",
    ),
    Case("events", event_list(), "sqlite_autoindex_events_1 (id<?)"),
    Case("events by status", event_list(status=EventStatus.ACTIVE), "ix_events_status (status=? AND id<?)"),
    Case("events by city", event_list(city="city-1"), "ix_events_city (city=? AND id<?)"),
    Case(
        "an endpoint",
        lambda store, tx: store.subscriptions.remove(tx, "user-000001", "https://push.example/1"),
        "sqlite_autoindex_contact_points_2 (identity_digest=?)",
        postgresql="contact_points_identity_digest_key|ix_contact_points_user",
    ),
    Case(
        "dead devices",
        lambda store, tx: store.subscriptions.purge(tx, NOW - timedelta(days=9)),
        "ix_contact_points_gone (state_changed_at<?)",
    ),
    Case(
        "old answers",
        lambda store, tx: store.idempotency_keys.purge(tx, NOW - timedelta(days=9)),
        "ix_idempotency_keys_created (created_at<?)",
    ),
    Case(
        "what quiet hours hold for a user",
        lambda store, tx: store.user_schedules.set(tx, USER_ID, UserSchedule("UTC"), NOW),
        "ix_deliveries_held (user_id=?)|ix_deliveries_user (user_id=?)",
        in_order=("deliveries",),  # PostgreSQL may read the whole index while it has hardly any rows
        sorts=1,
    ),
    Case(
        "erasing a user",
        lambda store, tx: store.users.erase(tx, USER_ID),
        "ix_deliveries_user (user_id=?)",
        in_order=("notifications",),
        sorts=4,
    ),
]
READER = "user-000004"
ITEM = row_id(1, 4)
ARRIVING = structs.replace(make_item(READER, NOTIFICATION, key="order:6000"), created_at=NOW, expires_at=None)
EARLY = NOW - timedelta(days=1)


def feed(view: InboxView, before: int | None) -> Work:
    return lambda store, tx: store.inbox.page(tx, READER, view, before=before, limit=50)


INBOX = [
    Case("feed, first page", feed(InboxView.ALL, None), "ix_inbox_items_feed (user_id=? AND state=?)"),
    Case("feed, late", feed(InboxView.ALL, 5), "ix_inbox_items_feed (user_id=? AND state=? AND position<?)"),
    Case("feed, archive", feed(InboxView.ARCHIVED, 5), "ix_inbox_items_feed (user_id=? AND state=? AND position<?)"),
    Case("feed, unread", feed(InboxView.UNREAD, 5), "ix_inbox_items_unread (user_id=? AND state=? AND position<?)"),
    Case(
        "counters of a feed",
        lambda store, tx: store.inbox.get_counts(tx, READER),
        "inbox_counters USING PRIMARY KEY (user_id=?)",
        postgresql="inbox_counters_pkey",
    ),
    Case(
        "anything due in a feed",
        lambda store, tx: store.inbox.has_due(tx, READER, EARLY),
        "ix_inbox_items_due (due_at|ix_inbox_items_feed (user_id=?)",
        postgresql="ix_inbox_items_due|ix_inbox_items_feed",
    ),
    Case(
        "mark as seen",
        lambda store, tx: store.inbox.set_seen(tx, READER, [ITEM, NOTIFICATION], EARLY),
        "ux_inbox_items_once (notification_id=? AND user_id=?)|ux_inbox_items_once (notification_id=?)",
        sorts=3,
        postgresql="ux_inbox_items_once",
    ),
    Case(
        "mark all as read",
        lambda store, tx: store.inbox.read_all(tx, READER, ITEM, EARLY),
        "ix_inbox_items_unread (user_id=? AND state=? AND position<?)",
        sorts=3,
    ),
    Case(
        "an item arrives",
        lambda store, tx: store.inbox.add_many(tx, [ARRIVING], EARLY),
        "ix_inbox_items_collapse (user_id=? AND collapse_key=?)",
        sorts=3,
    ),
    Case(
        "recall",
        lambda store, tx: store.inbox.recall(tx, row_id(0, 7), EARLY, limit=500),
        "ux_inbox_items_once (notification_id=?)",
        sorts=4,
    ),
    Case(
        "what is due in all feeds",
        lambda store, tx: store.inbox.settle_due(tx, EARLY, limit=500),
        "ix_inbox_items_due (due_at>? AND due_at<?)",
        sorts=2,
    ),
    Case(
        "old items",
        lambda store, tx: store.inbox.purge(tx, NOW - timedelta(weeks=13), limit=500),
        "sqlite_autoindex_inbox_items_1 (id<?)",
        sorts=2,
    ),
]


@pytest.fixture(scope="module", params=["without statistics", "after ANALYZE"])
def statistics(million: "FilledStore", request: pytest.FixtureRequest) -> None:
    if request.param == "after ANALYZE" and million.path is not None:
        with closing(sqlite3.connect(million.path)) as connection:
            connection.execute("ANALYZE")


def unintended_scans(case: Case, statements: "Sequence[Statement]") -> list[str]:
    intended = tuple(f"SCAN {table} USING" for table in case.in_order)
    return [scan for statement in statements for scan in statement.scans if not scan.startswith(intended)]


@pytest.mark.usefixtures("statistics")
@pytest.mark.parametrize(
    "case", [*AUDIENCES, *SENDING, *SUBJECTS, *DEAD, *ASKING, *INBOX, *STEPS, *ENGAGEMENT], ids=lambda case: case.name
)
async def test_a_hot_query_uses_its_index_on_sqlite(million: "FilledStore", case: Case) -> None:
    statements = await million.explain_work(case.work)
    steps = [step for statement in statements for step in statement.steps]
    assert [step for step in steps if any(way in step for way in case.index.split("|"))], steps
    assert unintended_scans(case, statements) == []
    assert sum(len(statement.sorts) for statement in statements) <= case.sorts, steps
    assert not [step for step in steps if "AUTOMATIC" in step], (
        "SQLite must not build an automatic index for each execution"
    )


@pytest.mark.parametrize(
    "case", [*AUDIENCES, *SENDING, *SUBJECTS, *DEAD, *ASKING, *INBOX, *STEPS, *ENGAGEMENT], ids=lambda case: case.name
)
async def test_a_hot_query_uses_its_index_on_postgresql(million_in_weeks: "FilledStore", case: Case) -> None:
    statements = await million_in_weeks.explain_work(case.work)
    steps = [step for statement in statements for step in statement.steps]
    intended = tuple(f"USING INDEX {index} " for index in case.indexes_of_postgresql)
    assert [step for step in steps if any(way in step for way in intended)], steps
    assert unintended_scans(case, statements) == []


async def test_the_databases_hold_a_million_rows(million: "FilledStore", million_in_weeks: "FilledStore") -> None:
    async with million.writer.connect() as connection:
        tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        names = (await connection.exec_driver_sql(tables)).scalars().all()
        counts = [(await connection.exec_driver_sql(f"SELECT count(*) FROM {name}")).scalar_one() for name in names]
        assert sum(counts) > 1_000_000
    async with million_in_weeks.writer.connect() as connection:
        count = (await connection.exec_driver_sql("SELECT count(*) FROM deliveries")).scalar_one()
        assert count >= 300_000, "together with the other tables, a million"
