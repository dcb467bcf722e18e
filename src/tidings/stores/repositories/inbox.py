"""Inbox items: the feeds of users, their states and counters."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from msgspec import structs
from sqlalchemy import ColumnElement, Row, and_, case, delete, exists, func, literal, select, union, update

from tidings.model.ids import is_id, new_id
from tidings.model.inbox import InboxChange, InboxChangeKind, InboxCounts, InboxItem, InboxState, InboxView
from tidings.model.priority import Priority
from tidings.model.waiting_step import StepEnd
from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.repositories.inbox_arrivals import Arrivals, collapse_key, item_key
from tidings.stores.repositories.inbox_mapping import (
    SELECT_ITEMS,
    Ledger,
    insert_items,
    lock_counters,
    to_item,
)
from tidings.stores.repositories.steps import SqlSteps
from tidings.stores.repositories.user_locks import lock_users
from tidings.stores.schema.tables import (
    WHERE_HAS_DUE,
    WHERE_UNREAD,
    Instant,
    deliveries,
    inbox_counters,
    inbox_items,
    inbox_recalls,
)
from tidings.stores.sql.ids import min_uuid_at
from tidings.stores.sql.json_params import encode_rows, id_array, rowset, text_array
from tidings.stores.sql.upsert import upsert

ItemRow = Row[*tuple[Any, ...]]

_i, _c, _r, _d = inbox_items.c, inbox_counters.c, inbox_recalls.c, deliveries.c
#: the advisory lock of recalls: "tidings" in ASCII, and a 3
RECALL_LOCK_ID = 0x74_69_64_69_6E_67_73_03
#: states of items that a user can see somewhere
_VISIBLE = (InboxState.ACTIVE, InboxState.SNOOZED, InboxState.ARCHIVED)
#: states of items that can be marked as seen or read
_MARKABLE = (*_VISIBLE, InboxState.EXPECTED)

_pairs = rowset("rows", _i.notification_id, _i.user_id, alias="pairs")
_SELECT_BY_PAIRS = SELECT_ITEMS.where(_i.notification_id == _pairs.c.notification_id, _i.user_id == _pairs.c.user_id)
_keys = rowset("rows", _i.user_id, _i.collapse_key, alias="keys")
_SELECT_BY_COLLAPSE_KEYS = SELECT_ITEMS.where(
    _i.user_id == _keys.c.user_id,
    _i.collapse_key == _keys.c.collapse_key,
    _i.state.in_([state.value for state in _VISIBLE]),
)
_positions = rowset("rows", _i.id, _i.position, alias="positions")
_RETURN_ITEMS = (
    update(inbox_items)
    .where(_i.id == _positions.c.id)
    .values(
        state=InboxState.ACTIVE.value,
        position=_positions.c.position,
        due_at=_i.expires_at,
        seen_at=None,
        read_at=None,
        snoozed_until=None,
    )
)


class SqlInbox:
    """Implements `ports.inbox.Inbox`."""

    def __init__(self, steps: SqlSteps) -> None:
        self._steps = steps

    async def add_many(self, tx: Transaction, items: Sequence[InboxItem], now: datetime) -> Sequence[InboxChange]:
        connection = connection_of(tx)
        if connection.dialect.name == "postgresql":
            # a recall waits for the arrivals in progress, and later ones find its row
            await connection.execute(select(func.pg_advisory_xact_lock_shared(RECALL_LOCK_ID)))
        known = await lock_users(tx, {item.user_id for item in items})
        items = [item for item in items if item.user_id in known]
        if not items:
            return []
        ledger = await lock_counters(connection, known)
        await _settle(tx, ledger, now)
        pairs = encode_rows([item_key(item) for item in items])
        stored = [to_item(row) for row in await connection.execute(_SELECT_BY_PAIRS, {"rows": pairs})]
        keys = [collapse_key(item) for item in items if item.collapse_key != item.notification_id]
        # most notifications have no subject, and replace nothing
        rows = await connection.execute(_SELECT_BY_COLLAPSE_KEYS, {"rows": encode_rows(keys)}) if keys else ()
        current = [to_item(row) for row in rows]
        recalled = await connection.scalars(
            select(_r.notification_id).where(_r.notification_id.in_(id_array({i.notification_id for i in items})))
        )
        arrivals = Arrivals(
            {item_key(item): item for item in stored},
            {collapse_key(item): item for item in current},
            set(recalled),
            ledger,
            now,
        )
        arrivals.add(items)
        if arrivals.expected_ids:
            await connection.execute(delete(inbox_items).where(_i.id.in_(id_array(arrivals.expected_ids))))
        if arrivals.added:
            await insert_items(connection, arrivals.added)
        if arrivals.replaced_ids:
            await _update(tx, _i.id.in_(id_array(arrivals.replaced_ids)), state=InboxState.REPLACED.value, due_at=None)
        return await ledger.save(connection)

    async def page(
        self, tx: Transaction, user_id: str, view: InboxView, *, before: int | None, limit: int
    ) -> Sequence[InboxItem]:
        query = SELECT_ITEMS.where(_i.user_id == user_id).order_by(_i.position.desc()).limit(limit)
        state = InboxState.ARCHIVED if view is InboxView.ARCHIVED else InboxState.ACTIVE
        query = query.where(_i.state == state.value)
        if view is InboxView.UNREAD:
            query = query.where(WHERE_UNREAD)
        if before is not None:
            query = query.where(_i.position < before)
        return [to_item(row) for row in await connection_of(tx).execute(query)]

    async def get_counts(self, tx: Transaction, user_id: str) -> InboxCounts:
        query = select(_c.unseen, _c.unread, _c.version).where(_c.user_id == user_id)
        row = (await connection_of(tx).execute(query)).one_or_none()
        return InboxCounts() if row is None else InboxCounts(*row)

    async def has_due(self, tx: Transaction, user_id: str | None, now: datetime) -> bool:
        due = select(_i.id).where(WHERE_HAS_DUE, _i.due_at <= now).limit(1)
        due = due if user_id is None else due.where(_i.user_id == user_id)
        return await connection_of(tx).scalar(due) is not None

    async def find(self, tx: Transaction, user_id: str, ref: str) -> InboxItem | None:
        found = await _resolve(tx, user_id, [ref], _MARKABLE)
        return to_item(found[0]) if found else None

    async def get_position(self, tx: Transaction, user_id: str, item_id: str) -> int | None:
        query = select(_i.position).where(_i.id == item_id, _i.user_id == user_id)
        position: int | None = await connection_of(tx).scalar(query)
        return position

    async def set_seen(
        self, tx: Transaction, user_id: str, refs: Collection[str], now: datetime
    ) -> Sequence[InboxChange]:
        ledger = await _begin(tx, user_id, now)
        if ledger is None:
            return []
        ids = await self._resolve_or_expect(tx, user_id, refs, now)
        seen = await _mark_seen(tx, ledger, user_id, _i.id.in_(id_array(ids)), now)
        await self._cancel_steps(tx, seen, StepEnd.SEEN, now)
        if arrived := _arrived(seen):
            ledger.record(user_id, InboxChangeKind.SEEN, _ids(arrived))
        return await ledger.save(connection_of(tx))

    async def set_read(
        self, tx: Transaction, user_id: str, refs: Collection[str], now: datetime
    ) -> Sequence[InboxChange]:
        ledger = await _begin(tx, user_id, now)
        if ledger is None:
            return []
        ids = await self._resolve_or_expect(tx, user_id, refs, now)
        read = await _mark_read(tx, ledger, user_id, _i.id.in_(id_array(ids)), now)
        await self._cancel_steps(tx, read, StepEnd.READ, now)
        if arrived := _arrived(read):
            ledger.record(user_id, InboxChangeKind.READ, _ids(arrived))
        return await ledger.save(connection_of(tx))

    async def set_unread(
        self, tx: Transaction, user_id: str, refs: Collection[str], now: datetime
    ) -> Sequence[InboxChange]:
        ledger = await _begin(tx, user_id, now)
        if ledger is None:
            return []
        ids = _ids(await _resolve(tx, user_id, refs, _MARKABLE))
        unread = await _update(tx, _i.id.in_(id_array(ids)), _i.read_at.is_not(None), read_at=None)
        if arrived := _arrived(unread):
            ledger.count(user_id, unread=_count_active(unread))
            ledger.record(user_id, InboxChangeKind.UNREAD, _ids(arrived))
        return await ledger.save(connection_of(tx))

    async def archive(
        self, tx: Transaction, user_id: str, refs: Collection[str], now: datetime
    ) -> Sequence[InboxChange]:
        ledger = await _begin(tx, user_id, now)
        if ledger is None:
            return []
        ids = _ids(await _resolve(tx, user_id, refs, (InboxState.ACTIVE, InboxState.SNOOZED)))
        active, snoozed = [
            await _update(
                tx,
                _i.id.in_(id_array(ids)),
                _i.state == state.value,
                state=InboxState.ARCHIVED.value,
                archived_at=now,
                snoozed_until=None,
                due_at=None,
            )
            for state in (InboxState.ACTIVE, InboxState.SNOOZED)
        ]
        ledger.remove_active(user_id, active)
        if active or snoozed:
            ledger.record(user_id, InboxChangeKind.ARCHIVED, _ids([*active, *snoozed]))
        return await ledger.save(connection_of(tx))

    async def unarchive(
        self, tx: Transaction, user_id: str, refs: Collection[str], now: datetime
    ) -> Sequence[InboxChange]:
        ledger = await _begin(tx, user_id, now)
        if ledger is None:
            return []
        items = [to_item(row) for row in await _resolve(tx, user_id, refs, (InboxState.ARCHIVED,))]
        ids = [item.id for item in items if item.expires_at is None or item.expires_at > now]
        back = await _update(
            tx, _i.id.in_(id_array(ids)), state=InboxState.ACTIVE.value, archived_at=None, due_at=_i.expires_at
        )
        if back:
            ledger.add_active(user_id, back)
            ledger.record(user_id, InboxChangeKind.UNARCHIVED, _ids(back), items=[to_item(row) for row in back])
        return await ledger.save(connection_of(tx))

    async def snooze(
        self, tx: Transaction, user_id: str, refs: Collection[str], until: datetime | None, now: datetime
    ) -> Sequence[InboxChange]:
        ledger = await _begin(tx, user_id, now)
        if ledger is None:
            return []
        if until is None:
            await _return_early(tx, ledger, user_id, refs)
            return await ledger.save(connection_of(tx))
        ids = _ids(await _resolve(tx, user_id, refs, (InboxState.ACTIVE, InboxState.SNOOZED)))
        instant = literal(until, Instant)
        expires_first = case((_i.expires_at < instant, _i.expires_at), else_=instant)
        is_chosen = _i.id.in_(id_array(ids))
        moved = await _update(
            tx,
            is_chosen,
            _i.state == InboxState.SNOOZED.value,
            _i.snoozed_until != until,
            snoozed_until=until,
            due_at=expires_first,
        )
        hidden = await _update(
            tx,
            is_chosen,
            _i.state == InboxState.ACTIVE.value,
            state=InboxState.SNOOZED.value,
            snoozed_until=until,
            due_at=expires_first,
        )
        ledger.remove_active(user_id, hidden)
        if moved or hidden:
            ledger.record(user_id, InboxChangeKind.SNOOZED, _ids([*moved, *hidden]))
        return await ledger.save(connection_of(tx))

    async def read_all(self, tx: Transaction, user_id: str, up_to: str, now: datetime) -> Sequence[InboxChange]:
        ledger = await _begin(tx, user_id, now)
        if ledger is None:
            return []
        position = await self.get_position(tx, user_id, up_to)
        if position is not None:
            shown = and_(
                WHERE_UNREAD, _i.user_id == user_id, _i.state == InboxState.ACTIVE.value, _i.position <= position
            )
            read = await _mark_read(tx, ledger, user_id, shown, now)
            await self._cancel_steps(tx, read, StepEnd.READ, now)
            if read:
                ledger.record(user_id, InboxChangeKind.READ_ALL, up_to=up_to)
        return await ledger.save(connection_of(tx))

    async def recall(
        self, tx: Transaction, notification_id: str, now: datetime, *, limit: int
    ) -> Sequence[InboxChange]:
        connection = connection_of(tx)
        is_recorded = exists().where(_r.notification_id == notification_id)
        if not await connection.scalar(select(is_recorded)):
            if connection.dialect.name == "postgresql":
                await connection.execute(select(func.pg_advisory_xact_lock(RECALL_LOCK_ID)))
            record = upsert(tx, inbox_recalls).values(notification_id=notification_id, recalled_at=now)
            await connection.execute(record.on_conflict_do_nothing())
        is_visible = (_i.notification_id == notification_id) & _i.state.in_([state.value for state in _VISIBLE])
        chosen = select(_i.user_id).where(is_visible).order_by(_i.user_id).limit(limit)
        user_ids = (await connection.scalars(chosen)).all()
        if not user_ids:
            return []
        ledger = await lock_counters(connection, await lock_users(tx, user_ids))
        await _settle(tx, ledger, now)
        is_chosen = (_i.notification_id == notification_id) & _i.user_id.in_(text_array(list(ledger.counters)))
        removed = {"state": InboxState.RECALLED.value, "recalled_at": now, "due_at": None}
        for row in await _update(tx, is_chosen, _i.state == InboxState.ACTIVE.value, **removed):
            ledger.remove_active(row.user_id, [row])
            ledger.record(row.user_id, InboxChangeKind.REMOVED, [row.id])
        for row in await _update(tx, is_chosen, is_visible, **removed):
            ledger.record(row.user_id, InboxChangeKind.REMOVED, [row.id])
        return await ledger.save(connection)

    async def settle(self, tx: Transaction, user_id: str, now: datetime) -> Sequence[InboxChange]:
        ledger = await _begin(tx, user_id, now)
        return [] if ledger is None else await ledger.save(connection_of(tx))

    async def settle_due(self, tx: Transaction, now: datetime, *, limit: int) -> Sequence[InboxChange]:
        due = select(_i.user_id).where(WHERE_HAS_DUE, _i.due_at <= now).order_by(_i.due_at).limit(limit)
        user_ids = set(await connection_of(tx).scalars(due))
        if not user_ids:
            return []
        ledger = await lock_counters(connection_of(tx), await lock_users(tx, user_ids))
        await _settle(tx, ledger, now)
        return await ledger.save(connection_of(tx))

    async def list_all(self, tx: Transaction, user_id: str, *, after: str | None, limit: int) -> Sequence[InboxItem]:
        query = SELECT_ITEMS.where(_i.user_id == user_id).order_by(_i.id).limit(limit)
        query = query if after is None else query.where(_i.id > after)
        return [to_item(row) for row in await connection_of(tx).execute(query)]

    async def purge(self, tx: Transaction, before: datetime, *, limit: int) -> Sequence[InboxChange]:
        connection = connection_of(tx)
        await connection.execute(delete(inbox_recalls).where(_r.recalled_at < before))
        old = select(_i.id, _i.user_id).where(_i.id < min_uuid_at(before)).order_by(_i.id).limit(limit)
        rows = (await connection.execute(old)).all()
        if not rows:
            return []
        ledger = await lock_counters(connection, await lock_users(tx, {row.user_id for row in rows}))
        deleted = await connection.execute(
            delete(inbox_items)
            .where(_i.id.in_(id_array(_ids(rows))))
            .returning(_i.id, _i.user_id, _i.state, _i.seen_at, _i.read_at)
        )
        by_user: dict[str, list[ItemRow]] = {}
        for row in deleted:
            by_user.setdefault(row.user_id, []).append(row)
        for user_id, items in by_user.items():
            ledger.remove_active(user_id, [row for row in items if row.state == InboxState.ACTIVE.value])
            ledger.record(user_id, InboxChangeKind.REMOVED, _ids(items))
        return await ledger.save(connection)

    async def _cancel_steps(self, tx: Transaction, items: Sequence[ItemRow], end: StepEnd, now: datetime) -> None:
        """Cancel the later steps of notifications that the user has marked just now."""
        if items:
            await self._steps.cancel(tx, {(item.notification_id, item.user_id) for item in items}, end, now)

    async def _resolve_or_expect(
        self, tx: Transaction, user_id: str, refs: Collection[str], now: datetime
    ) -> Sequence[str]:
        """Return the ids of items. A notification that is being delivered to the user gets a row without content."""
        found = await _resolve(tx, user_id, refs, tuple(InboxState))
        ids = [row.id for row in found if row.state in _MARKABLE]
        missing = set(refs) - set(_ids(found)) - {row.notification_id for row in found}
        if not missing:
            return ids
        # only notifications with a delivery to the user: otherwise a caller could fill the table
        addressed = (
            select(_d.notification_id)
            .distinct()
            .where(_d.notification_id.in_(id_array(missing)), _d.user_id == user_id)
        )
        planned = (await connection_of(tx).scalars(addressed)).all()
        expected = [_expected_item(user_id, notification_id, now) for notification_id in sorted(planned)]
        if expected:
            await insert_items(connection_of(tx), expected)
        return [*ids, *(item.id for item in expected)]


async def _begin(tx: Transaction, user_id: str, now: datetime) -> Ledger | None:
    """Lock a user's counters and settle what is due. Returns None if the user is unknown."""
    known = await lock_users(tx, [user_id])
    if not known:
        return None
    ledger = await lock_counters(connection_of(tx), known)
    await _settle(tx, ledger, now)
    return ledger


