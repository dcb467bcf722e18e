"""Suppressions: addresses to which nothing more is sent, encrypted at rest and found by their keyed digests."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, or_, select, update

from tidings.model.suppression import Suppression, SuppressionFilter, SuppressionReason
from tidings.ports.store import Transaction
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.transaction import connection_of
from tidings.stores.repositories.contact_points import compute_address_digest
from tidings.stores.schema.provider_tables import suppressions
from tidings.stores.schema.tables import contact_points
from tidings.stores.sql.json_params import id_array, text_array
from tidings.stores.sql.upsert import upsert

_s, _c = suppressions.c, contact_points.c
#: longest stored texts, in characters
_MAX_SOURCE, _MAX_PERSON, _MAX_REASON = 64, 200, 300


class SqlSuppressions:
    """Implements `ports.provider_events.Suppressions`."""

    def __init__(self, cipher: FieldCipher) -> None:
        self._cipher = cipher

    async def add(self, tx: Transaction, suppression: Suppression) -> Suppression:
        assert suppression.address is not None, "only an erasure removes the address"
        row = self._to_row(suppression, suppression.address)
        new = upsert(tx, suppressions).values(row)
        later = {
            "count": _s.count + 1,
            "last_event_at": new.excluded.last_event_at,
            "expires_at": new.excluded.expires_at,
            "source": new.excluded.source,
            "author": new.excluded.author,
            "lifted_at": None,
            "lifted_by": None,
            "lift_reason": None,
        }
        # a cause that was observed before the suppression was lifted is reported late, and must not revive it
        stored = new.on_conflict_do_update(
            index_elements=[_s.address_digest, _s.sender, _s.category, _s.reason],
            set_=later,
            where=or_(_s.lifted_at.is_(None), _s.lifted_at < new.excluded.last_event_at),
        )
        await connection_of(tx).execute(stored)
        query = select(suppressions).where(
            *(_s[name] == row[name] for name in ("address_digest", "sender", "category", "reason"))
        )
        return self._to_suppression((await connection_of(tx).execute(query)).one())

    async def get(self, tx: Transaction, suppression_id: str) -> Suppression | None:
        query = select(suppressions).where(_s.id.in_(id_array([suppression_id])))
        row = (await connection_of(tx).execute(query)).one_or_none()
        return None if row is None else self._to_suppression(row)

    async def page(
        self, tx: Transaction, selected: SuppressionFilter, *, before: str | None, limit: int, now: datetime
    ) -> Sequence[Suppression]:
        query = select(suppressions).order_by(_s.id.desc()).limit(limit)
        if selected.address is not None and selected.channel is not None:
            query = query.where(
                _s.address_digest == compute_address_digest(self._cipher, selected.channel, selected.address)
            )
        elif selected.channel is not None:
            query = query.where(_s.channel == selected.channel)
        if selected.reason is not None:
            query = query.where(_s.reason == selected.reason.value)
        if not selected.include_ended:
            query = query.where(_s.lifted_at.is_(None), or_(_s.expires_at.is_(None), _s.expires_at > now))
        if before is not None:
            query = query.where(_s.id < before)
        return [self._to_suppression(row) for row in await connection_of(tx).execute(query)]

    async def lift(self, tx: Transaction, suppression_id: str, *, by: str, reason: str, now: datetime) -> bool:
        lifted = (
            update(suppressions)
            .where(_s.id.in_(id_array([suppression_id])), _s.lifted_at.is_(None))
            .values(lifted_at=now, lifted_by=by[:_MAX_PERSON], lift_reason=reason[:_MAX_REASON])
        )
        return (await connection_of(tx).execute(lifted)).rowcount == 1

    async def lift_matching(
        self,
        tx: Transaction,
        channel: str,
        address: str,
        reasons: Collection[SuppressionReason],
        *,
        observed_before: datetime,
        senders: Collection[str] | None,
        reason: str,
        now: datetime,
    ) -> int:
        lifted = (
            update(suppressions)
            .where(
                _s.address_digest == compute_address_digest(self._cipher, channel, address),
                _s.reason.in_([one.value for one in sorted(reasons)]),
                _s.last_event_at < observed_before,
                _s.lifted_at.is_(None),
            )
            .values(lifted_at=now, lifted_by="system", lift_reason=reason[:_MAX_REASON])
        )
        if senders is not None:
            lifted = lifted.where(_s.sender.in_(text_array(sorted(senders))))
        return (await connection_of(tx).execute(lifted)).rowcount

    async def list_of_targets(
        self, tx: Transaction, target_ids: Collection[str]
    ) -> Mapping[str, Sequence[Suppression]]:
        return await load_of_targets(tx, target_ids)

    async def list_of_user(self, tx: Transaction, user_id: str) -> Sequence[Suppression]:
        digests = select(_c.address_digest).where(_c.user_id == user_id, _c.address_digest.is_not(None))
        query = select(suppressions).where(_s.address_digest.in_(digests)).order_by(_s.id)
        return [self._to_suppression(row) for row in await connection_of(tx).execute(query)]

    def _to_row(self, suppression: Suppression, address: str) -> dict[str, object]:
        return {
            "id": suppression.id,
            "channel": suppression.channel,
            "address_digest": compute_address_digest(self._cipher, suppression.channel, address),
            "sealed": self._cipher.encrypt(address.encode(), suppression.id),
            "sender": suppression.sender[:_MAX_SOURCE],
            "category": suppression.category,
            "reason": suppression.reason.value,
            "source": suppression.source[:_MAX_SOURCE],
            "author": suppression.author[:_MAX_PERSON],
            "count": suppression.count,
            "created_at": suppression.created_at,
            "last_event_at": suppression.last_event_at,
            "expires_at": suppression.expires_at,
        }

    def _to_suppression(self, row: Row[*tuple[Any, ...]]) -> Suppression:
        return to_suppression(row, self._unseal(row.id, row.sealed))

    def _unseal(self, suppression_id: str, sealed: bytes | None) -> str | None:
        return None if sealed is None else self._cipher.decrypt(sealed, suppression_id).decode()


async def load_of_targets(tx: Transaction, target_ids: Collection[str]) -> Mapping[str, Sequence[Suppression]]:
    """Return contact point id → the suppressions of its address that were not lifted, without the addresses."""
    query = (
        select(_c.id.label("target_id"), suppressions)
        .select_from(_c.id.table.join(suppressions, _s.address_digest == _c.address_digest))
        .where(_c.id.in_(id_array(target_ids)), _s.lifted_at.is_(None))
    )
    found: dict[str, list[Suppression]] = {}
    for row in await connection_of(tx).execute(query):
        found.setdefault(row.target_id, []).append(to_suppression(row, None))
    return found


async def erase_addresses(tx: Transaction, user_id: str) -> None:
    """Delete the addresses of a user from suppressions. Their keyed hashes are left, and still stop messages.

    An address that another user has as well is kept.
    """
    own = select(_c.address_digest).where(_c.user_id == user_id, _c.address_digest.is_not(None))
    others = contact_points.alias("others")
    shared = select(others.c.address_digest).where(
        others.c.address_digest == _s.address_digest, others.c.user_id != user_id
    )
    await connection_of(tx).execute(
        update(suppressions).where(_s.address_digest.in_(own), ~shared.exists()).values(sealed=None)
    )


def to_suppression(row: Row[*tuple[Any, ...]], address: str | None) -> Suppression:
    """Return the suppression of a row with the table's columns."""
    return Suppression(
        id=row.id,
        channel=row.channel,
        reason=SuppressionReason(row.reason),
        address=address,
        created_at=row.created_at,
        last_event_at=row.last_event_at,
        sender=row.sender,
        category=row.category,
        source=row.source,
        author=row.author,
        # `row.count` is the method of a tuple
        count=row._mapping["count"],
        expires_at=row.expires_at,
        lifted_at=row.lifted_at,
        lifted_by=row.lifted_by,
        lift_reason=row.lift_reason,
    )
