"""Users and their preferences."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any

from sqlalchemy import Select, delete, func, select

from tidings.model.preference import Preference
from tidings.model.user import ContactAddress, User, caller_of
from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.repositories.contact_points import SqlContactPoints
from tidings.stores.repositories.personal_data import remove_from_audiences
from tidings.stores.repositories.receipts import remove_of_user
from tidings.stores.repositories.suppressions import erase_addresses
from tidings.stores.repositories.user_schedules import release_held
from tidings.stores.schema.step_tables import awaited_events, waiting_steps
from tidings.stores.schema.tables import contact_points, deliveries, idempotency_keys, preferences, skips, users
from tidings.stores.sql.json_params import text_array
from tidings.stores.sql.preference_query import PREFERENCE_COLUMNS, to_preference
from tidings.stores.sql.upsert import upsert

_PREFERENCE_KEY = (preferences.c.category, preferences.c.channel, preferences.c.subject)
_UPDATABLE_COLUMNS = (
    *("email", "phone", "locale", "timezone", "attributes", "updated_at"),
    *("city", "country", "latitude", "longitude"),
)


class SqlUsers:
    """Implements `ports.store.Users`."""

    def __init__(self, contact_points: SqlContactPoints) -> None:
        self._contact_points = contact_points

    async def upsert(self, tx: Transaction, people: Sequence[User], now: datetime) -> Sequence[bool]:
        if not people:
            return []
        # in the order of ids, so that concurrent imports of the same users cannot deadlock
        by_id = {person.id: person for person in people}  # the last of equal ids counts
        rows = [_to_row(by_id[user_id], now) for user_id in sorted(by_id)]
        statement = upsert(tx, users)
        # Whether a user is new is only known from the insertion itself: a concurrent transaction may insert it, too.
        inserted = await connection_of(tx).execute(statement.on_conflict_do_nothing().returning(users.c.id), rows)
        new_ids = set(inserted.scalars())
        if known := [row for row in rows if row["id"] not in new_ids]:
            moved = await _lock_moved(tx, {user_id: person.timezone for user_id, person in by_id.items()})
            await connection_of(tx).execute(
                statement.on_conflict_do_update(
                    index_elements=[users.c.id], set_={name: statement.excluded[name] for name in _UPDATABLE_COLUMNS}
                ),
                known,
            )
            if moved:
                await release_held(tx, moved, now)
        await self._contact_points.sync_profiles(tx, list(by_id.values()), now)
        first_positions = {person.id: index for index, person in reversed(list(enumerate(people)))}
        return [person.id in new_ids and first_positions[person.id] == index for index, person in enumerate(people)]

    async def get(self, tx: Transaction, user_id: str, *, lock: bool = False) -> User | None:
        query = select(users).where(users.c.id == user_id)
        row = (await connection_of(tx).execute(_for_key_share(query) if lock else query)).one_or_none()
        return None if row is None else User(**row._mapping)

    async def page(self, tx: Transaction, *, after: str | None, limit: int) -> Sequence[User]:
        query = select(users).where(users.c.id > (after or "")).order_by(users.c.id).limit(limit)
        return [User(**row._mapping) for row in await connection_of(tx).execute(query)]

    async def lock_for_erasure(self, tx: Transaction, user_id: str) -> bool:
        # while the deliveries exist: those of a notification to this user alone are deleted with it
        await remove_of_user(tx, user_id)
        # notifications before the user, as in the fan-out, which counts users after it has locked its notifications
        await remove_from_audiences(tx, user_id)
        query = select(users.c.id).where(users.c.id == user_id).with_for_update()
        return await connection_of(tx).scalar(query) is not None

    async def erase(self, tx: Transaction, user_id: str) -> bool:
        if not await self.lock_for_erasure(tx, user_id):
            return False
        # contact points before deliveries, the order in which outcomes lock them
        points = select(contact_points.c.id).where(contact_points.c.user_id == user_id)
        await connection_of(tx).execute(points.order_by(contact_points.c.id).with_for_update())
        await remove_of_user(tx, user_id)
        await erase_addresses(tx, user_id)
        # foreign keys cascade to the other tables; these have only the id of the user
        # In the order of ids, in which outcomes are recorded, too.
        locked = select(deliveries.c.id).where(deliveries.c.user_id == user_id).order_by(deliveries.c.id)
        await connection_of(tx).execute(select(func.count()).select_from(locked.with_for_update().subquery()))
        await connection_of(tx).execute(delete(deliveries).where(deliveries.c.user_id == user_id))
        await connection_of(tx).execute(delete(waiting_steps).where(waiting_steps.c.user_id == user_id))
        await connection_of(tx).execute(delete(awaited_events).where(awaited_events.c.user_id == user_id))
        # again: until they were deleted, a due step may have added some
        await connection_of(tx).execute(delete(deliveries).where(deliveries.c.user_id == user_id))
        await connection_of(tx).execute(delete(skips).where(skips.c.user_id == user_id))
        await connection_of(tx).execute(delete(idempotency_keys).where(idempotency_keys.c.caller == caller_of(user_id)))
        deleted = await connection_of(tx).execute(delete(users).where(users.c.id == user_id))
        return deleted.rowcount == 1

    async def missing_ids(self, tx: Transaction, user_ids: Sequence[str], *, lock: bool = False) -> Sequence[str]:
        query = select(users.c.id).where(users.c.id.in_(text_array(user_ids)))
        known = set((await connection_of(tx).scalars(_for_key_share(query) if lock else query)).all())
        return [user_id for user_id in dict.fromkeys(user_ids) if user_id not in known]

    async def find_by_address(
        self, tx: Transaction, addresses: Collection[ContactAddress]
    ) -> Mapping[ContactAddress, tuple[str, int]]:
        found: dict[ContactAddress, tuple[str, int]] = {}
        for kind, column in (("email", users.c.email), ("phone", users.c.phone)):
            if by_value := {address.value: address for address in addresses if address.kind == kind}:
                query = select(column, func.min(users.c.id), func.count()).where(column.in_(text_array(by_value)))
                rows = await connection_of(tx).execute(query.group_by(column))
                found |= {by_value[value]: (first_id, count) for value, first_id, count in rows}
        return found

    async def get_preferences(self, tx: Transaction, user_id: str) -> Sequence[Preference]:
        query = select(*PREFERENCE_COLUMNS).where(preferences.c.user_id == user_id).order_by(*_PREFERENCE_KEY)
        return [to_preference(*row) for row in await connection_of(tx).execute(query)]

    async def set_preferences(self, tx: Transaction, user_id: str, choices: Sequence[Preference]) -> None:
        if not choices:
            return
        statement = upsert(tx, preferences)
        await connection_of(tx).execute(
            statement.on_conflict_do_update(
                index_elements=[preferences.c.user_id, *_PREFERENCE_KEY],
                set_={"enabled": statement.excluded.enabled, "condition": statement.excluded.condition},
            ),
            [
                {
                    "user_id": user_id,
                    "category": preference.category,
                    "channel": preference.channel,
                    "subject": preference.subject,
                    "enabled": preference.enabled,
                    "condition": None if preference.condition is None else preference.condition.to_json(),
                }
                # in the order of the key, so that concurrent calls cannot deadlock
                for preference in sorted(choices, key=attrgetter("key"))
            ],
        )

    async def lock_preferences(self, tx: Transaction, user_id: str) -> bool:
        # as an update of the user: waits for other changes of preferences, and not for what only refers to the user
        query = select(users.c.id).where(users.c.id == user_id).with_for_update(key_share=True, of=users)
        return await connection_of(tx).scalar(query) is not None

    async def remove_preferences(self, tx: Transaction, user_id: str, entries: Sequence[Preference]) -> None:
        for entry in sorted(entries, key=attrgetter("key")):
            matches = zip((preferences.c.user_id, *_PREFERENCE_KEY), (user_id, *entry.key), strict=True)
            await connection_of(tx).execute(delete(preferences).where(*(column == value for column, value in matches)))


def _for_key_share(query: Select[*tuple[Any, ...]]) -> Select[*tuple[Any, ...]]:
    """Lock the users of a query as a foreign key does, in the order of their ids. SQLite has one writer anyway."""
    return query.order_by(users.c.id).with_for_update(read=True, key_share=True, of=users)


async def _lock_moved(tx: Transaction, timezones: Mapping[str, str]) -> Sequence[str]:
    """Lock users, and return those whose stored time zone differs. timezones: user id → the new one."""
    query = select(users.c.id, users.c.timezone).where(users.c.id.in_(text_array(timezones))).order_by(users.c.id)
    rows = await connection_of(tx).execute(query.with_for_update(key_share=True))
    return [row.id for row in rows if row.timezone != timezones[row.id]]


def _to_row(person: User, now: datetime) -> dict[str, object]:
    return {
        "id": person.id,
        "email": person.email,
        "phone": person.phone,
        "locale": person.locale,
        "timezone": person.timezone,
        "city": person.city,
        "country": person.country,
        "latitude": person.latitude,
        "longitude": person.longitude,
        "attributes": dict(person.attributes),
        "created_at": now,
        "updated_at": now,
    }
