"""Receipts: every event that a provider reported. Addresses and texts of providers are encrypted at rest."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Row, Select, delete, select, union, update

from tidings.model.ids import is_id, new_id
from tidings.model.receipt import EventCause, ProviderEvent, Receipt, ReceiptStatus
from tidings.model.status_event import build_receipt_event
from tidings.ports.store import Transaction
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.transaction import connection_of
from tidings.stores.repositories.contact_points import compute_address_digest
from tidings.stores.repositories.status_events import SqlStatusEvents
from tidings.stores.schema.provider_tables import provider_activity, receipts
from tidings.stores.schema.tables import attempts, contact_points, deliveries
from tidings.stores.sql.json_params import id_array, text_array
from tidings.stores.sql.upsert import upsert

_r, _a, _c, _d = receipts.c, provider_activity.c, contact_points.c, deliveries.c
_decode = msgspec.msgpack.Decoder(tuple[str | None, str]).decode
#: longest stored texts, in characters
_MAX_MESSAGE_ID, _MAX_CODE, _MAX_DETAIL = 200, 64, 500


class SqlReceipts:
    """Implements `ports.provider_events.Receipts`."""

    def __init__(self, cipher: FieldCipher, status_events: SqlStatusEvents) -> None:
        self._cipher = cipher
        self._status_events = status_events

    async def add(self, tx: Transaction, event: ProviderEvent, now: datetime) -> bool:
        row = self._to_row(event, now)
        inserted = await connection_of(tx).execute(
            upsert(tx, receipts).values(row).on_conflict_do_nothing(index_elements=[_r.event_digest])
        )
        if inserted.rowcount == 1:
            if self._status_events.is_enabled and event.delivery_id is not None:
                await self._add_status_event(tx, event, event.delivery_id, now)
            return True
        await connection_of(tx).execute(
            update(receipts).where(_r.event_digest == row["event_digest"]).values(repeats=_r.repeats + 1)
        )
        return False

    async def _add_status_event(self, tx: Transaction, event: ProviderEvent, delivery_id: str, now: datetime) -> None:
        """Tell the host product that a message bounced after it was sent. Few messages do, each with one query."""
        if not is_id(delivery_id) or build_receipt_event(event, "", "", now) is None:
            return
        query = select(_d.notification_id, _d.user_id).where(_d.id == delivery_id)
        if (row := (await connection_of(tx).execute(query)).first()) is None:
            return
        if (built := build_receipt_event(event, row.notification_id, row.user_id, now)) is not None:
            await self._status_events.add(tx, [built], now)

    async def list_of_message(self, tx: Transaction, event: ProviderEvent) -> Sequence[Receipt]:
        delivery_ids = [] if event.delivery_id is None else [event.delivery_id]
        message_ids = [] if event.message_id is None else [_storable(event.message_id, _MAX_MESSAGE_ID)]
        found = await load_of_messages(tx, delivery_ids, message_ids)
        return [receipt for receipt in found if receipt.channel == event.channel]

    async def list_of_address(
        self, tx: Transaction, channel: str, address: str, *, since: datetime, limit: int
    ) -> Sequence[Receipt]:
        digest = compute_address_digest(self._cipher, channel, address)
        query = select(receipts).where(_r.address_digest == digest, _r.occurred_at > since)
        query = query.order_by(_r.occurred_at.desc()).limit(limit)
        return [_to_receipt(row) for row in await connection_of(tx).execute(query)]

    async def page(
        self, tx: Transaction, *, channel: str | None, cause: EventCause | None, before: str | None, limit: int
    ) -> Sequence[Receipt]:
        query = select(receipts).order_by(_r.id.desc()).limit(limit)
        if channel is not None:
            query = query.where(_r.channel == channel)
        if cause is not None:
            query = query.where(_r.cause == cause.value)
        if before is not None:
            query = query.where(_r.id < before)
        return await self._load(tx, query)

    async def list_of_user(self, tx: Transaction, user_id: str) -> Sequence[Receipt]:
        digests = select(_c.address_digest).where(_c.user_id == user_id, _c.address_digest.is_not(None))
        ids = union(
            select(_r.id).where(_r.address_digest.in_(digests)), select(_r.id).where(_r.user_id == user_id)
        ).subquery()
        return await self._load(tx, select(receipts).where(_r.id.in_(select(ids.c.id))).order_by(_r.id))

    async def record_unanswered(self, tx: Transaction, channel: str, now: datetime) -> None:
        new = upsert(tx, provider_activity).values(channel=channel, unanswered_since=now)
        await connection_of(tx).execute(
            new.on_conflict_do_update(
                index_elements=[_a.channel],
                set_={"unanswered_since": new.excluded.unanswered_since},
                where=_a.unanswered_since.is_(None),
            )
        )

    async def record_event(self, tx: Transaction, channel: str) -> None:
        await connection_of(tx).execute(
            update(provider_activity)
            .where(_a.channel == channel, _a.unanswered_since.is_not(None))
            .values(unanswered_since=None)
        )

    async def find_unanswered(self, tx: Transaction, channel: str, before: datetime) -> datetime | None:
        query = select(_a.unanswered_since).where(_a.channel == channel, _a.unanswered_since < before)
        since: datetime | None = await connection_of(tx).scalar(query)
        return since

    async def purge(self, tx: Transaction, before: datetime) -> int:
        return (await connection_of(tx).execute(delete(receipts).where(_r.received_at < before))).rowcount

    async def _load(self, tx: Transaction, query: Select[*tuple[Any, ...]]) -> Sequence[Receipt]:
        return [
            _to_receipt(row, *_decode(self._cipher.decrypt(row.sealed, row.id)))
            for row in await connection_of(tx).execute(query)
        ]

    def _to_row(self, event: ProviderEvent, now: datetime) -> dict[str, object]:
        receipt_id = new_id(now)
        sealed = msgspec.msgpack.encode((event.recipient, event.detail[:_MAX_DETAIL]))
        recipient = event.recipient
        return {
            "id": receipt_id,
            "event_digest": self._cipher.blind_index("\0".join((event.channel, event.provider, event.event_id))),
            "channel": event.channel,
            "provider": event.provider,
            "status": None if event.status is None else event.status.value,
            "cause": event.cause.value,
            "message_id": None if event.message_id is None else _storable(event.message_id, _MAX_MESSAGE_ID),
            "delivery_id": event.delivery_id,
            "user_id": event.user_id,
            "address_digest": None if recipient is None else self._digest(event.channel, recipient),
            "sealed": self._cipher.encrypt(sealed, receipt_id),
            "code": None if event.code is None else _storable(event.code, _MAX_CODE),
            "occurred_at": event.occurred_at,
            "received_at": now,
            "repeats": 0,
        }

    def _digest(self, channel: str, address: str) -> str:
        return compute_address_digest(self._cipher, channel, address)


async def load_of_messages(
    tx: Transaction, delivery_ids: Collection[str], message_ids: Collection[str]
) -> Sequence[Receipt]:
    """Return the events about deliveries, by our ids or the providers', the oldest first, without addresses."""
    matching = union(
        select(_r.id).where(_r.delivery_id.in_(id_array(delivery_ids))),
        select(_r.id).where(_r.message_id.in_(text_array(message_ids))),
    )
    query = select(receipts).where(_r.id.in_(matching.subquery().select())).order_by(_r.occurred_at, _r.id)
    return [_to_receipt(row) for row in await connection_of(tx).execute(query)]


