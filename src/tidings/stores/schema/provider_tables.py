"""The tables of what providers report: their events, suppressed addresses, and channels without any event."""

from sqlalchemy import Column, Index, Integer, LargeBinary, String, Table, text

from tidings.stores.schema.tables import BinaryText, Instant, metadata
from tidings.stores.sql.ids import Id

#: conditions of partial indexes, as in `tables.py`
WHERE_HAS_MESSAGE = text("message_id IS NOT NULL")
WHERE_HAS_DELIVERY = text("delivery_id IS NOT NULL")
WHERE_HAS_USER = text("user_id IS NOT NULL")
WHERE_HAS_RECIPIENT = text("address_digest IS NOT NULL")

#: every event of a provider. Without foreign keys: an event may come before the outcome of its delivery is stored
receipts = Table(
    "receipts",
    metadata,
    Column("id", Id, primary_key=True),
    # blind index of channel, provider and the provider's id of the event: a repeat is stored once
    Column("event_digest", BinaryText(64), nullable=False, unique=True),
    Column("channel", BinaryText(32), nullable=False),
    Column("provider", BinaryText(32), nullable=False),
    # None: it says nothing of the status of the message
    Column("status", BinaryText(16)),
    Column("cause", BinaryText(16), nullable=False),
    Column("message_id", BinaryText(200)),
    Column("delivery_id", Id),
    # blind index of channel and recipient, as in `contact_points`
    Column("address_digest", BinaryText(64)),
    # whose message it was; None: known by the recipient's address only
    Column("user_id", BinaryText(200)),
    # the recipient and the provider's text, which often contains the address, encrypted with AES-GCM
    Column("sealed", LargeBinary, nullable=False),
    Column("code", String(64)),
    # by the provider's clock
    Column("occurred_at", Instant, nullable=False),
    Column("received_at", Instant, nullable=False),
    Column("repeats", Integer, nullable=False),
    Index("ix_receipts_message", "message_id", sqlite_where=WHERE_HAS_MESSAGE, postgresql_where=WHERE_HAS_MESSAGE),
    Index("ix_receipts_delivery", "delivery_id", sqlite_where=WHERE_HAS_DELIVERY, postgresql_where=WHERE_HAS_DELIVERY),
    Index(
        "ix_receipts_address",
        "address_digest",
        "occurred_at",
        sqlite_where=WHERE_HAS_RECIPIENT,
        postgresql_where=WHERE_HAS_RECIPIENT,
    ),
    # opens and clicks of a user
    Index("ix_receipts_user", "user_id", "occurred_at", sqlite_where=WHERE_HAS_USER, postgresql_where=WHERE_HAS_USER),
    Index("ix_receipts_cause", "cause", "id"),
    Index("ix_receipts_channel", "channel", "id"),
    Index("ix_receipts_received", "received_at"),
)

#: addresses to which nothing more is sent. A lifted one is kept, with who lifted it and why
suppressions = Table(
    "suppressions",
    metadata,
    Column("id", Id, primary_key=True),
    Column("channel", BinaryText(32), nullable=False),
    # blind index of channel and address, as in `contact_points`
    Column("address_digest", BinaryText(64), nullable=False),
    # the address, encrypted with AES-GCM; None after the erasure of its user
    Column("sealed", LargeBinary),
    # empty: every sender; every category
    Column("sender", BinaryText(64), nullable=False),
    Column("category", BinaryText(64), nullable=False),
    Column("reason", BinaryText(32), nullable=False),
    Column("source", String(64), nullable=False),
    Column("author", String(200), nullable=False),
    Column("count", Integer, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("last_event_at", Instant, nullable=False),
    Column("expires_at", Instant),
    Column("lifted_at", Instant),
    Column("lifted_by", String(200)),
    Column("lift_reason", String(300)),
    Index("ux_suppressions_once", "address_digest", "sender", "category", "reason", unique=True),
    Index("ix_suppressions_channel", "channel", "id"),
)

#: channels whose providers report events: since when they have taken messages without any report
provider_activity = Table(
    "provider_activity",
    metadata,
    Column("channel", BinaryText(32), primary_key=True),
    # when the first message after the last event was taken; None: an event came since
    Column("unanswered_since", Instant),
    sqlite_with_rowid=False,
)
