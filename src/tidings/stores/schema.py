"""The tables of the engine, as SQLAlchemy Core. Packs add theirs to the same `metadata`.

Ids are UUIDv7 (they sort by time), instants are UTC. Every index is named and has a query that needs it
(`tests/contract/plans` shows that the plans use them at a million rows).

On PostgreSQL the ledger (deliveries, skips, attempts) is kept in weekly partitions, see `partitions.py`. There the
primary key of deliveries and of skips is (notification_id, id), which does the work of the `ix_…_notification`. And
triggers do the work of the foreign keys, which would be checked for every row and lock whole tables when a week goes.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.types import TypeEngine

from tidings.stores.types import Id

metadata = MetaData()

#: conditions of partial indexes; a query must use the very same words for its plan to use the index
UNPLANNED = text("state IN ('accepted', 'fanning_out')")
PENDING = text("state = 'pending'")
BATCHED = text("state = 'pending' AND batch_id IS NOT NULL")
WAITING = text("state = 'pending' AND batch_id IS NULL")
SENDING = text("state = 'sending'")
GONE = text("state = 'gone'")
DEAD = text("state = 'refused'")
HAS_EMAIL = text("email IS NOT NULL")
HAS_PHONE = text("phone IS NOT NULL")


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
#: JSON, indexable on PostgreSQL
Json = JSON().with_variant(JSONB(), "postgresql")
#: a list of whole numbers
Stamps = JSON().with_variant(ARRAY(BigInteger()), "postgresql")


def Key(length: int) -> TypeEngine[str]:  # noqa: N802  # reads as the type it is
    """Text that rows are found or sorted by: by its bytes, in every database alike."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


