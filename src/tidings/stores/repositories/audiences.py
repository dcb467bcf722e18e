"""Audiences: pages of recipients, membership and size."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import Integer, Select, Text, and_, column, func, literal, select

from tidings.model.audience import Audience
from tidings.model.channel_engagement import ENGAGEMENT_CAUSES, FEED_CHANNEL, ChannelEngagement
from tidings.model.delivery import Recipient
from tidings.model.preference import Preference
from tidings.model.subscription import SubscriptionState
from tidings.model.user_schedule import UserSchedule
from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.repositories.user_schedules import SCHEDULE_COLUMNS, to_schedule
from tidings.stores.schema.provider_tables import receipts
from tidings.stores.schema.tables import Instant, contact_points, inbox_items, preferences, user_schedules, users
from tidings.stores.sql.audience_query import AudienceKinds, membership_condition, select_user_ids
from tidings.stores.sql.json_params import encode_rows, rowset, text_array
from tidings.stores.sql.preference_query import PREFERENCE_COLUMNS, find_preferences, to_preference

_c, _r, _i = contact_points.c, receipts.c, inbox_items.c
#: an expression: otherwise SQLite reads the opens and clicks of all users by the index on causes
_BY_PEOPLE = func.coalesce(_r.cause, "").in_(ENGAGEMENT_CAUSES)
_ACTIVE_STATE = SubscriptionState.ACTIVE.value
#: (category, channel, subject) → entry
_Entries: TypeAlias = dict[tuple[str, str, str], Preference]

_requested = rowset(
    "rows",
    column("position", Integer),
    column("user_id", Text),
    column("category", Text),
    column("subject", Text),
)
_SELECT_RECIPIENTS = (
    select(
        _requested.c.position,
        users.c.id,
        users.c.locale,
        users.c.timezone,
        *PREFERENCE_COLUMNS,
        _c.channel.label("contact_channel"),
        _c.id.label("contact_point_id"),
        _c.timezone.label("device_timezone"),
        *SCHEDULE_COLUMNS,
    )
    .select_from(
        _requested.outerjoin(users, users.c.id == _requested.c.user_id)
        .outerjoin(preferences, find_preferences(_requested.c.user_id, _requested.c.category, _requested.c.subject))
        .outerjoin(contact_points, and_(_c.user_id == _requested.c.user_id, _c.state == _ACTIVE_STATE))
        .outerjoin(user_schedules, user_schedules.c.user_id == _requested.c.user_id)
    )
    .where(users.c.id.is_not(None))
)


class SqlAudiences:
    """Implements `ports.store.Audiences` with the audience kinds of packs."""

    def __init__(self, audience_kinds: AudienceKinds) -> None:
        self._audience_kinds = audience_kinds

    async def page(
        self,
        tx: Transaction,
        audience: Audience,
        *,
        category: str,
        after: str | None,
        limit: int,
        subject: str | None = None,
    ) -> Sequence[Recipient]:
        ids = select_user_ids(audience, self._audience_kinds, after=after, limit=limit).subquery()
        # One statement returns everything that planning needs. The outer joins make SQLite read the page first and then
        # the rows of each of its ids.
        query = (
            select(
                ids.c.user_id,
                users.c.locale,
                users.c.timezone,
                *PREFERENCE_COLUMNS,
                _c.channel.label("contact_channel"),
                _c.id.label("contact_point_id"),
                _c.timezone.label("device_timezone"),
                *SCHEDULE_COLUMNS,
            )
            .select_from(
                ids.outerjoin(users, users.c.id == ids.c.user_id)
                .outerjoin(
                    preferences,
                    find_preferences(ids.c.user_id, literal(category), literal(subject, type_=Text())),
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

    async def load_recipients(
        self, tx: Transaction, requests: Sequence[tuple[str, str, str | None]]
    ) -> Sequence[Recipient | None]:
        if not requests:
            return []
        positions = {request: position for position, request in enumerate(dict.fromkeys(requests))}
        rows = encode_rows([(position, *request) for request, position in positions.items()])
        builder = _RecipientBuilder()
        for position, *row in await connection_of(tx).execute(_SELECT_RECIPIENTS, {"rows": rows}):
            builder.add_row(position, *row)
        recipients = builder.build()
        return [recipients.get(positions[request]) for request in requests]

    async def filter_members(self, tx: Transaction, audience: Audience, user_ids: Collection[str]) -> set[str]:
        query = select(users.c.id).where(
            users.c.id.in_(text_array(user_ids)), membership_condition(audience, users.c.id, self._audience_kinds)
        )
        return set((await connection_of(tx).scalars(query)).all())

    async def load_engagement(
        self, tx: Transaction, user_ids: Collection[str], since: datetime
    ) -> Mapping[str, Mapping[str, ChannelEngagement]]:
        found: dict[str, dict[str, ChannelEngagement]] = {}
        for query in (_engagement_by_user(since), _engagement_by_address(since), _engagement_in_feed(since)):
            selected = query.where(query.selected_columns[0].in_(text_array(user_ids)))
            for user_id, channel, count, last_at in await connection_of(tx).execute(selected):
                engagement = ChannelEngagement(count, last_at)
                by_channel = found.setdefault(user_id, {})
                known = by_channel.get(channel)
                by_channel[channel] = engagement if known is None else known.merge(engagement)
        return found

    async def estimate_size(self, tx: Transaction, audience: Audience) -> int:
        ids = select_user_ids(audience, self._audience_kinds, after=None, limit=None).subquery()
        return (await connection_of(tx).scalar(select(func.count(ids.c.user_id.distinct())))) or 0


def _engagement_by_user(since: datetime) -> Select[str, str, int, datetime]:
    return (
        select(_r.user_id, _r.channel, func.count(), func.max(_r.occurred_at))
        .where(_r.user_id.is_not(None), _BY_PEOPLE, _r.occurred_at >= since)
        .group_by(_r.user_id, _r.channel)
    )


def _engagement_by_address(since: datetime) -> Select[str, str, int, datetime]:
    """Select the events that name the address only. A user may have several, and share one with others."""
    return (
        select(_c.user_id, _r.channel, func.count(_r.id.distinct()), func.max(_r.occurred_at))
        .join_from(contact_points, receipts, _r.address_digest == _c.address_digest)
        .where(_r.user_id.is_(None), _BY_PEOPLE, _r.occurred_at >= since)
        .group_by(_c.user_id, _r.channel)
    )


def _engagement_in_feed(since: datetime) -> Select[str, str, int, datetime]:
    # an item that was read was seen before
    last_at = func.coalesce(_i.read_at, _i.seen_at)
    return (
        select(_i.user_id, literal(FEED_CHANNEL), func.count(), func.max(last_at, type_=Instant()))
        .where(last_at >= since)
        .group_by(_i.user_id)
    )


class _RecipientRow(NamedTuple):
    user_id: str
    locale: str
    timezone: str
    schedule: UserSchedule
    preferences: _Entries
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
        category: str | None,
        channel: str | None,
        entry_subject: str | None,
        enabled: bool | None,
        condition: dict[str, object] | None,
        contact_channel: str | None,
        contact_point_id: str | None,
        device_timezone: str | None,
        *schedule: Any,
    ) -> None:
        if (entry := self._by_key.get(key)) is None:
            entry = self._by_key[key] = _RecipientRow(
                user_id, locale or "en", timezone or "UTC", to_schedule(*schedule), {}, {}, {}
            )
        if category is not None and channel is not None and entry_subject is not None and enabled is not None:
            entry_key = (category, channel, entry_subject)
            if entry_key not in entry.preferences:
                entry.preferences[entry_key] = to_preference(*entry_key, enabled, condition)
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
                tuple(entry.preferences.values()),
                {channel: tuple(ids) for channel, ids in entry.targets.items()},
                entry.schedule,
                entry.target_timezones,
            )
            for key, entry in self._by_key.items()
        }
