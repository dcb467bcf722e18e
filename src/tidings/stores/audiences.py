"""Audiences: pages of users, membership, size."""

from collections.abc import Collection, Sequence

from sqlalchemy import and_, func, select

from tidings.model.audience import Audience
from tidings.model.delivery import Recipient
from tidings.ports.store import Transaction
from tidings.stores.audience_sql import Kinds, holds, page_of_ids
from tidings.stores.connection import of
from tidings.stores.json_list import json_list
from tidings.stores.schema import preferences, users


class SqlAudiences:
    """Implements `ports.store.Audiences` over the kinds of set that packs declare."""

    def __init__(self, kinds: Kinds) -> None:
        self._kinds = kinds

    async def page(
        self, tx: Transaction, audience: Audience, *, category: str, after: str | None, limit: int
    ) -> Sequence[Recipient]:
        ids = page_of_ids(audience, self._kinds, after=after, limit=limit).subquery()
        query = (
            select(users.c.id, users.c.locale, users.c.timezone, preferences.c.channel, preferences.c.enabled)
            .select_from(
                ids.join(users, users.c.id == ids.c.user_id).outerjoin(
                    preferences, and_(preferences.c.user_id == users.c.id, preferences.c.category == category)
                )
            )
            .order_by(users.c.id)
        )
        found: dict[str, tuple[str, str, dict[str, bool]]] = {}
        for user_id, locale, timezone, channel, enabled in await of(tx).execute(query):
            _, _, choices = found.setdefault(user_id, (locale, timezone, {}))
            if channel is not None:
                choices[channel] = enabled
        return [Recipient(user_id, *rest) for user_id, rest in found.items()]

    async def among(self, tx: Transaction, audience: Audience, user_ids: Collection[str]) -> set[str]:
        query = select(users.c.id).where(users.c.id.in_(json_list(user_ids)), holds(audience, users.c.id, self._kinds))
        return set((await of(tx).scalars(query)).all())

    async def size(self, tx: Transaction, audience: Audience) -> int:
        ids = page_of_ids(audience, self._kinds, after=None, limit=None).subquery()
        return (await of(tx).scalar(select(func.count(ids.c.user_id.distinct())))) or 0
