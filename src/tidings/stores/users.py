"""Users and their preferences."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from sqlalchemy import delete, func, select

from tidings.model.user import Address, Preference, User
from tidings.ports.store import Transaction
from tidings.stores.connection import of
from tidings.stores.erasure import forget
from tidings.stores.json_list import json_list
from tidings.stores.schema import deliveries, preferences, skips, users
from tidings.stores.upserts import upsert

_CHANGEABLE = ("email", "phone", "locale", "timezone", "city", "attributes", "updated_at")


class SqlUsers:
    """Implements `ports.store.Users`."""

    async def upsert(self, tx: Transaction, people: Sequence[User], now: datetime) -> Sequence[bool]:
        unknown = set(await self.unknown(tx, [person.id for person in people]))
        statement = upsert(tx, users)
        if people:
            await of(tx).execute(
                statement.on_conflict_do_update(
                    index_elements=[users.c.id], set_={name: statement.excluded[name] for name in _CHANGEABLE}
                ),
                [_row(person, now) for person in people],
            )
        firsts = {person.id: place for place, person in reversed(list(enumerate(people)))}
        return [person.id in unknown and firsts[person.id] == place for place, person in enumerate(people)]

    async def get(self, tx: Transaction, user_id: str) -> User | None:
        row = (await of(tx).execute(select(users).where(users.c.id == user_id))).one_or_none()
        return None if row is None else User(**row._mapping)

    async def page(self, tx: Transaction, *, after: str | None, limit: int) -> Sequence[User]:
        query = select(users).where(users.c.id > (after or "")).order_by(users.c.id).limit(limit)
        return [User(**row._mapping) for row in await of(tx).execute(query)]

    async def erase(self, tx: Transaction, user_id: str) -> bool:
        # what hangs on the user by foreign key goes with the row; the ledger only carries the id, so it is emptied here
        await forget(tx, user_id)
        await of(tx).execute(delete(deliveries).where(deliveries.c.user_id == user_id))
        await of(tx).execute(delete(skips).where(skips.c.user_id == user_id))
        gone = await of(tx).execute(delete(users).where(users.c.id == user_id))
        return gone.rowcount == 1

    async def unknown(self, tx: Transaction, user_ids: Sequence[str]) -> Sequence[str]:
        known = set((await of(tx).scalars(select(users.c.id).where(users.c.id.in_(json_list(user_ids))))).all())
        return [user_id for user_id in dict.fromkeys(user_ids) if user_id not in known]

    async def holders(self, tx: Transaction, addresses: Collection[Address]) -> Mapping[Address, tuple[str, int]]:
        found: dict[Address, tuple[str, int]] = {}
        for kind, column in (("email", users.c.email), ("phone", users.c.phone)):
            if wanted := {one.value: one for one in addresses if one.kind == kind}:
                query = select(column, func.min(users.c.id), func.count()).where(column.in_(json_list(wanted)))
                rows = await of(tx).execute(query.group_by(column))
                found |= {wanted[value]: (first, count) for value, first, count in rows}
        return found

    async def preferences(self, tx: Transaction, user_id: str) -> Sequence[Preference]:
        query = (
            select(preferences.c.category, preferences.c.channel, preferences.c.enabled)
            .where(preferences.c.user_id == user_id)
            .order_by(preferences.c.category, preferences.c.channel)
        )
        return [Preference(row[0], row[1], row[2]) for row in await of(tx).execute(query)]

    async def set_preferences(self, tx: Transaction, user_id: str, choices: Sequence[Preference]) -> None:
        if not choices:
            return
        statement = upsert(tx, preferences)
        await of(tx).execute(
            statement.on_conflict_do_update(
                index_elements=[preferences.c.user_id, preferences.c.category, preferences.c.channel],
                set_={"enabled": statement.excluded.enabled},
            ),
            [{"user_id": user_id, "category": c.category, "channel": c.channel, "enabled": c.enabled} for c in choices],
        )


def _row(person: User, now: datetime) -> dict[str, object]:
    return {
        "id": person.id,
        "email": person.email,
        "phone": person.phone,
        "locale": person.locale,
        "timezone": person.timezone,
        "city": person.city,
        "attributes": dict(person.attributes),
        "created_at": now,
        "updated_at": now,
    }
