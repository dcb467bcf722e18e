"""The health of contact points: failures in a row, and the messages missed while a contact point was disabled."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from msgspec import structs
from sqlalchemy import Select, and_, delete, exists, or_, select, update

from tidings.model.contact_health import ContactHealth, ContactResult, DisabledContactPoint, MissedMessages
from tidings.model.contact_point import ContactPoint, ContactPointState
from tidings.model.delivery import DeliveryState, PlannedDelivery, SkipReason
from tidings.model.ids import new_id
from tidings.model.notification import NotificationState
from tidings.model.priority import Lane
from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.repositories.delivery_mapping import INSERT_DELIVERIES, MAX_REASON_LENGTH, delivery_row
from tidings.stores.schema.endpoint_tables import contact_point_health
from tidings.stores.schema.tables import contact_points, deliveries, notifications, skips
from tidings.stores.sql.ids import min_uuid_at
from tidings.stores.sql.json_params import encode_rows, id_array
from tidings.stores.sql.upsert import upsert

_h, _c, _d, _n, _s = contact_point_health.c, contact_points.c, deliveries.c, notifications.c, skips.c
#: a notification lives at most so long, so a delivery that failed at an instant was planned at most so long before
_MAX_LIFETIME = timedelta(days=28)
#: final states of deliveries that did not reach the contact point for its own sake
_FAILED = (DeliveryState.REFUSED.value, DeliveryState.GONE.value, DeliveryState.EXPIRED.value)
#: `deliveries.rule` of a replayed message
REPLAY_RULE = "missed while the contact point was disabled"


class SqlContactHealth:
    """Implements `ports.contact_health.ContactHealthStore`."""

    async def record(
        self, tx: Transaction, results: Sequence[ContactResult], now: datetime
    ) -> Sequence[DisabledContactPoint]:
        reached = [result.contact_point_id for result in results if result.is_reached]
        if reached:
            await connection_of(tx).execute(
                update(contact_point_health)
                .where(_h.contact_point_id.in_(id_array(reached)), _h.failing_since.is_not(None))
                .values(failing_since=None, failures=0, last_error=None)
            )
        disabled: list[DisabledContactPoint] = []
        # one by one: few, and sorted by id, so that two transactions lock them in the same order
        for result in sorted(results, key=lambda result: result.contact_point_id):
            if result.failing_since is not None and (ended := await self._record_failures(tx, result, now)):
                disabled.append(ended)
        return disabled

    async def _record_failures(
        self, tx: Transaction, result: ContactResult, now: datetime
    ) -> DisabledContactPoint | None:
        connection = connection_of(tx)
        # locked: two processes may record failures of the same contact point
        query = select(_c.user_id, _c.channel, _c.label, _c.state, _c.version).where(_c.id == result.contact_point_id)
        point = (await connection.execute(query.with_for_update())).one_or_none()
        if point is None or point.version != result.version or result.failing_since is None:
            return None
        health = await self.get(tx, result.contact_point_id)
        failing_since = health.failing_since or result.failing_since
        error = (result.last_error or "")[:MAX_REASON_LENGTH]
        is_over = result.is_refusing or (
            result.disable_after is not None and now - failing_since >= result.disable_after
        )
        is_ended = is_over and point.state == ContactPointState.ACTIVE.value
        values = {
            "failing_since": failing_since,
            "failures": health.failures + result.failures,
            "last_error": error,
            "missed_since": health.missed_since or (failing_since if is_ended else None),
        }
        await connection.execute(
            upsert(tx, contact_point_health)
            .values(contact_point_id=result.contact_point_id, **values)
            .on_conflict_do_update(index_elements=[_h.contact_point_id], set_=values)
        )
        if not is_ended:
            return None
        await connection.execute(
            update(contact_points)
            .where(_c.id == result.contact_point_id)
            .values(state=ContactPointState.DISABLED.value, state_changed_at=now)
        )
        return DisabledContactPoint(
            result.contact_point_id, point.user_id, point.channel, point.label, failing_since, error, result.is_refusing
        )

    async def get(self, tx: Transaction, contact_point_id: str) -> ContactHealth:
        query = select(_h.failing_since, _h.failures, _h.last_error, _h.missed_since).where(
            _h.contact_point_id == contact_point_id
        )
        row = (await connection_of(tx).execute(query)).one_or_none()
        return ContactHealth() if row is None else ContactHealth(*row)

    async def reset(self, tx: Transaction, contact_point_id: str) -> None:
        await connection_of(tx).execute(
            update(contact_point_health)
            .where(_h.contact_point_id == contact_point_id)
            .values(failing_since=None, failures=0, last_error=None)
        )

    async def clear_missed(self, tx: Transaction, contact_point_id: str) -> None:
        await connection_of(tx).execute(
            delete(contact_point_health).where(_h.contact_point_id == contact_point_id, _h.failing_since.is_(None))
        )
        await connection_of(tx).execute(
            update(contact_point_health).where(_h.contact_point_id == contact_point_id).values(missed_since=None)
        )

    async def list_missed(
        self, tx: Transaction, point: ContactPoint, since: datetime, *, limit: int, now: datetime
    ) -> MissedMessages:
        connection = connection_of(tx)
        sendable = (
            _n.state != NotificationState.CANCELLED.value,
            _n.superseded_by.is_(None),
            _n.expires_at > now,
        )
        skipped_late = and_(_d.state == DeliveryState.SKIPPED.value, _d.why == SkipReason.NO_CONTACT_POINT.value)
        failed = (
            select(_d.id)
            .join(notifications, _n.id == _d.notification_id)
            .where(
                _d.user_id == point.user_id,
                _d.id >= min_uuid_at(since - _MAX_LIFETIME),
                _d.target_id == point.id,
                or_(_d.state.in_(_FAILED), skipped_late),
                _d.updated_at >= since,
                *sendable,
            )
            .order_by(_d.id)
            .limit(limit + 1)
        )
        delivery_ids = (await connection.scalars(failed)).all()
        unplanned = _select_unplanned(point, since).subquery()
        rest = (
            select(_n.id)
            .where(
                _n.id.in_(select(unplanned.c.notification_id)),
                # until then the fan-out writes the counts of the notification
                _n.state == NotificationState.FANNED_OUT.value,
                *sendable,
            )
            .order_by(_n.id)
            .limit(max(limit - len(delivery_ids), 0) + 1)
        )
        notification_ids = (await connection.scalars(rest)).all()
        found = len(delivery_ids) + len(notification_ids)
        kept = delivery_ids[:limit]
        return MissedMessages(tuple(kept), tuple(notification_ids[: limit - len(kept)]), found > limit)

    async def replay(self, tx: Transaction, point: ContactPoint, missed: MissedMessages, now: datetime) -> None:
        connection = connection_of(tx)
        if missed.delivery_ids:
            await connection.execute(
                update(deliveries)
                .where(_d.id.in_(id_array(missed.delivery_ids)), _d.user_id == point.user_id)
                .values(
                    state=DeliveryState.PENDING.value,
                    attempts=0,
                    crashes=0,
                    # without a batch, `batch_due` finds it
                    batch_id=None,
                    due_at=now,
                    lease_token=None,
                    lease_until=None,
                    updated_at=now,
                )
            )
        if missed.notification_ids:
            await self._plan(tx, point, missed.notification_ids, now)

    async def _plan(self, tx: Transaction, point: ContactPoint, ids: Sequence[str], now: datetime) -> None:
        connection = connection_of(tx)
        found = await connection.execute(select(_n.id, _n.priority).where(_n.id.in_(id_array(ids))))
        planned = [
            PlannedDelivery(
                new_id(now),
                notification_id,
                point.user_id,
                point.channel,
                point.id,
                "",
                Lane(priority),
                now,
                REPLAY_RULE,
            )
            for notification_id, priority in found
        ]
        rows = [delivery_row(structs.replace(delivery, batch_id=None)) for delivery in planned]
        await connection.execute(INSERT_DELIVERIES, {"rows": encode_rows(rows), "now": now})
        removed = await connection.execute(
            delete(skips)
            .where(
                _s.notification_id.in_(id_array(ids)),
                _s.user_id == point.user_id,
                _s.channel == point.channel,
                _s.reason == SkipReason.NO_CONTACT_POINT.value,
            )
            .returning(_s.notification_id)
        )
        no_longer_skipped = set(removed.scalars())
        for is_skip_removed in (True, False):
            changed = [one for one in ids if (one in no_longer_skipped) is is_skip_removed]
            if changed:
                await connection.execute(
                    update(notifications)
                    .where(_n.id.in_(id_array(changed)))
                    .values(deliveries=_n.deliveries + 1, skipped=_n.skipped - int(is_skip_removed))
                )


def _select_unplanned(point: ContactPoint, since: datetime) -> Select[str]:
    """Select the notifications to the user on the channel that have no delivery to the contact point."""
    own = deliveries.alias("own")
    is_planned = exists().where(
        own.c.notification_id == _d.notification_id, own.c.user_id == point.user_id, own.c.target_id == point.id
    )
    to_others = select(_d.notification_id).where(
        _d.user_id == point.user_id,
        _d.id >= min_uuid_at(since),
        _d.channel == point.channel,
        _d.target_id != point.id,
        ~is_planned,
    )
    is_planned_too = exists().where(
        own.c.notification_id == _s.notification_id, own.c.user_id == point.user_id, own.c.target_id == point.id
    )
    skipped = select(_s.notification_id).where(
        _s.user_id == point.user_id,
        _s.id >= min_uuid_at(since),
        _s.channel == point.channel,
        _s.reason == SkipReason.NO_CONTACT_POINT.value,
        ~is_planned_too,
    )
    return to_others.union(skipped)  # type: ignore[return-value]
