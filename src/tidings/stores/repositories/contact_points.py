"""Contact points: addresses of users per channel, encrypted at rest and searchable by keyed digests."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import delete, select, update

from tidings.model.contact_point import ContactPoint, ContactPointState
from tidings.model.ids import new_id
from tidings.model.user import User
from tidings.ports.store import TargetVersion, Transaction
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.tables import contact_points, users
from tidings.stores.sql.json_params import id_array, text_array
from tidings.stores.sql.upsert import upsert

_c = contact_points.c
_decode = msgspec.msgpack.Decoder(tuple[str, tuple[str, ...]]).decode
#: its contact points are records of their own, `PushSubscription` (`push_subscriptions.py`)
PUSH_CHANNEL = "webpush"
#: field of a user → channel
PROFILE_CHANNELS: Mapping[str, str] = {"email": "email", "phone": "sms"}
CONTACT_POINT_COLUMNS = (
    _c.id,
    _c.channel,
    _c.sealed,
    _c.label,
    _c.attributes,
    _c.state,
    _c.created_at,
    _c.is_from_profile,
    _c.version,
)


class SqlContactPoints:
    """Implements `ports.store.ContactPoints`."""

    def __init__(self, cipher: FieldCipher) -> None:
        self._cipher = cipher

    async def add(self, tx: Transaction, points: Sequence[ContactPoint], now: datetime) -> Sequence[bool]:
        added = []
        # in the order of the key, so that concurrent calls cannot deadlock
        for point in sorted(points, key=self._identity_digest):
            statement = upsert(tx, contact_points).values(self._to_row(point, now))
            result = await connection_of(tx).execute(
                statement.on_conflict_do_nothing(index_elements=[_c.identity_digest])
            )
            added.append(result.rowcount == 1)
        return added

    async def list_by_user(self, tx: Transaction, user_id: str) -> Sequence[ContactPoint]:
        query = (
            select(_c.user_id, *CONTACT_POINT_COLUMNS)
            .where(_c.user_id == user_id, _c.channel != PUSH_CHANNEL)
            .order_by(_c.id)
        )
        return [
            to_contact_point(user, *row, cipher=self._cipher) for user, *row in await connection_of(tx).execute(query)
        ]

    async def get_locked(self, tx: Transaction, user_id: str, contact_point_id: str) -> ContactPoint | None:
        query = select(*CONTACT_POINT_COLUMNS).where(_c.id == contact_point_id, _c.user_id == user_id)
        row = (await connection_of(tx).execute(query.with_for_update())).one_or_none()
        return None if row is None else to_contact_point(user_id, *row, cipher=self._cipher)

    async def update(self, tx: Transaction, point: ContactPoint, now: datetime) -> None:
        row = self._to_row(point, now)
        changed = {name: row[name] for name in ("sealed", "attributes", "state", "state_changed_at", "version")}
        await connection_of(tx).execute(
            update(contact_points).where(_c.id == point.id, _c.user_id == point.user_id).values(**changed)
        )

    async def remove(self, tx: Transaction, user_id: str, contact_point_id: str) -> bool:
        removed = await connection_of(tx).execute(
            delete(contact_points).where(_c.id.in_(id_array([contact_point_id])), _c.user_id == user_id)
        )
        return removed.rowcount == 1

    async def sync_profiles(self, tx: Transaction, people: Sequence[User], now: datetime) -> None:
        by_id = {person.id: person for person in people}
        wanted = [
            ContactPoint(new_id(now), person.id, channel, address, is_from_profile=True)
            for person in by_id.values()
            for field, channel in PROFILE_CHANNELS.items()
            if (address := getattr(person, field)) is not None
        ]
        kept = [self._identity_digest(point) for point in wanted]
        await connection_of(tx).execute(
            delete(contact_points).where(
                _c.user_id.in_(text_array(list(by_id))),
                _c.is_from_profile,
                _c.identity_digest.not_in(text_array(kept)),
            )
        )
        if wanted:
            rows = sorted((self._to_row(point, now) for point in wanted), key=lambda row: str(row["identity_digest"]))
            # the user may have added the same address before; its state stays, as an address that bounced still would
            statement = upsert(tx, contact_points).on_conflict_do_update(
                index_elements=[_c.identity_digest], set_={"is_from_profile": True}
            )
            await connection_of(tx).execute(statement, rows)

    async def list_missing_profiles(self, tx: Transaction, *, limit: int) -> Sequence[User]:
        lacks = [
            (column.is_not(None))
            & ~select(_c.id).where(_c.user_id == users.c.id, _c.channel == channel, _c.is_from_profile).exists()
            for column, channel in ((users.c.email, "email"), (users.c.phone, "sms"))
        ]
        query = select(users).where(lacks[0] | lacks[1]).order_by(users.c.id).limit(limit)
        return [User(**row._mapping) for row in await connection_of(tx).execute(query)]

    async def set_state_of_versions(
        self, tx: Transaction, tried: Sequence[TargetVersion], state: ContactPointState, now: datetime
    ) -> None:
        # one by one: few, and sorted by id, so that two transactions lock them in the same order
        for target in sorted(tried, key=lambda target: target.id):
            await connection_of(tx).execute(
                update(contact_points)
                .where(_c.id == target.id, _c.version == target.version)
                .values(state=state.value, state_changed_at=now)
            )

    async def mark_gone(self, tx: Transaction, channel: str, address: str, now: datetime) -> int:
        gone = (
            update(contact_points)
            .where(
                _c.address_digest == self._address_digest(channel, address),
                _c.channel == channel,
                _c.state == ContactPointState.ACTIVE.value,
            )
            .values(state=ContactPointState.GONE.value, state_changed_at=now)
        )
        return (await connection_of(tx).execute(gone)).rowcount

    async def find_users(self, tx: Transaction, channel: str, address: str) -> Collection[str]:
        digest = self._address_digest(channel, address)
        query = select(_c.user_id).where(_c.address_digest == digest, _c.channel == channel)
        return (await connection_of(tx).scalars(query)).all()

    def _to_row(self, point: ContactPoint, now: datetime) -> dict[str, object]:
        return {
            "id": point.id,
            "user_id": point.user_id,
            "channel": point.channel,
            "identity_digest": self._identity_digest(point),
            "address_digest": self._address_digest(point.channel, point.address),
            "sealed": self._cipher.encrypt(msgspec.msgpack.encode((point.address, point.secrets)), point.id),
            "label": point.label,
            "attributes": dict(point.attributes),
            "state": point.state.value,
            "state_changed_at": now,
            "created_at": point.created_at or now,
            "is_from_profile": point.is_from_profile,
            "version": point.version,
            "last_seen_at": now,
        }

    def _identity_digest(self, point: ContactPoint) -> str:
        return self._cipher.blind_index("\0".join((point.channel, point.user_id, point.address)))

    def _address_digest(self, channel: str, address: str) -> str:
        return compute_address_digest(self._cipher, channel, address)


def compute_address_digest(cipher: FieldCipher, channel: str, address: str) -> str:
    """Return the keyed hash by which an address of a channel is found, whoever has it."""
    # mail systems treat the parts of an address alike in upper and lower case
    return cipher.blind_index("\0".join((channel, address.casefold())))


def to_contact_point(
    user_id: str,
    contact_point_id: str,
    channel: str,
    sealed: bytes,
    label: str | None,
    attributes: Mapping[str, object],
    state: str,
    created_at: datetime,
    is_from_profile: bool,
    version: int,
    *,
    cipher: FieldCipher,
) -> ContactPoint:
    """Return the contact point of `CONTACT_POINT_COLUMNS`. Raises ConfigError for a wrong secret key."""
    address, secrets = _decode(cipher.decrypt(sealed, contact_point_id))
    return ContactPoint(
        contact_point_id,
        user_id,
        channel,
        address,
        label,
        attributes,
        ContactPointState(state),
        created_at,
        bool(is_from_profile),
        version,
        secrets,
    )
