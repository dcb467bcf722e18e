"""The tables of digests: windows that collect notifications for users, and their items."""

from sqlalchemy import Column, ForeignKey, Index, Integer, String, Table, text

from tidings.stores.schema.tables import BinaryText, Instant, Json, metadata
from tidings.stores.sql.ids import Id

#: conditions of partial indexes. A query must contain the condition literally for its plan to use the index.
WHERE_OPEN = text("state = 'open'")
WHERE_CLOSED = text("closed_at IS NOT NULL")
WHERE_NOTIFIED = text("notification_id IS NOT NULL")

digests = Table(
    "digests",
    metadata,
    Column("id", Id, primary_key=True),
    Column("user_id", BinaryText(200), ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("template_code", BinaryText(64), nullable=False),
    Column("category", BinaryText(64), nullable=False),
    Column("rule_id", BinaryText(32), nullable=False),
    # value of the key expression
    Column("key", BinaryText(200), nullable=False),
    Column("opened_at", Instant, nullable=False),
    Column("closes_at", Instant, nullable=False),
    # a sliding window is not extended beyond. None: it does not slide
    Column("latest_close_at", Instant),
    Column("state", BinaryText(8), nullable=False),
    # notifications that joined it, with those that were sent at once: the first, or none
    Column("item_count", Integer, nullable=False),
    Column("sent_count", Integer, nullable=False),
    # it closes early with so many collected. None: it does not
    Column("max_items", Integer),
    # items that are overdue for longer are left out. None: it closes however late
    Column("catch_up_seconds", Integer),
    Column("closed_at", Instant),
    # what it became. None: it is open, or nothing was left
    Column("notification_id", Id),
    # version of the template that rendered its items
    Column("template_version", Integer),
    # one open digest per key, however many transactions open it
    Index(
        "ux_digests_open",
        "user_id",
        "template_code",
        "rule_id",
        "key",
        unique=True,
        sqlite_where=WHERE_OPEN,
        postgresql_where=WHERE_OPEN,
    ),
    Index("ix_digests_due", "closes_at", sqlite_where=WHERE_OPEN, postgresql_where=WHERE_OPEN),
    Index("ix_digests_user", "user_id", "id"),
    Index("ix_digests_key", "key", "id"),
    Index("ix_digests_closed", "closed_at", sqlite_where=WHERE_CLOSED, postgresql_where=WHERE_CLOSED),
    Index("ix_digests_notification", "notification_id", sqlite_where=WHERE_NOTIFIED, postgresql_where=WHERE_NOTIFIED),
)

digest_items = Table(
    "digest_items",
    metadata,
    # one item per notification and user, so that fan-out can be repeated
    Column("notification_id", Id, ForeignKey("notifications.id", ondelete="CASCADE"), primary_key=True),
    Column("user_id", BinaryText(200), primary_key=True),
    Column("digest_id", Id, ForeignKey("digests.id", ondelete="CASCADE"), nullable=False),
    Column("accepted_at", Instant, nullable=False),
    Column("state", BinaryText(16), nullable=False),
    # why it was left out, and the inputs of that decision
    Column("reason", String(32)),
    Column("detail", Json),
    Index("ix_digest_items_order", "digest_id", "accepted_at", "notification_id"),
    sqlite_with_rowid=False,
)
