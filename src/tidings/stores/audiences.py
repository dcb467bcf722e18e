"""Audiences: pages of users, membership, size."""

from collections.abc import Collection, Sequence

from sqlalchemy import Integer, Text, and_, column, func, select

from tidings.model.audience import Audience
from tidings.model.delivery import Recipient
from tidings.model.subscription import SubscriptionState
from tidings.ports.store import Transaction
from tidings.stores.audience_sql import Kinds, holds, page_of_ids
from tidings.stores.connection import of
from tidings.stores.json_list import json_list
from tidings.stores.json_rows import encoded, json_rows
from tidings.stores.schema import preferences, push_subscriptions, users

_s = push_subscriptions.c
_ACTIVE = SubscriptionState.ACTIVE.value

_wanted = json_rows("rows", column("place", Integer), column("user_id", Text), column("category", Text))
_NAMED = (
    select(
        _wanted.c.place,
        users.c.id,
        users.c.locale,
        users.c.timezone,
        preferences.c.channel,
        preferences.c.enabled,
        _s.id,
    )
    .select_from(
        _wanted.outerjoin(users, users.c.id == _wanted.c.user_id)
        .outerjoin(
            preferences,
            and_(preferences.c.user_id == _wanted.c.user_id, preferences.c.category == _wanted.c.category),
        )
        .outerjoin(push_subscriptions, and_(_s.user_id == _wanted.c.user_id, _s.state == _ACTIVE))
    )
    .where(users.c.id.is_not(None))
)


class SqlAudiences:
    """Implements `ports.store.Audiences` over the kinds of set that packs declare."""

    def __init__(self, kinds: Kinds) -> None:
        self._kinds = kinds

    async def page(
        self, tx: Transaction, audience: Audience, *, category: str, after: str | None, limit: int
    ) -> Sequence[Recipient]:
        ids = page_of_ids(audience, self._kinds, after=after, limit=limit).subquery()
        # One statement for all that planning needs. The outer joins hold the order in which SQLite reads: the page
        # first, then what belongs to each of its ids.
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
        gathered = _Gathered()
        for user_id, *row in await of(tx).execute(query):
            # an id that no user has (a pack may keep its own) is a recipient without a device: skipped, not lost
            gathered.take(user_id, user_id, *row)
        return list(gathered.recipients().values())

    async def named(self, tx: Transaction, wanted: Sequence[tuple[str, str]]) -> Sequence[Recipient | None]:
        if not wanted:
            return []
        places = {pair: place for place, pair in enumerate(dict.fromkeys(wanted))}
        rows = encoded([(place, *pair) for pair, place in places.items()])
        gathered = _Gathered()
        for place, *row in await of(tx).execute(_NAMED, {"rows": rows}):
            gathered.take(place, *row)
        found = gathered.recipients()
        return [found.get(places[pair]) for pair in wanted]

    async def among(self, tx: Transaction, audience: Audience, user_ids: Collection[str]) -> set[str]:
        query = select(users.c.id).where(users.c.id.in_(json_list(user_ids)), holds(audience, users.c.id, self._kinds))
        return set((await of(tx).scalars(query)).all())

    async def size(self, tx: Transaction, audience: Audience) -> int:
        ids = page_of_ids(audience, self._kinds, after=None, limit=None).subquery()
        return (await of(tx).scalar(select(func.count(ids.c.user_id.distinct())))) or 0


class _Gathered:
    """Rows of recipients put together: a user with two devices and two choices comes in four."""

    def __init__(self) -> None:
        self._found: dict[int | str, tuple[str, str, str, dict[str, bool], dict[str, None]]] = {}

    def take(
        self,
        key: int | str,
        user_id: str,
        locale: str | None,
        timezone: str | None,
        channel: str | None,
        enabled: bool | None,
        device_id: str | None,
    ) -> None:
        if (known := self._found.get(key)) is None:
            known = self._found[key] = (user_id, locale or "en", timezone or "UTC", {}, {})
        if channel is not None and enabled is not None:
            known[3][channel] = enabled
        if device_id is not None:
            known[4][device_id] = None

    def recipients(self) -> dict[int | str, Recipient]:
        return {
            key: Recipient(user_id, locale, timezone, choices, {"webpush": tuple(devices)} if devices else {})
            for key, (user_id, locale, timezone, choices, devices) in self._found.items()
        }
