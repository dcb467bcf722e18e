"""Push subscriptions: unique by endpoint, sealed at rest, removed softly first."""

from collections.abc import Sequence
from datetime import datetime
from hmac import compare_digest
from urllib.parse import urlsplit

import msgspec
from msgspec import structs
from sqlalchemy import delete, func, insert, select, update

from tidings.model.subscription import PushSubscription, SubscriptionState
from tidings.ports.store import Registration, Transaction
from tidings.stores.connection import of
from tidings.stores.json_list import json_ids
from tidings.stores.schema import GONE, push_subscriptions
from tidings.stores.sealing import Sealer

_s = push_subscriptions.c
_decode = msgspec.msgpack.Decoder(tuple[str, bytes, bytes]).decode


class SqlSubscriptions:
    """Implements `ports.store.Subscriptions`."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    async def register(
        self, tx: Transaction, subscription: PushSubscription, *, replaces: str | None, now: datetime
    ) -> tuple[Registration, PushSubscription]:
        known = await self._by_endpoint(tx, subscription.endpoint)
        # the browser may change hands; only the browser itself knows its keys
        if known is not None and known.user_id != subscription.user_id and not _same_keys(known, subscription):
            return Registration.REFUSED, known
        if replaces is not None and replaces != subscription.endpoint:
            await self.remove(tx, subscription.user_id, replaces)
        if known is None:
            await of(tx).execute(insert(push_subscriptions), self._row(subscription, now))
            return Registration.NEW, subscription
        outcome = Registration.KNOWN if known.user_id == subscription.user_id else Registration.MOVED
        renewed = structs.replace(subscription, id=known.id, created_at=known.created_at)
        await of(tx).execute(update(push_subscriptions).where(_s.id == known.id).values(self._row(renewed, now)))
        return outcome, renewed

    async def of_user(self, tx: Transaction, user_id: str) -> Sequence[PushSubscription]:
        rows = await of(tx).execute(_COLUMNS.where(_s.user_id == user_id).order_by(_s.id))
        return [opened(*row, sealer=self._sealer) for row in rows]

    async def remove(self, tx: Transaction, user_id: str, endpoint: str) -> bool:
        digest = self._sealer.digest(endpoint)
        gone = await of(tx).execute(
            delete(push_subscriptions).where(_s.endpoint_digest == digest, _s.user_id == user_id)
        )
        return gone.rowcount == 1

    async def mark(self, tx: Transaction, ids: Sequence[str], state: SubscriptionState, now: datetime) -> int:
        marked = await of(tx).execute(
            update(push_subscriptions)
            .where(_s.id.in_(json_ids(ids)), _s.state != state.value)
            .values(state=state.value, state_changed_at=now)
        )
        return marked.rowcount

    async def purge(self, tx: Transaction, gone_before: datetime) -> int:
        return (
            await of(tx).execute(delete(push_subscriptions).where(GONE, _s.state_changed_at < gone_before))
        ).rowcount

    async def count_gone(self, tx: Transaction, *, since: datetime) -> tuple[int, int]:
        everything = select(func.count()).select_from(push_subscriptions)
        gone = everything.where(GONE, _s.state_changed_at >= since)
        return (await of(tx).scalar(gone)) or 0, (await of(tx).scalar(everything)) or 0

    async def _by_endpoint(self, tx: Transaction, endpoint: str) -> PushSubscription | None:
        digest = self._sealer.digest(endpoint)
        row = (await of(tx).execute(_COLUMNS.where(_s.endpoint_digest == digest))).one_or_none()
        return None if row is None else opened(*row, sealer=self._sealer)

    def _row(self, subscription: PushSubscription, now: datetime) -> dict[str, object]:
        box = msgspec.msgpack.encode((subscription.endpoint, subscription.p256dh, subscription.auth))
        return {
            "id": subscription.id,
            "user_id": subscription.user_id,
            "endpoint_digest": self._sealer.digest(subscription.endpoint),
            "host": urlsplit(subscription.endpoint).netloc,
            "sealed": self._sealer.seal(box, subscription.id),
            "vapid_key_id": subscription.vapid_key_id,
            "device": subscription.device,
            "state": SubscriptionState.ACTIVE.value,
            "state_changed_at": now,
            "created_at": subscription.created_at or now,
        }


def _same_keys(one: PushSubscription, other: PushSubscription) -> bool:
    return compare_digest(one.auth, other.auth) and compare_digest(one.p256dh, other.p256dh)


#: what `opened` takes after the user's id
DEVICE = (_s.id, _s.sealed, _s.vapid_key_id, _s.state, _s.device, _s.created_at)
_COLUMNS = select(_s.user_id, *DEVICE)
_STATES = {state.value: state for state in SubscriptionState}


def opened(
    user_id: str,
    subscription_id: str,
    sealed: bytes,
    vapid_key_id: str,
    state: str,
    device: str | None,
    created_at: datetime,
    *,
    sealer: Sealer,
) -> PushSubscription:
    """Return the subscription of a row of `DEVICE`, its endpoint and keys unsealed."""
    endpoint, p256dh, auth = _decode(sealer.unseal(sealed, subscription_id))
    return PushSubscription(
        subscription_id, user_id, endpoint, p256dh, auth, vapid_key_id, _STATES[state], device, created_at
    )