async def _settle(tx: Transaction, ledger: Ledger, now: datetime) -> None:
    """Remove expired items and return those whose snooze ended, of the users whose counters are locked."""
    is_due = (WHERE_HAS_DUE, _i.due_at <= now, _i.user_id.in_(text_array(list(ledger.counters))))
    query = SELECT_ITEMS.where(*is_due).order_by(_i.user_id, _i.due_at, _i.id)
    by_user: dict[str, list[InboxItem]] = {}
    for row in await connection_of(tx).execute(query):
        by_user.setdefault(row.user_id, []).append(to_item(row))
    for user_id, items in by_user.items():
        expired = [item for item in items if item.expires_at is not None and item.expires_at <= now]
        if expired:
            ids = [item.id for item in expired]
            await _update(tx, _i.id.in_(id_array(ids)), state=InboxState.EXPIRED.value, due_at=None)
            ledger.remove_active(user_id, [item for item in expired if item.state is InboxState.ACTIVE])
            ledger.record(user_id, InboxChangeKind.REMOVED, ids)
        if returned := [_return_item(item, ledger) for item in items if item not in expired]:
            positions = encode_rows([(item.id, item.position) for item in returned])
            await connection_of(tx).execute(_RETURN_ITEMS, {"rows": positions})
            ledger.add_active(user_id, returned)
            ledger.record(user_id, InboxChangeKind.RETURNED, [item.id for item in returned], items=returned)


