"""Audiences: pages of recipients, membership and size."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Integer, Text, and_, column, func, select

from tidings.model.audience import Audience
from tidings.model.delivery import Recipient
from tidings.model.subscription import SubscriptionState
from tidings.model.user_schedule import UserSchedule
from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.repositories.user_schedules import SCHEDULE_COLUMNS, to_schedule
from tidings.stores.schema.tables import contact_points, preferences, user_schedules, users
from tidings.stores.sql.audience_query import AudienceKinds, membership_condition, select_user_ids
from tidings.stores.sql.json_params import encode_rows, rowset, text_array

_c = contact_points.c
_ACTIVE_STATE = SubscriptionState.ACTIVE.value

_requested_pairs = rowset("rows", column("position", Integer), column("user_id", Text), column("category", Text))
_SELECT_RECIPIENTS = (
    select(
        _requested_pairs.c.position,
        users.c.id,
        users.c.locale,
        users.c.timezone,
        preferences.c.channel,
        preferences.c.enabled,
        _c.channel.label("contact_channel"),
        _c.id.label("contact_point_id"),
        _c.timezone.label("device_timezone"),
        *SCHEDULE_COLUMNS,
    )
    .select_from(
        _requested_pairs.outerjoin(users, users.c.id == _requested_pairs.c.user_id)
        .outerjoin(
            preferences,
            and_(
                preferences.c.user_id == _requested_pairs.c.user_id,
                preferences.c.category == _requested_pairs.c.category,
            ),
        )
        .outerjoin(contact_points, and_(_c.user_id == _requested_pairs.c.user_id, _c.state == _ACTIVE_STATE))
        .outerjoin(user_schedules, user_schedules.c.user_id == _requested_pairs.c.user_id)
    )
    .where(users.c.id.is_not(None))
)


class SqlAudiences:
    """Implements `ports.store.Audiences` with the audience kinds of packs."""

    def __init__(self, audience_kinds: AudienceKinds) -> None:
        self._audience_kinds = audience_kinds

    async def page(
        self, tx: Transaction, audience: Audience, *, category: str, after: str | None, limit: int
    ) -> Sequence[Recipient]:
        ids = select_user_ids(audience, self._audience_kinds, after=after, limit=limit).subquery()
        # One statement returns everything that planning needs. The outer joins make SQLite read the page first and then
        # the rows of each of its ids.
        query = (
            select(
                ids.c.user_id,
                users.c.locale,
                users.c.timezone,
                preferences.c.channel,
                preferences.c.enabled,
                _c.channel.label("contact_channel"),
                _c.id.label("contact_point_id"),
                _c.timezone.label("device_timezone"),
                *SCHEDULE_COLUMNS,
            )
            .select_from(
                ids.outerjoin(users, users.c.id == ids.c.user_id)
                .outerjoin(
                    preferences, and_(preferences.c.user_id == ids.c.user_id, preferences.c.category == category)
                )
                .outerjoin(contact_points, and_(_c.user_id == ids.c.user_id, _c.state == _ACTIVE_STATE))
                .outerjoin(user_schedules, user_schedules.c.user_id == ids.c.user_id)
            )
            .order_by(ids.c.user_id)
        )
        builder = _RecipientBuilder()
        for user_id, *row in await connection_of(tx).execute(query):
            # an id without a user (packs may store their own ids) is a recipient without contact points: it is skipped
            builder.add_row(user_id, user_id, *row)
        return list(builder.build().values())

    async def load_recipients(self, tx: Transaction, pairs: Sequence[tuple[str, str]]) -> Sequence[Recipient | None]:
        if not pairs:
            return []
        positions = {pair: position for position, pair in enumerate(dict.fromkeys(pairs))}
        rows = encode_rows([(position, *pair) for pair, position in positions.items()])
        builder = _RecipientBuilder()
        for position, *row in await connection_of(tx).execute(_SELECT_RECIPIENTS, {"rows": rows}):
            builder.add_row(position, *row)
        recipients = builder.build()
        return [recipients.get(positions[pair]) for pair in pairs]

    async def filter_members(self, tx: Transaction, audience: Audience, user_ids: Collection[str]) -> set[str]:
        query = select(users.c.id).where(
            users.c.id.in_(text_array(user_ids)), membership_condition(audience, users.c.id, self._audience_kinds)
        )
        return set((await connection_of(tx).scalars(query)).all())

    async def estimate_size(self, tx: Transaction, audience: Audience) -> int:
        ids = select_user_ids(audience, self._audience_kinds, after=None, limit=None).subquery()
        return (await connection_of(tx).scalar(select(func.count(ids.c.user_id.distinct())))) or 0


class _RecipientRow(NamedTuple):
    user_id: str
    locale: str
    timezone: str
    schedule: UserSchedule
    preferences: dict[str, bool]
    #: channel → ids of contact points, in the order of the rows
    targets: dict[str, dict[str, None]]
    target_timezones: dict[str, str]


class _RecipientBuilder:
    """Builds recipients from joined rows: a user with two preferences and two contact points has four."""

    def __init__(self) -> None:
        self._by_key: dict[int | str, _RecipientRow] = {}

    def add_row(
        self,
        key: int | str,
        user_id: str,
        locale: str | None,
        timezone: str | None,
        channel: str | None,
        enabled: bool | None,
        contact_channel: str | None,
        contact_point_id: str | None,
        device_timezone: str | None,
        *schedule: Any,
    ) -> None:
        if (entry := self._by_key.get(key)) is None:
            entry = self._by_key[key] = _RecipientRow(
                user_id, locale or "en", timezone or "UTC", to_schedule(*schedule), {}, {}, {}
            )
        if channel is not None and enabled is not None:
            entry.preferences[channel] = enabled
        if contact_channel is not None and contact_point_id is not None:
            entry.targets.setdefault(contact_channel, {})[contact_point_id] = None
            if device_timezone is not None:
                entry.target_timezones[contact_point_id] = device_timezone

    def build(self) -> dict[int | str, Recipient]:
        return {
            key: Recipient(
                entry.user_id,
                entry.locale,
                entry.timezone,
                entry.preferences,
                {channel: tuple(ids) for channel, ids in entry.targets.items()},
                entry.schedule,
                entry.target_timezones,
            )
            for key, entry in self._by_key.items()
        }
