"""Schedules of users, and the release of what they hold."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Select, TextClause, func, select, update

from tidings.model.user_schedule import (
    NO_SCHEDULE,
    UserSchedule,
    decode_quiet_hours,
    encode_quiet_hours,
)
from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.tables import WHERE_HAS_TIMEZONE, WHERE_HELD, deliveries, user_schedules, users
from tidings.stores.sql.json_params import text_array
from tidings.stores.sql.upsert import upsert

_s = user_schedules.c
_d = deliveries.c
#: `held_by` of what waits for the end of quiet hours
_QUIET_HOURS = "quiet_hours"
#: what planning and preflight need: join it by the user, and pass its columns to `to_schedule`
SCHEDULE_COLUMNS = (
    _s.timezone.label("schedule_timezone"),
    _s.quiet_hours,
    _s.digest_at,
)


#: `timezone` of profiles in which none was set
_UNSET_ZONE = "UTC"
#: the time zone of a user who is joined with their schedule, empty = none was set. See `rules.quiet_hours.choose_zone`
STORED_ZONE = func.coalesce(_s.timezone, func.nullif(users.c.timezone, _UNSET_ZONE), "")


class SqlUserSchedules:
    """Implements `ports.user_schedules.UserSchedules`."""

    async def get(self, tx: Transaction, user_id: str) -> UserSchedule:
        row = (await connection_of(tx).execute(select(*SCHEDULE_COLUMNS).where(_s.user_id == user_id))).one_or_none()
        return NO_SCHEDULE if row is None else to_schedule(*row)

    async def set(self, tx: Transaction, user_id: str, schedule: UserSchedule, now: datetime) -> None:
        await lock_users(tx, [user_id])
        statement = upsert(tx, user_schedules).values(
            user_id=user_id,
            timezone=schedule.timezone,
            quiet_hours=encode_quiet_hours(schedule.quiet_hours),
            digest_at=schedule.digest_at,
            updated_at=now,
        )
        await connection_of(tx).execute(
            statement.on_conflict_do_update(
                index_elements=[_s.user_id],
                set_={
                    name: statement.excluded[name] for name in ("timezone", "quiet_hours", "digest_at", "updated_at")
                },
            )
        )
        await release_held(tx, [user_id], now)

    async def list_timezones(self, tx: Transaction) -> Sequence[str]:
        profiles, schedules = _select_distinct(users.c.timezone), _select_distinct(_s.timezone, WHERE_HAS_TIMEZONE)
        of_profiles = set(await connection_of(tx).scalars(profiles))
        zones = {"" if zone == _UNSET_ZONE else zone for zone in of_profiles}
        return sorted(zones.union(await connection_of(tx).scalars(schedules)))


def _select_distinct(column: Column[str], *where: TextClause) -> Select[str]:
    """Return a SELECT of the distinct values of an indexed column: one look-up per value, instead of all entries."""
    smallest = select(func.min(column).label("value")).where(*where).cte("found", recursive=True)
    following = select(func.min(column)).where(column > smallest.c.value, *where).scalar_subquery()
    found = smallest.union_all(select(following).where(smallest.c.value.is_not(None)))
    return select(found.c.value).where(found.c.value.is_not(None))


async def release_held(tx: Transaction, user_ids: Collection[str], now: datetime) -> int:
    """Make what quiet hours hold for users due, so that it is decided again. Returns how many deliveries.

    The caller has locked the users, see `lock_users`.
    """
    released = await connection_of(tx).execute(
        update(deliveries)
        .where(WHERE_HELD, _d.held_by == _QUIET_HOURS, _d.batch_id.is_(None), _d.user_id.in_(text_array(user_ids)))
        .values(due_at=now, updated_at=now)
    )
    return released.rowcount


async def lock_users(tx: Transaction, user_ids: Collection[str]) -> None:
    """Wait for the transactions that hold messages for users, and keep others waiting; see `add_held`."""
    query = select(users.c.id).where(users.c.id.in_(text_array(user_ids))).order_by(users.c.id)
    await connection_of(tx).execute(query.with_for_update(key_share=True))


def to_schedule(timezone: str | None, quiet_hours: Any, digest_at: str | None) -> UserSchedule:
    """Return the schedule of the joined columns, which are None for a user without one."""
    if timezone is None and quiet_hours is None and digest_at is None:
        return NO_SCHEDULE
    return UserSchedule(timezone, decode_quiet_hours(quiet_hours), digest_at)
