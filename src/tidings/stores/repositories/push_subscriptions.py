"""Push subscriptions: the contact points of Web Push. Unique by endpoint, marked as gone before they are deleted."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import msgspec
from msgspec import structs
from sqlalchemy import ColumnElement, Text, bindparam, case, delete, exists, func, literal, select, update

from tidings.model.delivery import DeliveryState, SkipReason
from tidings.model.subscription import (
    ENDED_STATES,
    MAX_ACTIVE_DEVICES,
    MAX_TARGET_REFUSALS,
    PushSubscription,
    SubscriptionState,
    TargetChange,
)
from tidings.ports.store import RegistrationResult, TargetVersion, Transaction
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.transaction import connection_of
from tidings.stores.repositories.contact_points import PUSH_CHANNEL
from tidings.stores.repositories.ended_deliveries import EndedDeliveries, EndedDelivery
from tidings.stores.repositories.user_schedules import release_held
from tidings.stores.schema.tables import WHERE_GONE, Instant, contact_points, deliveries, users
from tidings.stores.sql.ids import Id
from tidings.stores.sql.json_params import encode_rows, id_array, rowset
from tidings.stores.sql.upsert import upsert

#: how old the stored time of the last delivery may become before it is written again
REACHED_PRECISION = timedelta(days=1)

_s = contact_points.c
_is_push = _s.channel == PUSH_CHANNEL
_decode = msgspec.msgpack.Decoder(tuple[str, bytes, bytes]).decode


class SqlSubscriptions:
    """Implements `ports.store.Subscriptions`."""

    def __init__(self, cipher: FieldCipher, ended_deliveries: EndedDeliveries) -> None:
        self._cipher = cipher
        self._ended_deliveries = ended_deliveries

    async def register(
        self, tx: Transaction, subscription: PushSubscription, *, replaces: str | None, now: datetime
    ) -> tuple[RegistrationResult, PushSubscription]:
        subscription = structs.replace(subscription, last_seen_at=now)
        # one registration of a user at a time: parallel ones would not see each other, and exceed the limit of devices
        await connection_of(tx).execute(
            select(users.c.id).where(users.c.id == subscription.user_id).with_for_update(key_share=True)
        )
        known, predecessor = await self._lock_pair(tx, subscription, replaces)
        # another user may register the same browser: proven by the device keys, which only the browser knows
        if known is not None and known.user_id != subscription.user_id and not known.has_keys_of(subscription):
            return RegistrationResult.REFUSED, known
        if known is not None and known.state in ENDED_STATES:
            return RegistrationResult.ENDED, known
        if known is None:
            if predecessor is not None:
                return RegistrationResult.NEW, await self._overwrite(tx, predecessor, subscription, now)
            if await self._add_if_unknown(tx, subscription, now):
                await _remove_surplus(tx, subscription.user_id, keep=subscription.id)
                return RegistrationResult.NEW, subscription
            # another transaction has stored it meanwhile
            return await self.register(tx, subscription, replaces=replaces, now=now)
        if predecessor is not None:
            await self._move_deliveries(tx, predecessor, known, now)
            await self.remove(tx, predecessor.user_id, predecessor.endpoint)
        result = RegistrationResult.KNOWN if known.user_id == subscription.user_id else RegistrationResult.MOVED
        renewed = await self._overwrite(tx, known, subscription, now)
        await _remove_surplus(tx, subscription.user_id, keep=known.id)
        return result, renewed

    async def renew(
        self, tx: Transaction, old: PushSubscription, successor: PushSubscription, now: datetime
    ) -> PushSubscription | None:
        known, current = await self._lock_pair(tx, successor, old.endpoint)
        if current is None or current.version != old.version:
            return None
        if known is None:
            return await self._overwrite(tx, old, successor, now)
        is_same_browser = known.user_id == old.user_id and known.has_keys_of(successor)
        if not is_same_browser or known.state in ENDED_STATES:
            return None
        await self._move_deliveries(tx, old, known, now)
        await self.remove(tx, old.user_id, old.endpoint)
        return await self._overwrite(tx, known, successor, now)

    async def add_unknown(self, tx: Transaction, subscriptions: Sequence[PushSubscription], now: datetime) -> None:
        """Store the subscriptions whose endpoint is not stored yet, in one statement."""
        if subscriptions:
            rows = [self._to_row(subscription, now) for subscription in subscriptions]
            await connection_of(tx).execute(upsert(tx, contact_points).on_conflict_do_nothing(), rows)

    async def list_by_user(self, tx: Transaction, user_id: str) -> Sequence[PushSubscription]:
        rows = await connection_of(tx).execute(
            _SELECT_SUBSCRIPTIONS.where(_s.user_id == user_id, _is_push).order_by(_s.id)
        )
        return [to_subscription(*row, cipher=self._cipher) for row in rows]

    async def remove(self, tx: Transaction, user_id: str, endpoint: str) -> bool:
        digest = self._cipher.blind_index(endpoint)
        removed = await connection_of(tx).execute(
            delete(contact_points).where(_s.identity_digest == digest, _s.user_id == user_id)
        )
        return removed.rowcount == 1

    async def set_state(self, tx: Transaction, ids: Sequence[str], state: SubscriptionState, now: datetime) -> int:
        # in the order of ids, so that two workers that record outcomes of the same devices cannot deadlock
        locked = select(_s.id).where(_s.id.in_(id_array(ids))).order_by(_s.id).with_for_update().subquery()
        updated = await connection_of(tx).execute(
            update(contact_points)
            .where(_s.id.in_(select(locked.c.id)), _s.state != state.value)
            .values(state=state.value, state_changed_at=now)
        )
        return updated.rowcount

    async def set_state_of_versions(
        self, tx: Transaction, tried: Sequence[TargetVersion], state: SubscriptionState, now: datetime
    ) -> int:
        rows = encode_rows([(target.id, target.version) for target in tried])
        parameters = {"rows": rows, "new_state": state.value, "now": now}
        return (await connection_of(tx).execute(_UPDATE_STATE_OF_VERSIONS, parameters)).rowcount

    async def lock_versions(self, tx: Transaction, ids: Collection[str]) -> Mapping[str, int]:
        # in the order of the ids, so that two transactions do not wait for each other
        query = select(_s.id, _s.version).where(_s.id.in_(id_array(ids))).order_by(_s.id).with_for_update()
        return {row.id: row.version for row in await connection_of(tx).execute(query)}

    async def purge(self, tx: Transaction, gone_before: datetime) -> int:
        return (
            await connection_of(tx).execute(
                delete(contact_points).where(WHERE_GONE, _s.state_changed_at < gone_before, _is_push)
            )
        ).rowcount

    async def record_results(
        self, tx: Transaction, changes: Sequence[TargetChange], now: datetime
    ) -> Sequence[tuple[str, str]]:
        reached = [change.target_id for change in changes if change.is_reached]
        if reached:
            # Rows of other transactions are skipped: the time is precise to a day only, and waiting could deadlock. A
            # device that was seen within a day needs no time, so most deliveries write nothing here.
            is_unknown = _s.last_delivered_at.is_(None) | (_s.last_delivered_at < now - REACHED_PRECISION)
            stale = (
                select(_s.id)
                .where(
                    _s.id.in_(id_array(reached)),
                    _is_push,
                    (_s.refusals > 0) | ((_s.last_seen_at < now - REACHED_PRECISION) & is_unknown),
                )
                .with_for_update(skip_locked=True)
            )
            await connection_of(tx).execute(
                update(contact_points)
                .where(_s.id.in_(stale))
                .values(last_delivered_at=now, refusals=0, refused_for=None)
            )
        suspended = []
        # few, and sorted by id, so that two transactions lock them in the same order
        for change in changes:
            if change.refusals:
                suspended += await self._count_refusals(tx, change, now)
        return suspended

    async def _count_refusals(self, tx: Transaction, change: TargetChange, now: datetime) -> list[tuple[str, str]]:
        total: ColumnElement[int] = literal(change.refusals)
        if change.continues:
            total = case((_s.refused_for == change.reason, _s.refusals + change.refusals), else_=change.refusals)
        is_active = _s.state == SubscriptionState.ACTIVE.value
        is_suspended = total >= MAX_TARGET_REFUSALS
        rows = await connection_of(tx).execute(
            update(contact_points)
            .where(_s.id == change.target_id, is_active, _is_push)
            .values(
                refusals=total,
                refused_for=change.reason,
                state=case((is_suspended, SubscriptionState.SUSPENDED.value), else_=_s.state),
                state_changed_at=case((is_suspended, literal(now, Instant)), else_=_s.state_changed_at),
            )
            .returning(_s.host, _s.refused_for, _s.state)
        )
        return [(host, reason) for host, reason, state in rows if state == SubscriptionState.SUSPENDED.value]

    async def list_unseen(self, tx: Transaction, *, before: datetime, limit: int) -> Sequence[str]:
        query = (
            select(_s.id)
            .where(
                _is_push,
                _s.state == SubscriptionState.ACTIVE.value,
                _s.last_seen_at < before,
                _s.last_delivered_at.is_(None) | (_s.last_delivered_at < before),
            )
            .limit(limit)
        )
        return (await connection_of(tx).scalars(query)).all()

    async def purge_unused(self, tx: Transaction, *, before: datetime) -> int:
        states = (SubscriptionState.SUSPENDED.value, SubscriptionState.REBIND.value)
        deleted = await connection_of(tx).execute(
            delete(contact_points).where(_is_push, _s.state.in_(states), _s.state_changed_at < before)
        )
        return deleted.rowcount

    async def count_gone(self, tx: Transaction, *, since: datetime) -> tuple[int, int]:
        total = select(func.count()).select_from(contact_points).where(_is_push)
        gone = total.where(WHERE_GONE, _s.state_changed_at >= since)
        return (await connection_of(tx).scalar(gone)) or 0, (await connection_of(tx).scalar(total)) or 0

    async def _lock_pair(
        self, tx: Transaction, subscription: PushSubscription, replaces: str | None
    ) -> tuple[PushSubscription | None, PushSubscription | None]:
        """Return the row with the subscription's endpoint, and the user's own row that it replaces.

        They are locked until the end, in the order of their key, so that two tabs that report the same change cannot
        deadlock.
        """
        digest = self._cipher.blind_index(subscription.endpoint)
        old_digest = None if replaces is None else self._cipher.blind_index(replaces)
        query = _SELECT_LOCKED.where(_s.identity_digest.in_([digest, old_digest or digest])).order_by(
            _s.identity_digest
        )
        rows = {
            row_digest: to_subscription(*row, cipher=self._cipher)
            for row_digest, *row in await connection_of(tx).execute(query.with_for_update())
        }
        old = rows.get(old_digest) if old_digest != digest else None
        return rows.get(digest), old if old is not None and old.user_id == subscription.user_id else None

    async def find_by_endpoint(self, tx: Transaction, endpoint: str) -> PushSubscription | None:
        digest = self._cipher.blind_index(endpoint)
        row = (await connection_of(tx).execute(_SELECT_SUBSCRIPTIONS.where(_s.identity_digest == digest))).one_or_none()
        return None if row is None else to_subscription(*row, cipher=self._cipher)

    async def _add_if_unknown(self, tx: Transaction, subscription: PushSubscription, now: datetime) -> bool:
        """Store a subscription unless its endpoint is stored. Waits for a transaction that is storing the same one."""
        statement = upsert(tx, contact_points).values(self._to_row(subscription, now))
        unknown = statement.on_conflict_do_nothing(index_elements=[_s.identity_digest])
        return (await connection_of(tx).execute(unknown)).rowcount == 1

    async def _overwrite(
        self, tx: Transaction, row: PushSubscription, subscription: PushSubscription, now: datetime
    ) -> PushSubscription:
        """Write a subscription over a locked row, in its next version. The row keeps its id, which deliveries have."""
        renewed = structs.replace(subscription, id=row.id, created_at=row.created_at, last_seen_at=now)
        statement = update(contact_points).where(_s.id == row.id).values(self._to_row(renewed, now))
        version = await connection_of(tx).scalar(statement.values(version=_s.version + 1).returning(_s.version))
        if row.timezone != subscription.timezone:
            await release_held(tx, [subscription.user_id], now)
        return structs.replace(renewed, version=version)

    async def _move_deliveries(
        self, tx: Transaction, old: PushSubscription, new: PushSubscription, now: datetime
    ) -> None:
        """Send what waits for a replaced subscription to its successor, which exists as a row of its own."""
        # devices before deliveries, the order in which outcomes lock them
        await self.lock_versions(tx, [old.id, new.id])
        parameters = {"user": old.user_id, "old": old.id, "new": new.id, "now": now}
        twins = (await connection_of(tx).execute(_SELECT_TWINS, parameters)).all()
        if twins:
            await self._ended_deliveries.lock_steps(tx, [(row.notification_id, row.user_id) for row in twins])
            skipped = await connection_of(tx).execute(_SKIP_TWINS, parameters)
            ended = [EndedDelivery(*row) for row in skipped]
            reason = SkipReason.DEVICE_REPLACED.value
            await self._ended_deliveries.record(tx, ended, DeliveryState.SKIPPED, reason=reason, now=now)
        await connection_of(tx).execute(_MOVE_DELIVERIES, parameters)
        if old.timezone != new.timezone:
            await release_held(tx, [old.user_id], now)

    def _to_row(self, subscription: PushSubscription, now: datetime) -> dict[str, object]:
        plaintext = msgspec.msgpack.encode((subscription.endpoint, subscription.p256dh, subscription.auth))
        return {
            "id": subscription.id,
            "user_id": subscription.user_id,
            "channel": PUSH_CHANNEL,
            "identity_digest": self._cipher.blind_index(subscription.endpoint),
            "host": urlsplit(subscription.endpoint).netloc,
            "sealed": self._cipher.encrypt(plaintext, subscription.id),
            "key_id": subscription.vapid_key_id,
            "label": subscription.device,
            "attributes": {},
            "is_from_profile": False,
            "version": subscription.version,
            "state": SubscriptionState.ACTIVE.value,
            "state_changed_at": now,
            "created_at": subscription.created_at or now,
            "timezone": subscription.timezone,
            "last_seen_at": now,
            "refusals": 0,
            "refused_for": None,
        }


async def _remove_surplus(tx: Transaction, user_id: str, *, keep: str) -> None:
    """Delete the user's active subscriptions beyond the limit, except `keep`: those seen longest ago."""
    is_other = (_s.user_id == user_id, _is_push, _s.state == SubscriptionState.ACTIVE.value, _s.id != keep)
    surplus = (
        select(_s.id).where(*is_other).order_by(_s.last_seen_at.desc(), _s.id.desc()).offset(MAX_ACTIVE_DEVICES - 1)
    )
    await connection_of(tx).execute(delete(contact_points).where(_s.id.in_(surplus)))