users = Table(
    "users",
    metadata,
    Column("id", Key(200), primary_key=True),
    Column("email", Key(320)),
    Column("phone", Key(20)),
    Column("locale", String(35), nullable=False),
    Column("timezone", String(64), nullable=False),
    Column("city", Key(200)),
    Column("attributes", Json, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    Index("ix_users_city", "city", "id"),
    Index("ix_users_email", "email", sqlite_where=HAS_EMAIL, postgresql_where=HAS_EMAIL),
    Index("ix_users_phone", "phone", sqlite_where=HAS_PHONE, postgresql_where=HAS_PHONE),
)

categories = Table(
    "categories",
    metadata,
    Column("code", Key(64), primary_key=True),
    Column("title", String(200), nullable=False),
    Column("mandatory", Boolean, nullable=False),
    Column("opt_in", Boolean, nullable=False),
)

preferences = Table(
    "preferences",
    metadata,
    Column("user_id", Key(200), ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("category", Key(64), primary_key=True),
    Column("channel", Key(32), primary_key=True),
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
    Column("user_id", Key(200), ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    # keyed hash: equal endpoints collide, and nobody can test a guessed URL without the key
    Column("endpoint_digest", Key(64), nullable=False, unique=True),
    Column("host", String(255), nullable=False),
    # endpoint, p256dh and auth together are the capability to push: one AES-GCM box
    Column("sealed", LargeBinary, nullable=False),
    Column("vapid_key_id", Id, nullable=False),
    Column("device", String(200)),
    Column("state", Key(16), nullable=False),
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
    Column("template_code", Key(64), nullable=False),
    Column("template_version", Integer, nullable=False),
    Column("category", Key(64), nullable=False),
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
    Column("state", Key(16), nullable=False),
    Column("cursor", Key(200)),
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
    Column("notification_id", Id, nullable=False),
    Column("user_id", Key(200), nullable=False),
    Column("channel", Key(32), nullable=False),
    Column("target_id", Id, nullable=False),
    Column("lane", Key(8), nullable=False),
    Column("state", Key(16), nullable=False),
    Column("rule", String(64), nullable=False),
    Column("why", String(300)),
    # None: waits in the database until it is due
    Column("batch_id", Id),
    Column("due_at", Instant, nullable=False),
    Column("attempts", Integer, nullable=False),
    # workers that died while they had it
    Column("crashes", Integer, nullable=False, server_default="0"),
    Column("lease_token", Id),
    Column("lease_until", Instant),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    ForeignKeyConstraint(["notification_id"], ["notifications.id"], ondelete="CASCADE").ddl_if(dialect="sqlite"),
    # one row per recipient and target, whatever is repeated
    Index("ux_deliveries_once", "notification_id", "user_id", "channel", "target_id", unique=True),
    # a notification's deliveries a page at a time
    Index("ix_deliveries_notification", "notification_id", "id").ddl_if(dialect="sqlite"),
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
    # dead letters, newest first
    Index(
        "ix_deliveries_dead",
        "id",
        sqlite_where=DEAD,
        postgresql_where=DEAD,
    ),
    postgresql_partition_by="RANGE (notification_id)",
)

attempts = Table(
    "attempts",
    metadata,
    Column("delivery_id", Id, primary_key=True),
    Column("started_at", Instant, primary_key=True),
    Column("number", Integer, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("why", String(300), nullable=False),
    Column("status", Integer),
    Column("finished_at", Instant, nullable=False),
    ForeignKeyConstraint(["delivery_id"], ["deliveries.id"], ondelete="CASCADE").ddl_if(dialect="sqlite"),
    # nothing but its key is ever searched: one tree instead of two
    sqlite_with_rowid=False,
    postgresql_partition_by="RANGE (delivery_id)",
)

skips = Table(
    "skips",
    metadata,
    Column("id", Id, primary_key=True),
    Column("notification_id", Id, nullable=False),
    Column("user_id", Key(200), nullable=False),
    Column("channel", Key(32), nullable=False),
    Column("reason", String(32), nullable=False),
    Column("detail", Json, nullable=False),
    Column("created_at", Instant, nullable=False),
    ForeignKeyConstraint(["notification_id"], ["notifications.id"], ondelete="CASCADE").ddl_if(dialect="sqlite"),
    Index("ux_skips_once", "notification_id", "user_id", "channel", unique=True),
    Index("ix_skips_notification", "notification_id", "id").ddl_if(dialect="sqlite"),
    Index("ix_skips_user", "user_id", "id"),
    postgresql_partition_by="RANGE (notification_id)",
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", Id, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("ref", Id, nullable=False),
    Column("lane", Key(8), nullable=False),
    Column("version", Integer, nullable=False),
    Column("due_at", Instant, nullable=False),
    Index("ix_outbox_due", "due_at"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    # `key:` and a key's id, or `user:` and a user's
    Column("caller", Key(255), primary_key=True),
    Column("key", Key(255), primary_key=True),
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
    Column("digest", Key(64), nullable=False, unique=True),
    Column("prefix", String(16), nullable=False),
    Column("label", String(200), nullable=False),
    Column("scopes", Json, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("revoked_at", Instant),
)

#: when each user was last notified: what the limit per user and hour looks at (MISSION M18)
user_limits = Table(
    "user_limits",
    metadata,
    Column("user_id", Key(200), ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("scope", Key(64), primary_key=True),
    # milliseconds since 1970, oldest first, no more than the limit
    Column("stamps", Stamps, nullable=False),
    Column("last_at", Instant, nullable=False),
    Index("ix_user_limits_last", "last_at"),
    sqlite_with_rowid=False,
)

#: heartbeats of the running processes
processes = Table(
    "processes",
    metadata,
    Column("id", Id, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("seen_at", Instant, nullable=False),
    Column("detail", Json, nullable=False),
)

#: what runs at intervals, once among all processes
schedules = Table(
    "schedules",
    metadata,
    Column("name", Key(64), primary_key=True),
    Column("next_at", Instant, nullable=False),
    Column("last_at", Instant),
)

#: single facts about this database: the queue's epoch
facts = Table(
    "facts",
    metadata,
    Column("name", Key(64), primary_key=True),
    Column("value", Text, nullable=False),
)
