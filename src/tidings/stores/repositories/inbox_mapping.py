"""Rows of inbox items, and the locked counters of users with the changes made under the lock."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Row, insert, select, update

from tidings.model.inbox import InboxChange, InboxChangeKind, InboxCounts, InboxItem, InboxState
from tidings.model.priority import Priority
from tidings.model.template import MessageAction
from tidings.stores.engine.transaction import SqlConnection
from tidings.stores.schema.tables import inbox_counters, inbox_items
from tidings.stores.sql.json_params import encode_instant, encode_rows, rowset, text_array
from tidings.stores.sql.upsert import upsert_for_dialect

_i, _c = inbox_items.c, inbox_counters.c
SELECT_ITEMS = select(inbox_items)

_counted = rowset("rows", _c.user_id, _c.unseen, _c.unread, _c.version, _c.last_position)
_UPDATE_COUNTERS = (
    update(inbox_counters)
    .where(_c.user_id == _counted.c.user_id)
    .values({name: _counted.c[name] for name in ("unseen", "unread", "version", "last_position")})
)


class Marks(Protocol):
    """The columns of an item that decide whether it is counted."""

    @property
    def seen_at(self) -> datetime | None: ...
    @property
    def read_at(self) -> datetime | None: ...


@dataclass
class _Counter:
    unseen: int
    unread: int
    version: int
    last_position: int


@dataclass
class Ledger:
    """The counters of some users under a lock, and the changes made under it."""

    counters: Mapping[str, _Counter]
    changes: list[InboxChange] = field(default_factory=list)

    def reserve_position(self, user_id: str) -> int:
        """Return the position of an item that arrives now."""
        self.counters[user_id].last_position += 1
        return self.counters[user_id].last_position

    def add_active(self, user_id: str, items: Iterable[Marks]) -> None:
        """Count items that became active."""
        self._count(user_id, items, 1)

    def remove_active(self, user_id: str, items: Iterable[Marks]) -> None:
        """Stop counting items that were active."""
        self._count(user_id, items, -1)

    def count(self, user_id: str, *, unseen: int = 0, unread: int = 0) -> None:
        """Change the counters of a user."""
        self.counters[user_id].unseen += unseen
        self.counters[user_id].unread += unread

    def _count(self, user_id: str, items: Iterable[Marks], sign: int) -> None:
        for item in items:
            self.count(user_id, unseen=sign * (item.seen_at is None), unread=sign * (item.read_at is None))

    def record(
        self,
        user_id: str,
        kind: InboxChangeKind,
        item_ids: Sequence[str] = (),
        *,
        removed_ids: Sequence[str] = (),
        items: Sequence[InboxItem] = (),
        up_to: str | None = None,
    ) -> None:
        """Add a change in the next version of the user's feed. Count first: it holds the counters of now."""
        counter = self.counters[user_id]
        counter.version += 1
        counts = InboxCounts(counter.unseen, counter.unread, counter.version)
        self.changes.append(InboxChange(user_id, kind, counts, item_ids, removed_ids, items, up_to))

    async def save(self, connection: SqlConnection) -> Sequence[InboxChange]:
        """Store the counters of the users whose feeds changed. Returns the changes."""
        rows = [
            (user_id, counter.unseen, counter.unread, counter.version, counter.last_position)
            for user_id in sorted({change.user_id for change in self.changes})
            for counter in (self.counters[user_id],)
        ]
        if rows:
            await connection.execute(_UPDATE_COUNTERS, {"rows": encode_rows(rows)})
        return self.changes


async def lock_counters(connection: SqlConnection, user_ids: Collection[str]) -> Ledger:
    """Lock the counters of users, which exist, until the end of the transaction. Missing counters are created.

    All users must be locked already, because creating counters locks them, too.
    """
    rows = [
        {"user_id": user_id, "unseen": 0, "unread": 0, "version": 0, "last_position": 0} for user_id in sorted(user_ids)
    ]
    locked = (
        select(inbox_counters).where(_c.user_id.in_(text_array(list(user_ids)))).order_by(_c.user_id).with_for_update()
    )
    found = (await connection.execute(locked)).all()
    if len(found) < len(rows):
        create = upsert_for_dialect(connection.dialect.name, inbox_counters).on_conflict_do_nothing()
        known = {row.user_id for row in found}
        await connection.execute(create, [row for row in rows if row["user_id"] not in known])
        found = (await connection.execute(locked)).all()
    return Ledger({row.user_id: _Counter(row.unseen, row.unread, row.version, row.last_position) for row in found})


def to_item(row: Row[*tuple[Any, ...]]) -> InboxItem:
    """Return the item of a row of `inbox_items`."""
    return InboxItem(
        id=row.id,
        user_id=row.user_id,
        notification_id=row.notification_id,
        category=row.category,
        title=row.title,
        body=row.body,
        url=row.url,
        lang=row.lang,
        priority=Priority(row.priority),
        collapse_key=row.collapse_key or row.notification_id,
        created_at=row.created_at,
        expires_at=row.expires_at,
        direction=row.direction,
        actions=tuple(MessageAction(**action) for action in row.actions),
        state=InboxState(row.state),
        position=row.position,
        seen_at=row.seen_at,
        read_at=row.read_at,
        archived_at=row.archived_at,
        snoozed_until=row.snoozed_until,
        recalled_at=row.recalled_at,
    )


_ITEM_COLUMNS = tuple(inbox_items.c)
_INSERT_ITEMS = insert(inbox_items).from_select(_ITEM_COLUMNS, select(rowset("rows", *_ITEM_COLUMNS)))


async def insert_items(connection: SqlConnection, items: Sequence[InboxItem]) -> None:
    """Store items, in one statement."""
    rows = [[values[column.name] for column in _ITEM_COLUMNS] for values in map(_item_values, items)]
    await connection.execute(_INSERT_ITEMS, {"rows": encode_rows(rows)})


def _item_values(item: InboxItem) -> dict[str, object]:
    """Return column → value of an item, in the form of `encode_rows`."""
    return {
        "id": item.id,
        "user_id": item.user_id,
        "notification_id": item.notification_id,
        "category": item.category,
        "title": item.title,
        "body": item.body,
        "url": item.url,
        "lang": item.lang,
        "direction": item.direction,
        "actions": item.actions,
        "priority": item.priority.value,
        "collapse_key": None if item.collapse_key == item.notification_id else item.collapse_key,
        "created_at": encode_instant(item.created_at),
        "expires_at": _encode_optional(item.expires_at),
        "state": item.state.value,
        "position": item.position,
        "due_at": _encode_optional(due_at(item)),
        "seen_at": _encode_optional(item.seen_at),
        "read_at": _encode_optional(item.read_at),
        "archived_at": _encode_optional(item.archived_at),
        "snoozed_until": _encode_optional(item.snoozed_until),
        "recalled_at": _encode_optional(item.recalled_at),
    }


def _encode_optional(instant: datetime | None) -> str | None:
    return None if instant is None else encode_instant(instant)


def due_at(item: InboxItem) -> datetime | None:
    """Return when the state of an item changes by itself, None = never."""
    if item.state is InboxState.ACTIVE:
        return item.expires_at
    if item.state is InboxState.SNOOZED and item.snoozed_until is not None:
        return item.snoozed_until if item.expires_at is None else min(item.snoozed_until, item.expires_at)
    return None