def _return_item(item: InboxItem, ledger: Ledger) -> InboxItem:
    """Return an item as it is after the end of its snooze: at the top, as if it had just arrived."""
    return structs.replace(
        item,
        state=InboxState.ACTIVE,
        position=ledger.reserve_position(item.user_id),
        seen_at=None,
        read_at=None,
        snoozed_until=None,
    )


async def _return_early(tx: Transaction, ledger: Ledger, user_id: str, refs: Collection[str]) -> None:
    ids = _ids(await _resolve(tx, user_id, refs, (InboxState.SNOOZED,)))
    active = {"state": InboxState.ACTIVE.value, "snoozed_until": None, "due_at": _i.expires_at}
    returned = await _update(tx, _i.id.in_(id_array(ids)), **active)
    if returned:
        ledger.add_active(user_id, returned)
        items = [to_item(row) for row in returned]
        ledger.record(user_id, InboxChangeKind.RETURNED, _ids(returned), items=items)


async def _mark_seen(
    tx: Transaction, ledger: Ledger, user_id: str, where: ColumnElement[bool], now: datetime
) -> Sequence[ItemRow]:
    """Set when items were first seen. Returns those that were not seen before."""
    seen = await _update(tx, where, _i.seen_at.is_(None), seen_at=now)
    ledger.count(user_id, unseen=-_count_active(seen))
    return seen


