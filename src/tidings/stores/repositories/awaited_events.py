"""Awaited events: what notifications wait for before their later steps are planned, and what happened of it."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from sqlalchemy import and_, delete, exists, literal, or_, select, tuple_, update

from tidings.model.awaited_event import ANY_USER, AwaitedEvent, OccurredEvents
from tidings.model.digest import DigestItemState
from tidings.model.waiting_step import build_event_key
from tidings.ports.awaited_events import AwaitedKey
from tidings.ports.steps import Pair
from tidings.ports.transaction import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.repositories.notification_locks import lock_notifications
from tidings.stores.repositories.user_locks import lock_users
from tidings.stores.schema.digest_tables import digest_items
from tidings.stores.schema.step_tables import WHERE_AWAITED, awaited_events
from tidings.stores.schema.tables import WHERE_UNPLANNED, Instant, notifications, users
from tidings.stores.sql.json_params import encode_rows, id_array, rowset, text_array
from tidings.stores.sql.upsert import upsert

_a, _i = awaited_events.c, digest_items.c
#: `user_id` of a row that counts for all users of the notification
_ALL_USERS = ""
_pairs = rowset("rows", _a.notification_id, _a.user_id, alias="pairs")
_REMOVE = delete(awaited_events).where(
    tuple_(_a.notification_id, _a.user_id).in_(select(_pairs.c.notification_id, _pairs.c.user_id))
)
_is_collected = exists().where(
    _i.notification_id == _a.notification_id,
    _i.user_id == _a.user_id,
    _i.state == DigestItemState.COLLECTED.value,
)
_KEY = (_a.notification_id, _a.event, _a.user_id)
_is_planned = ~exists().where(notifications.c.id == _a.notification_id, WHERE_UNPLANNED)
_is_erased = and_(_a.user_id != _ALL_USERS, ~exists().where(users.c.id == _a.user_id))
_is_stale = or_(_is_erased, and_(_is_planned, ~_is_collected))
_keys = rowset("rows", *_KEY, alias="keys")
_LOCK_STALE = (
    select(*_KEY)
    .where(tuple_(*_KEY).in_(select(*_keys.c)), _is_stale)
    .with_for_update(of=awaited_events, skip_locked=True)
)
_REMOVE_STALE = delete(awaited_events).where(tuple_(*_KEY).in_(select(*_LOCK_STALE.subquery().c)))


class SqlAwaitedEvents:
    """Implements `ports.awaited_events.AwaitedEvents`."""

    async def add(self, tx: Transaction, awaited: Sequence[AwaitedEvent]) -> None:
        if not awaited:
            return
        rows = [
            {
                "notification_id": one.notification_id,
                "event": one.event,
                "user_id": one.user_id or _ALL_USERS,
                "event_key": one.event_key,
                "occurred_at": one.occurred_at,
            }
            for one in awaited
        ]
        await connection_of(tx).execute(upsert(tx, awaited_events).on_conflict_do_nothing(), rows)

    async def record(
        self, tx: Transaction, event: str, now: datetime, *, subject: str | None, user_id: str | None
    ) -> None:
        keys = [] if subject is None else [build_event_key(subject, "")]
        searched = keys if user_id is None else [*keys, build_event_key(None, user_id), ANY_USER]
        is_awaited = and_(WHERE_AWAITED, _a.event == event, _a.event_key.in_(text_array(searched)))
        connection = connection_of(tx)
        ids = set(await connection.scalars(select(_a.notification_id).where(is_awaited))) if searched else set()
        if not ids:
            return
        # Waits for the page or the digest that is being planned: its steps are found afterwards. Those that are planned
        # later find what is recorded here.
        await lock_notifications(tx, ids)
        is_awaited &= _a.notification_id.in_(id_array(ids))
        if user_id is not None and await lock_users(tx, [user_id]):
            key = build_event_key(None, user_id)
            of_user = (_a.notification_id, _a.event, literal(user_id), literal(key), literal(now, Instant))
            mark = upsert(tx, awaited_events).from_select(
                ["notification_id", "event", "user_id", "event_key", "occurred_at"],
                select(*of_user).where(is_awaited, _a.event_key == ANY_USER),
            )
            # a row that a digest has stored for the user is updated below
            await connection.execute(mark.on_conflict_do_nothing())
        known = update(awaited_events).where(is_awaited, _a.event_key != ANY_USER)
        await connection.execute(known.values(occurred_at=now))

    async def find_occurred(self, tx: Transaction, pairs: Collection[Pair]) -> Mapping[Pair, OccurredEvents]:
        notification_ids, user_ids = {pair[0] for pair in pairs}, {pair[1] for pair in pairs}
        query = select(_a.notification_id, _a.user_id, _a.event, _a.occurred_at).where(
            _a.notification_id.in_(id_array(notification_ids)),
            _a.user_id.in_(text_array([_ALL_USERS, *user_ids])),
            _a.occurred_at.is_not(None),
        )
        marks: dict[Pair, dict[str, datetime]] = {}
        for row in await connection_of(tx).execute(query):
            marks.setdefault((row.notification_id, row.user_id), {})[row.event] = row.occurred_at
        if not marks:
            return {}
        found = {pair: marks.get((pair[0], _ALL_USERS), {}) | marks.get(pair, {}) for pair in pairs}
        return {pair: happened for pair, happened in found.items() if happened}

    async def remove_planned(self, tx: Transaction, notification_ids: Collection[str]) -> None:
        planned = delete(awaited_events).where(_a.notification_id.in_(id_array(notification_ids)), ~_is_collected)
        await connection_of(tx).execute(planned)

    async def remove(self, tx: Transaction, pairs: Collection[Pair]) -> None:
        await connection_of(tx).execute(_REMOVE, {"rows": encode_rows(sorted(set(pairs)))})

    async def list_stale(self, tx: Transaction, *, limit: int) -> Sequence[AwaitedKey]:
        rows = await connection_of(tx).execute(select(*_KEY).where(_is_stale).limit(limit))
        return [(row.notification_id, row.event, row.user_id) for row in rows]

    async def remove_stale(self, tx: Transaction, keys: Collection[AwaitedKey]) -> int:
        removed = await connection_of(tx).execute(_REMOVE_STALE, {"rows": encode_rows(sorted(keys))})
        return removed.rowcount

    async def list_by_user(
        self, tx: Transaction, user_id: str, *, after: tuple[str, str] | None, limit: int
    ) -> Sequence[AwaitedEvent]:
        query = select(awaited_events).where(_a.user_id == user_id).order_by(_a.notification_id, _a.event).limit(limit)
        if after is not None:
            key = tuple_(literal(after[0], _a.notification_id.type), literal(after[1], _a.event.type))
            query = query.where(tuple_(_a.notification_id, _a.event) > key)
        rows = await connection_of(tx).execute(query)
        return [
            AwaitedEvent(row.notification_id, row.event, row.user_id, row.event_key, row.occurred_at) for row in rows
        ]
