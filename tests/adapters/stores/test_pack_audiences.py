"""Every audience kind satisfies the contract: one column, one row per user, backed by an index in user order."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, Select, create_engine, text
from sqlalchemy.pool import StaticPool

from tidings.model.audience import Audience, NamedSet, favourited, favourited_host, ticket_holders
from tidings.packs.commerce import audiences as commerce
from tidings.packs.commerce.tables import metadata as commerce_metadata
from tidings.packs.events.audiences import AUDIENCES
from tidings.stores.schema.tables import metadata
from tidings.stores.sql.audience_query import select_user_ids

KINDS = {kind.name: kind for kind in (*AUDIENCES, *commerce.AUDIENCES)}
ARGUMENTS = {
    "ticket_holders": {"eventId": "e4"},
    "favourited": {"eventId": "e4"},
    "favourited_host": {"hostId": "h4"},
    "buyer": {"orderId": "o4"},
    "bought": {"sku": "s4"},
    "stock_keepers": {},
}
#: 2 000 users, 20 events of 5 hosts; every user has tickets and favourites of a quarter of the events
ROWS = (
    """INSERT INTO users (id, locale, timezone, attributes, created_at, updated_at)
       WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 1999)
       SELECT printf('u%05d', i), 'en', 'UTC', '{}', '2026-11-22', '2026-11-22' FROM n""",
    """INSERT INTO events (id, title, description, host_id, start_date, status, version, created_at, updated_at)
       WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 19)
       SELECT 'e' || i, 't', '', 'h' || (i % 5), '2026-11-22', 'ACTIVE', 1, '2026-11-22', '2026-11-22' FROM n""",
    """INSERT INTO tickets (event_id, user_id, status, created_at)
       SELECT events.id, users.id, iif(users.id < 'u01000', 'active', 'returned'), '2026-11-22' FROM users JOIN events
       WHERE (CAST(substr(users.id, 2) AS INT) + CAST(substr(events.id, 2) AS INT)) % 4 = 0""",
    """INSERT INTO favourites (event_id, user_id, host_id, created_at)
       SELECT event_id, user_id, events.host_id, '2026-11-22' FROM tickets JOIN events ON events.id = event_id""",
    """INSERT INTO commerce_orders (id, user_id) SELECT 'o' || CAST(substr(id, 2) AS INT), id FROM users""",
    """INSERT INTO commerce_purchases (sku, user_id, bought_at)
       SELECT 's' || (i % 7), id, '2026-11-22' FROM (SELECT CAST(substr(id, 2) AS INT) AS i, id FROM users)""",
    "INSERT INTO commerce_stock_keepers (user_id) SELECT id FROM users WHERE id < 'u00010'",
    "ANALYZE",
)


@pytest.fixture(scope="module")
def connection() -> Iterator[Connection]:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    with engine.begin() as opened:
        metadata.create_all(opened)
        commerce_metadata.create_all(opened)
        for statement in ROWS:
            opened.execute(text(statement))
        yield opened
    engine.dispose()


def plan(connection: Connection, query: Select[str]) -> list[str]:
    sql = query.compile(connection, compile_kwargs={"literal_binds": True})
    return [row.detail for row in connection.execute(text(f"EXPLAIN QUERY PLAN {sql}"))]


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_kind_selects_user_ids_and_each_user_once(connection: Connection, name: str) -> None:
    query = KINDS[name].members(ARGUMENTS[name])
    ids = list(connection.scalars(query))
    assert [column.name for column in query.selected_columns] == ["user_id"]
    assert 0 < len(ids) == len(set(ids))


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_kind_declares_its_arguments_and_names_them_in_its_description(name: str) -> None:
    kind = KINDS[name]
    assert set(kind.parameters) == set(ARGUMENTS[name])
    assert all(value in kind.sentence.format(**ARGUMENTS[name]) for value in ARGUMENTS[name].values())


def test_returned_tickets_do_not_count(connection: Connection) -> None:
    ids = list(connection.scalars(KINDS["ticket_holders"].members({"eventId": "e4"})))
    assert len(ids) == 250
    assert max(ids) < "u01000"


@pytest.mark.parametrize(
    ("audience", "index"),
    [
        (ticket_holders("e4"), "ix_tickets_holders"),
        (favourited("e4"), "sqlite_autoindex_favourites_1"),
        (favourited_host("h4"), "ix_favourites_host"),
        (NamedSet("bought", {"sku": "s4"}), "sqlite_autoindex_commerce_purchases_1"),
    ],
)
@pytest.mark.parametrize("after", [None, "u00500"])
def test_a_page_is_one_range_of_one_index_in_user_order(
    connection: Connection, audience: Audience, index: str, after: str | None
) -> None:
    steps = plan(connection, select_user_ids(audience, KINDS, after=after, limit=500))
    driving = next(step for step in steps if step.startswith("SEARCH"))
    assert f"INDEX {index} " in driving
    assert "user_id>?" in driving
    assert not [step for step in steps if "TEMP B-TREE" in step]
    assert not [step for step in steps if step.startswith("SCAN") and "(subquery" not in step]
