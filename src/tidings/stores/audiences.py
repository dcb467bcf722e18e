"""Audiences: pages of users, membership, size."""

from collections.abc import Collection, Sequence

from sqlalchemy import and_, func, select

from tidings.model.audience import Audience
from tidings.model.delivery import Recipient
from tidings.model.subscription import SubscriptionState
from tidings.ports.store import Transaction
from tidings.stores.audience_sql import Kinds, holds, page_of_ids
from tidings.stores.connection import of
from tidings.stores.json_list import json_list
from tidings.stores.schema import preferences, push_subscriptions, users

_s = push_subscriptions.c
_ACTIVE = SubscriptionState.ACTIVE.value


class SqlAudiences:
    """Implements `ports.store.Audiences` over the kinds of set that packs declare."""

    def __init__(self, kinds: Kinds) -> None:
        self._kinds = kinds

    async def page(
        self, tx: Transaction, audience: Audience, *, category: str, after: str | None, limit: int
    ) -> Sequence[Recipient]:
        ids = page_of_ids(audience, self._kinds, after=after, limit=limit).subquery()
        # One statement for all that planning needs; a user with two devices and two choices comes in four rows. The
        # outer joins hold the order in which SQLite reads: the page first, then what belongs to each of its ids.
        query = (
            select(ids.c.user_id, users.c.locale, users.c.timezone, preferences.c.channel, preferences.c.enabled, _s.id)
            .select_from(
                ids.outerjoin(users, users.c.id == ids.c.user_id)
                .outerjoin(
                    preferences, and_(preferences.c.user_id == ids.c.user_id, preferences.c.category == category)
                )
                .outerjoin(push_subscriptions, and_(_s.user_id == ids.c.user_id, _s.state == _ACTIVE))
            )
            .order_by(ids.c.user_id)
        )
        found: dict[str, tuple[str, str, dict[str, bool], dict[str, None]]] = {}
        for user_id, locale, timezone, channel, enabled, device_id in await of(tx).execute(query):
            # an id that no user has (a pack may keep its own) is a recipient without a device: skipped, not lost
            _, _, choices, devices = found.setdefault(user_id, (locale or "en", timezone or "UTC", {}, {}))
            if channel is not None:
                choices[channel] = enabled
            if device_id is not None:
                devices[device_id] = None
        return [
            Recipient(user_id, locale, timezone, choices, {"webpush": tuple(devices)} if devices else {})
            for user_id, (locale, timezone, choices, devices) in found.items()
        ]

    async def among(self, tx: Transaction, audience: Audience, user_ids: Collection[str]) -> set[str]:
        query = select(users.c.id).where(users.c.id.in_(json_list(user_ids)), holds(audience, users.c.id, self._kinds))
        return set((await of(tx).scalars(query)).all())

    async def size(self, tx: Transaction, audience: Audience) -> int:
        ids = page_of_ids(audience, self._kinds, after=None, limit=None).subquery()
        return (await of(tx).scalar(select(func.count(ids.c.user_id.distinct())))) or 0