#: the columns that `to_subscription` takes after the user id
SUBSCRIPTION_COLUMNS = (
    _s.id,
    _s.sealed,
    _s.key_id,
    _s.state,
    _s.label,
    _s.created_at,
    _s.version,
    _s.last_seen_at,
    _s.timezone,
)
_SELECT_SUBSCRIPTIONS = select(_s.user_id, *SUBSCRIPTION_COLUMNS)
_SELECT_LOCKED = select(_s.identity_digest, _s.user_id, *SUBSCRIPTION_COLUMNS)
_STATES = {state.value: state for state in SubscriptionState}

_tried = rowset("rows", _s.id, _s.version)
_UPDATE_STATE_OF_VERSIONS = (
    update(contact_points)
    .where(_s.id == _tried.c.id, _s.version == _tried.c.version, _s.state != bindparam("new_state", type_=Text))
    .values(state=bindparam("new_state", type_=Text), state_changed_at=bindparam("now", type_=Instant))
)

_d = deliveries.c
_twin = deliveries.alias("twin")
#: a delivery of the same message to the successor, planned while both subscriptions existed
_has_twin = exists().where(
    _twin.c.notification_id == _d.notification_id,
    _twin.c.user_id == _d.user_id,
    _twin.c.channel == _d.channel,
    _twin.c.target_id == bindparam("new", type_=Id),
)
_waits_for_old = (_d.user_id == bindparam("user", type_=Text)) & (_d.target_id == bindparam("old", type_=Id))
_is_unsent_twin = _waits_for_old & (_d.state == DeliveryState.PENDING.value) & _has_twin
_SELECT_TWINS = select(_d.notification_id, _d.user_id).distinct().where(_is_unsent_twin)
_SKIP_TWINS = (
    update(deliveries)
    .where(_is_unsent_twin)
    .values(
        state=DeliveryState.SKIPPED.value,
        why=SkipReason.DEVICE_REPLACED.value,
        batch_id=None,
        updated_at=bindparam("now", type_=Instant),
    )
    .returning(_d.id, _d.notification_id, _d.user_id, _d.channel)
)
_MOVE_DELIVERIES = (
    update(deliveries)
    .where(_waits_for_old, _d.state.in_([DeliveryState.PENDING.value, DeliveryState.SENDING.value]), ~_has_twin)
    .values(target_id=bindparam("new", type_=Id), updated_at=bindparam("now", type_=Instant))
)


def to_subscription(
    user_id: str,
    subscription_id: str,
    ciphertext: bytes,
    vapid_key_id: str,
    state: str,
    device: str | None,
    created_at: datetime,
    version: int,
    last_seen_at: datetime,
    timezone: str | None = None,
    *,
    cipher: FieldCipher,
) -> PushSubscription:
    """Return the subscription of a row of `SUBSCRIPTION_COLUMNS`, with endpoint and keys decrypted.

    Raises ConfigError if the row was encrypted with another key.
    """
    endpoint, p256dh, auth = _decode(cipher.decrypt(ciphertext, subscription_id))
    return PushSubscription(
        subscription_id,
        user_id,
        endpoint,
        p256dh,
        auth,
        vapid_key_id,
        _STATES[state],
        device,
        created_at,
        version,
        last_seen_at,
        timezone,
    )
