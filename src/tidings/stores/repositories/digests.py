"""Digests: opened and extended by one statement per page, closed under a lock, and listed."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import (
    Row,
    Select,
    Text,
    and_,
    bindparam,
    case,
    column,
    delete,
    func,
    literal,
    or_,
    select,
    update,
)

from tidings.model.delivery import SkipReason
from tidings.model.digest import (
    ClosedDigest,
    CollectedItem,
    Digest,
    DigestItem,
    DigestItemState,
    DigestKey,
    DigestState,
    DueDigests,
)
from tidings.model.ids import new_id
from tidings.ports.digests import OpenDigest
from tidings.ports.transaction import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.digest_tables import WHERE_CLOSED, WHERE_NOTIFIED, WHERE_OPEN, digest_items, digests
from tidings.stores.schema.tables import Instant, Json, inbox_items, notifications, users
from tidings.stores.sql.ids import Id
from tidings.stores.sql.json_params import encode_instant, encode_rows, id_array, rowset, text_array
from tidings.stores.sql.subject_query import find_newer_for_user
from tidings.stores.sql.upsert import upsert_for_dialect

_g, _i = digests.c, digest_items.c
_DIGEST_COLUMNS = tuple(_g.keys())
_KEY_COLUMNS = (_g.user_id, _g.template_code, _g.rule_id, _g.key)

_new_digests = rowset(
    "rows",
    _g.id,
    *_KEY_COLUMNS,
    _g.category,
    _g.closes_at,
    _g.latest_close_at,
    _g.item_count,
    _g.sent_count,
    _g.max_items,
    _g.catch_up_seconds,
)
_new_items = rowset("rows", _i.notification_id, _i.user_id, _i.digest_id, _i.accepted_at)
_INSERT_ITEMS = {
    dialect: upsert_for_dialect(dialect, digest_items)
    .from_select(
        [*_new_items.c.keys(), "state"],
        select(*_new_items.c, literal(DigestItemState.COLLECTED.value)).where(literal(1) == 1),
    )
    .on_conflict_do_nothing()
    for dialect in ("postgresql", "sqlite")
}
_closed_digests = rowset("rows", _g.id, column("new_state", Text), column("notified", Id), _g.template_version)
_CLOSE_DIGESTS = (
    update(digests)
    .where(_g.id == _closed_digests.c.id, WHERE_OPEN)
    .values(
        state=_closed_digests.c.new_state,
        notification_id=_closed_digests.c.notified,
        template_version=_closed_digests.c.template_version,
        closed_at=bindparam("now", type_=Instant),
    )
)
_closed_items = rowset(
    "rows", _i.notification_id, _i.user_id, column("new_state", Text), column("why", Text), column("inputs", Json)
)
_CLOSE_ITEMS = (
    update(digest_items)
    .where(_i.notification_id == _closed_items.c.notification_id, _i.user_id == _closed_items.c.user_id)
    .values(state=_closed_items.c.new_state, reason=_closed_items.c.why, detail=_closed_items.c.inputs)
)


class _OpenDigest(NamedTuple):
    digest_id: str
    is_new: bool


def _build_open_statement(dialect: str) -> Any:
    """Return the statement that opens digests, or counts and extends those that are open.

    The rows are locked in the order of their keys, so that two pages cannot deadlock. The key share lock on the users
    waits for an erasure in progress; without it, the foreign key would fail the whole page. A digest that another
    transaction closes meanwhile is not found any more, and a new one is opened.
    """
    least, greatest = (func.min, func.max) if dialect == "sqlite" else (func.least, func.greatest)
    given, now = _new_digests.c, bindparam("now", type_=Instant)
    known = (
        select(users.c.id)
        .where(users.c.id.in_(select(given.user_id)))
        .order_by(users.c.id)
        .with_for_update(read=True, key_share=True)
        .subquery("known")
    )
    is_full = and_(given.max_items.is_not(None), given.item_count - given.sent_count >= given.max_items)
    statement = upsert_for_dialect(dialect, digests).from_select(
        [*_new_digests.c.keys(), "opened_at", "state"],
        select(
            *(case((is_full, now), else_=one).label(one.name) if one is given.closes_at else one for one in given),
            now,
            literal(DigestState.OPEN.value),
        )
        .select_from(_new_digests.join(known, known.c.id == given.user_id))
        .where(literal(1) == 1)
        .order_by(*(given[one.name] for one in _KEY_COLUMNS)),
    )
    new = statement.excluded
    total = _g.item_count + new.item_count
    slides = least(_g.latest_close_at, greatest(_g.closes_at, new.closes_at))
    closes_at = case(
        (and_(_g.max_items.is_not(None), total - _g.sent_count >= _g.max_items), least(_g.closes_at, now)),
        (_g.latest_close_at.is_not(None), slides),
        else_=_g.closes_at,
    )
    return statement.on_conflict_do_update(
        index_elements=_KEY_COLUMNS, index_where=WHERE_OPEN, set_={"item_count": total, "closes_at": closes_at}
    ).returning(_g.id, *_KEY_COLUMNS)


_OPEN_DIGESTS = {dialect: _build_open_statement(dialect) for dialect in ("postgresql", "sqlite")}


class SqlDigests:
    """Implements `ports.digests.Digests`."""

    async def open(
        self, tx: Transaction, items: Sequence[CollectedItem], now: datetime
    ) -> Mapping[DigestKey, OpenDigest]:
        by_key: defaultdict[DigestKey, list[CollectedItem]] = defaultdict(list)
        for item in items:
            by_key[item.key].append(item)
        if not by_key:
            return {}
        rows = {key: _to_digest_row(new_id(now), group) for key, group in by_key.items()}
        opened = await connection_of(tx).execute(
            _OPEN_DIGESTS[connection_of(tx).dialect.name], {"rows": encode_rows(list(rows.values())), "now": now}
        )
        return {
            (key := DigestKey(*columns)): _OpenDigest(digest_id, is_new=digest_id == rows[key][0])
            for digest_id, *columns in opened
        }

    async def add_items(self, tx: Transaction, items: Sequence[CollectedItem]) -> None:
        if items:
            rows = [
                (item.notification_id, item.key.user_id, item.digest_id, encode_instant(item.accepted_at))
                for item in items
            ]
            await connection_of(tx).execute(_INSERT_ITEMS[connection_of(tx).dialect.name], {"rows": encode_rows(rows)})

    async def has_due(self, tx: Transaction, now: datetime) -> bool:
        query = select(_g.id).where(WHERE_OPEN, _g.closes_at <= now).limit(1)
        return await connection_of(tx).scalar(query) is not None

    async def lock_due(self, tx: Transaction, now: datetime, limit: int) -> DueDigests:
        is_due = (WHERE_OPEN, _g.closes_at <= now)
        due = (
            await connection_of(tx).execute(
                select(_g.id, _g.user_id).where(*is_due).order_by(_g.closes_at).limit(limit)
            )
        ).all()
        digest_ids = id_array([digest_id for digest_id, _ in due])
        of_due = (_i.digest_id.in_(digest_ids), _i.state == DigestItemState.COLLECTED.value)
        locked: set[str] | None = None
        if connection_of(tx).dialect.name == "postgresql":
            # a notification cannot be cancelled or superseded while the digest with it is made
            ids = select(notifications.c.id).where(notifications.c.id.in_(select(_i.notification_id).where(*of_due)))
            locked = set(await connection_of(tx).scalars(ids.order_by(notifications.c.id).with_for_update(read=True)))
            owners = select(users.c.id).where(users.c.id.in_(text_array([user_id for _, user_id in due])))
            await connection_of(tx).execute(owners.order_by(users.c.id).with_for_update(read=True, key_share=True))
        query = select(digests).where(_g.id.in_(digest_ids), *is_due).order_by(_g.closes_at, _g.id)
        found = [_to_digest(row) for row in await connection_of(tx).execute(query.with_for_update(skip_locked=True))]
        items: dict[str, list[DigestItem]] = {digest.id: [] for digest in found}
        for row in await connection_of(tx).execute(_select_items().where(*of_due)):
            if row.digest_id in items:
                items[row.digest_id].append(_to_item(row))
        # an item that was added since its notification should have been locked: the next call closes the digest
        ready = [
            digest
            for digest in found
            if locked is None or locked.issuperset(item.notification_id for item in items[digest.id])
        ]
        return DueDigests(ready, items)

    async def close(self, tx: Transaction, closed: Sequence[ClosedDigest], now: datetime) -> None:
        if not closed:
            return
        rows = [
            (
                one.digest_id,
                (DigestState.EMPTY if one.notification_id is None else DigestState.CLOSED).value,
                one.notification_id,
                one.template_version,
            )
            for one in closed
        ]
        await connection_of(tx).execute(_CLOSE_DIGESTS, {"rows": encode_rows(rows), "now": now})
        item_rows = [
            (item.notification_id, item.user_id, item.state.value, item.reason, dict(item.detail) or None)
            for one in closed
            for item in one.items
            if item.state is not DigestItemState.DIGESTED or item.detail
        ]
        if item_rows:
            await connection_of(tx).execute(_CLOSE_ITEMS, {"rows": encode_rows(item_rows)})
        # nothing was added since, because that needs the lock on the digest
        if notified := [one.digest_id for one in closed if one.notification_id is not None]:
            rest = (_i.digest_id.in_(id_array(notified)), _i.state == DigestItemState.COLLECTED.value)
            digested = update(digest_items).where(*rest).values(state=DigestItemState.DIGESTED.value)
            await connection_of(tx).execute(digested)

    async def list_page(
        self,
        tx: Transaction,
        *,
        before: str | None,
        limit: int,
        user_id: str | None = None,
        key: str | None = None,
        state: DigestState | None = None,
    ) -> Sequence[Digest]:
        query = select(digests).order_by(_g.id.desc()).limit(limit)
        if before is not None:
            query = query.where(_g.id < before)
        if user_id is not None:
            query = query.where(_g.user_id == user_id)
        if key is not None:
            query = query.where(_g.key == key)
        if state is not None:
            query = query.where(_g.state == state.value)
        return [_to_digest(row) for row in await connection_of(tx).execute(query)]

    async def list_items(self, tx: Transaction, digest_ids: Collection[str]) -> Sequence[DigestItem]:
        query = _select_items().where(_i.digest_id.in_(id_array(digest_ids)))
        return [_to_item(row) for row in await connection_of(tx).execute(query)]

    async def list_of_notification(
        self, tx: Transaction, notification_id: str, *, user_id: str | None, after: str | None, limit: int
    ) -> Sequence[tuple[DigestItem, Digest]]:
        query = (
            select(digest_items, *(one.label(f"digest__{one.name}") for one in _g))
            .join_from(digest_items, digests, _g.id == _i.digest_id)
            .where(_i.notification_id == notification_id)
            .order_by(_i.user_id)
            .limit(limit)
        )
        if user_id is not None:
            query = query.where(_i.user_id == user_id)
        if after is not None:
            query = query.where(_i.user_id > after)
        return [(_to_item(row), _to_digest(row, "digest__")) for row in await connection_of(tx).execute(query)]

    async def find_by_notification(self, tx: Transaction, notification_id: str) -> Digest | None:
        query = select(digests).where(WHERE_NOTIFIED, _g.notification_id == notification_id)
        row = (await connection_of(tx).execute(query)).one_or_none()
        return None if row is None else _to_digest(row)

    async def count_open(self, tx: Transaction, *, limit: int) -> int:
        counted = select(_g.id).where(WHERE_OPEN).limit(limit).subquery()
        return (await connection_of(tx).scalar(select(func.count()).select_from(counted))) or 0

    async def purge(self, tx: Transaction, closed_before: datetime) -> int:
        old = delete(digests).where(WHERE_CLOSED, _g.closed_at < closed_before)
        return (await connection_of(tx).execute(old)).rowcount


def _select_items() -> Select[*tuple[Any, ...]]:
    """Return a SELECT of items in their order, with what became of their notifications for the user since."""
    seen = inbox_items.c
    return (
        select(
            digest_items,
            or_(seen.seen_at.is_not(None), seen.read_at.is_not(None)).label("is_seen"),
            find_newer_for_user(notifications, _i.user_id).label("superseded_by"),
        )
        .outerjoin_from(digest_items, notifications, notifications.c.id == _i.notification_id)
        .outerjoin(
            inbox_items,
            and_(seen.notification_id == _i.notification_id, seen.user_id == _i.user_id),
        )
        .order_by(_i.digest_id, _i.accepted_at, _i.notification_id)
    )


def _to_digest_row(digest_id: str, items: Sequence[CollectedItem]) -> Sequence[object]:
    """Return a row of `_new_digests`. items: of one key; the first decides on the window."""
    first = items[0]
    latest = first.window.latest_close_at
    return (
        digest_id,
        *first.key,
        first.category,
        encode_instant(first.window.closes_at),
        None if latest is None else encode_instant(latest),
        len(items),
        int(first.first_at_once),
        first.max_items,
        None if first.window.catch_up is None else int(first.window.catch_up.total_seconds()),
    )


def _to_digest(row: Row[*tuple[Any, ...]], prefix: str = "") -> Digest:
    found = row._mapping
    columns = {name: found[prefix + name] for name in _DIGEST_COLUMNS}
    catch_up_seconds = columns["catch_up_seconds"]
    return Digest(
        id=columns["id"],
        key=DigestKey(columns["user_id"], columns["template_code"], columns["rule_id"], columns["key"]),
        category=columns["category"],
        opened_at=columns["opened_at"],
        closes_at=columns["closes_at"],
        state=DigestState(columns["state"]),
        item_count=columns["item_count"] - columns["sent_count"],
        closed_at=columns["closed_at"],
        notification_id=columns["notification_id"],
        template_version=columns["template_version"],
        catch_up=None if catch_up_seconds is None else timedelta(seconds=catch_up_seconds),
    )


def _to_item(row: Row[*tuple[Any, ...]]) -> DigestItem:
    return DigestItem(
        digest_id=row.digest_id,
        notification_id=row.notification_id,
        user_id=row.user_id,
        accepted_at=row.accepted_at,
        state=DigestItemState(row.state),
        reason=None if row.reason is None else SkipReason(row.reason),
        detail=row.detail or {},
        is_seen=bool(row._mapping.get("is_seen", False)),
        superseded_by=row._mapping.get("superseded_by"),
    )
