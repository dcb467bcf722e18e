"""The tables of the engine, as SQLAlchemy Core. Packs add theirs to the same `metadata`.

Ids are UUIDv7 (they sort by time), instants are UTC. Every index is named and has a query that needs it
(`tests/contract/plans/test_query_plans.py` shows that the plans use them at a million rows).
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

metadata = MetaData()

#: conditions of partial indexes; a query must use the very same words for its plan to use the index
UNPLANNED = text("state IN ('accepted', 'fanning_out')")
PENDING = text("state = 'pending'")
BATCHED = text("state = 'pending' AND batch_id IS NOT NULL")
WAITING = text("state = 'pending' AND batch_id IS NULL")
SENDING = text("state = 'sending'")
GONE = text("state = 'gone'")


class Instant(TypeDecorator[datetime]):
    """An aware UTC datetime: `timestamptz` on PostgreSQL, on SQLite ISO 8601 text, which sorts by time.

    Written by hand for SQLite because SQLAlchemy's own DATETIME costs 3 µs a value, ten times as much.
    """

    impl = String(32)
    cache_ok = True
    #: rows written together share their instants: the value converted last, and what it became
    _last: tuple[datetime | None, Dialect | None, Any] = (None, None, None)

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        native = dialect.name == "postgresql"
        return dialect.type_descriptor(DateTime(timezone=True) if native else String(32))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        known, of, text = self._last
        if value is known and of is dialect:
            return text
        if value.tzinfo is None:
            raise ValueError("an instant needs a time zone")
        moment = value.astimezone(UTC)
        written = moment if dialect.name == "postgresql" else moment.isoformat(timespec="microseconds")
        self._last = value, dialect, written
        return written

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None or dialect.name == "postgresql":
            found: datetime | None = value
            return found
        return datetime.fromisoformat(value)


#: sorts before every id
NO_ID = "00000000-0000-0000-0000-000000000000"
#: our own ids: readable text on SQLite, native on PostgreSQL
Id = String(36).with_variant(Uuid(as_uuid=False), "postgresql")
#: JSON, indexable on PostgreSQL
Json = JSON().with_variant(JSONB(), "postgresql")

users = Table(
    "users",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("email", String(320)),
    Column("phone", String(20)),
    Column("locale", String(35), nullable=False),
    Column("timezone", String(64), nullable=False),
    Column("city", String(200)),
    Column("attributes", Json, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    Index("ix_users_city", "city", "id"),
)

categories = Table(
    "categories",
    metadata,
    Column("code", String(64), primary_key=True),
    Column("title", String(200), nullable=False),
    Column("mandatory", Boolean, nullable=False),
    Column("opt_in", Boolean, nullable=False),
)

preferences = Table(
    "preferences",
    metadata,
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("category", String(64), primary_key=True),
    Column("channel", String(32), primary_key=True),
    Column("enabled", Boolean, nullable=False),
    # the audience `opted_in`, in user order (the channel decides which row of a user counts)
    Index("ix_preferences_category", "category", "enabled", "user_id", "channel"),
    # rows in the order of the key: SQLite would else read a whole category for each user through the index above
    sqlite_with_rowid=False,
)

push_subscriptions = Table(
    "push_subscriptions",
    metadata,
    Column("id", Id, primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    # keyed hash: equal endpoints collide, and nobody can test a guessed URL without the key
    Column("endpoint_digest", String(64), nullable=False, unique=True),
    Column("host", String(255), nullable=False),
    # endpoint, p256dh and auth together are the capability to push: one AES-GCM box
    Column("sealed", LargeBinary, nullable=False),
    Column("vapid_key_id", Id, nullable=False),
    Column("device", String(200)),
    Column("state", String(16), nullable=False),
    Column("state_changed_at", Instant, nullable=False),
    Column("created_at", Instant, nullable=False),
    Index("ix_push_subscriptions_user", "user_id", "state"),
    Index(
        "ix_push_subscriptions_gone",
        "state_changed_at",
        sqlite_where=GONE,
        postgresql_where=GONE,
    ),
)

vapid_keys = Table(
    "vapid_keys",
    metadata,
    Column("id", Id, primary_key=True),
    Column("public", LargeBinary, nullable=False),
    Column("sealed_private", LargeBinary, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("retired_at", Instant),
)

notifications = Table(
    "notifications",
    metadata,
    Column("id", Id, primary_key=True),
    Column("template_code", String(64), nullable=False),
    Column("template_version", Integer, nullable=False),
    Column("category", String(64), nullable=False),
    Column("audience", Json, nullable=False),
    Column("variables", Json, nullable=False),
    Column("priority", String(8), nullable=False),
    Column("channels", Json, nullable=False),
    Column("action_url", Text),
    Column("action_text", String(200)),
    Column("source", String(300)),
    Column("send_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("state", String(16), nullable=False),
    Column("cursor", String(200)),
    Column("recipients", Integer, nullable=False),
    Column("deliveries", Integer, nullable=False),
    Column("skipped", Integer, nullable=False),
    Index(
        "ix_notifications_unplanned",
        "id",
        sqlite_where=UNPLANNED,
        postgresql_where=UNPLANNED,
    ),
    Index("ix_notifications_template", "template_code", "id"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Id, primary_key=True),
    Column("notification_id", ForeignKey("notifications.id", ondelete="CASCADE"), nullable=False),
    Column("user_id", String(200), nullable=False),
    Column("channel", String(32), nullable=False),
    Column("target_id", Id, nullable=False),
    Column("lane", String(8), nullable=False),
    Column("state", String(16), nullable=False),
    Column("rule", String(64), nullable=False),
    Column("why", String(300)),
    # None: waits in the database until it is due
    Column("batch_id", Id),
    Column("due_at", Instant, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("lease_token", Id),
    Column("lease_until", Instant),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    # one row per recipient and target, whatever is repeated
    Index("ux_deliveries_once", "notification_id", "user_id", "channel", "target_id", unique=True),
    # a notification's deliveries a page at a time
    Index("ix_deliveries_notification", "notification_id", "id"),
    Index("ix_deliveries_user", "user_id", "id"),
    Index(
        "ix_deliveries_batch",
        "batch_id",
        # without the rows that have none: SQLite would look for the due ones here, and sort them
        sqlite_where=BATCHED,
        postgresql_where=BATCHED,
    ),
    Index(
        "ix_deliveries_due",
        "due_at",
        sqlite_where=WAITING,
        postgresql_where=WAITING,
    ),
    Index(
        "ix_deliveries_lease",
        "lease_until",
        sqlite_where=SENDING,
        postgresql_where=SENDING,
    ),
)

attempts = Table(
    "attempts",
    metadata,
    Column("delivery_id", ForeignKey("deliveries.id", ondelete="CASCADE"), primary_key=True),
    Column("started_at", Instant, primary_key=True),
    Column("number", Integer, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("why", String(300), nullable=False),
    Column("status", Integer),
    Column("finished_at", Instant, nullable=False),
    # nothing but its key is ever searched: one tree instead of two
    sqlite_with_rowid=False,
)

skips = Table(
    "skips",
    metadata,
    Column("id", Id, primary_key=True),
    Column("notification_id", ForeignKey("notifications.id", ondelete="CASCADE"), nullable=False),
    Column("user_id", String(200), nullable=False),
    Column("channel", String(32), nullable=False),
    Column("reason", String(32), nullable=False),
    Column("detail", Json, nullable=False),
    Column("created_at", Instant, nullable=False),
    Index("ux_skips_once", "notification_id", "user_id", "channel", unique=True),
    Index("ix_skips_notification", "notification_id", "id"),
    Index("ix_skips_user", "user_id", "id"),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", Id, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("ref", Id, nullable=False),
    Column("lane", String(8), nullable=False),
    Column("version", Integer, nullable=False),
    Column("due_at", Instant, nullable=False),
    Index("ix_outbox_due", "due_at"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("caller", String(64), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("request_digest", String(64), nullable=False),
    Column("status", Integer),
    Column("body", LargeBinary, nullable=False),
    Column("created_at", Instant, nullable=False),
    Index("ix_idempotency_keys_created", "created_at"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Id, primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("prefix", String(16), nullable=False),
    Column("label", String(200), nullable=False),
    Column("scopes", Json, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("revoked_at", Instant),
)

#: single facts about this database: the queue's epoch
facts = Table(
    "facts",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