async def _mark_read(
    tx: Transaction, ledger: Ledger, user_id: str, where: ColumnElement[bool], now: datetime
) -> Sequence[ItemRow]:
    """Set when items were read, and seen. Returns those that were unread."""
    await _mark_seen(tx, ledger, user_id, where & _i.read_at.is_(None), now)
    read = await _update(tx, where, _i.read_at.is_(None), read_at=now)
    ledger.count(user_id, unread=-_count_active(read))
    return read


async def _resolve(
    tx: Transaction, user_id: str, refs: Collection[str], states: Collection[InboxState]
) -> Sequence[ItemRow]:
    """Return the user's rows with one of the ids, or of one of the notifications."""
    ids = sorted({ref for ref in refs if is_id(ref)})
    is_own = (_i.user_id == user_id, _i.state.in_([state.value for state in states]))
    # one SELECT for each index: with OR, SQLite would read the user's whole feed
    query = union(
        select(_i.id).where(_i.id.in_(ids), *is_own), select(_i.id).where(_i.notification_id.in_(ids), *is_own)
    )
    found = (await connection_of(tx).scalars(query)).all()
    return (await connection_of(tx).execute(SELECT_ITEMS.where(_i.id.in_(id_array(found))))).all() if found else []


async def _update(tx: Transaction, *where: ColumnElement[bool], **values: object) -> Sequence[ItemRow]:
    """Update items. Returns the rows that were changed, with their new values."""
    return (
        await connection_of(tx).execute(update(inbox_items).where(*where).values(**values).returning(inbox_items))
    ).all()


def _arrived(rows: Sequence[ItemRow]) -> Sequence[ItemRow]:
    return [row for row in rows if row.state != InboxState.EXPECTED.value]


def _count_active(rows: Sequence[ItemRow]) -> int:
    return sum(row.state == InboxState.ACTIVE.value for row in rows)


def _ids(rows: Sequence[Any]) -> list[str]:
    return [row.id for row in rows]


def _expected_item(user_id: str, notification_id: str, now: datetime) -> InboxItem:
    return InboxItem(
        id=new_id(now),
        user_id=user_id,
        notification_id=notification_id,
        category="",
        title="",
        body="",
        url="",
        lang="",
        priority=Priority.NORMAL,
        collapse_key=notification_id,
        created_at=now,
        expires_at=None,
        state=InboxState.EXPECTED,
    )