async def remove_of_user(tx: Transaction, user_id: str) -> None:
    """Delete the events about a user's deliveries and addresses, except addresses that another user has as well."""
    own_ids = select(_d.id).where(_d.user_id == user_id)
    message_ids = (
        select(attempts.c.message_id)
        .join(deliveries, _d.id == attempts.c.delivery_id)
        .where(_d.user_id == user_id, attempts.c.message_id.is_not(None))
    )
    others = contact_points.alias("others")
    shared = select(others.c.id).where(others.c.address_digest == _c.address_digest, others.c.user_id != user_id)
    digests = select(_c.address_digest).where(
        _c.user_id == user_id, _c.address_digest.is_not(None), ~shared.correlate(contact_points).exists()
    )
    for condition in (
        _r.delivery_id.in_(own_ids),
        _r.message_id.in_(message_ids),
        _r.address_digest.in_(digests),
        _r.user_id == user_id,
    ):
        await connection_of(tx).execute(delete(receipts).where(condition))


def _to_receipt(row: Row[*tuple[Any, ...]], recipient: str | None = None, detail: str = "") -> Receipt:
    return Receipt(
        id=row.id,
        channel=row.channel,
        provider=row.provider,
        status=None if row.status is None else ReceiptStatus(row.status),
        cause=EventCause(row.cause),
        message_id=row.message_id,
        delivery_id=row.delivery_id,
        recipient=recipient,
        code=row.code,
        detail=detail,
        occurred_at=row.occurred_at,
        received_at=row.received_at,
        repeats=row.repeats,
    )


def _storable(text: str, length: int) -> str:
    """Truncate a text, and replace NUL, which PostgreSQL rejects."""
    return text[:length].replace("\0", "\N{REPLACEMENT CHARACTER}")
