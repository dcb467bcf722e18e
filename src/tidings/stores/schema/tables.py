"""The tables of the engine, as SQLAlchemy Core. Packs add their tables to the same `metadata`.

Ids are UUIDv7 and sort by time. Instants are UTC. Each index is named and has a query that needs it
(`tests/adapters/query_plans` verifies the plans with a million rows).

On PostgreSQL deliveries, skips and attempts have weekly partitions (`partitions.py`). Their primary key begins with the
partition key: (notification_id, id) for deliveries and skips, which replaces the `ix_…_notification` indexes. Triggers
replace their foreign keys, which would be checked for every row and would lock other tables when a partition is
dropped.
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
    Double,
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

from tidings.stores.sql.ids import Id

metadata = MetaData()

#: conditions of partial indexes. A query must contain the condition literally for its plan to use the index.
WHERE_UNPLANNED = text("state IN ('accepted', 'fanning_out')")
WHERE_PENDING = text("state = 'pending'")
WHERE_BATCHED = text("state = 'pending' AND batch_id IS NOT NULL")
WHERE_UNBATCHED = text("state = 'pending' AND batch_id IS NULL")
WHERE_SENDING = text("state = 'sending'")
#: waits for the end of a rule of the plan, such as quiet hours
WHERE_HELD = text("state = 'pending' AND held_by IS NOT NULL")
WHERE_GONE = text("state = 'gone'")
WHERE_SUBJECT = text("subject IS NOT NULL")
WHERE_DEAD = text("state = 'refused'")
WHERE_FAILED = text("state IN ('refused', 'gone', 'uncertain', 'expired')")
WHERE_HAS_EMAIL = text("email IS NOT NULL")
WHERE_HAS_PHONE = text("phone IS NOT NULL")
WHERE_HAS_LOCATION = text("latitude IS NOT NULL")
WHERE_HAS_TIMEZONE = text("timezone IS NOT NULL")
WHERE_UNREAD = text("read_at IS NULL")
WHERE_COLLAPSES = text("collapse_key IS NOT NULL")
WHERE_HAS_ADDRESS = text("address_digest IS NOT NULL")
WHERE_HAS_DUE = text("due_at IS NOT NULL")


class Instant(TypeDecorator[datetime]):
    """An aware UTC datetime: `timestamptz` on PostgreSQL, on SQLite ISO 8601 text, which sorts by time.

    On SQLite SQLAlchemy's DATETIME takes 3 µs per value, ten times as long. Raises ValueError for a naive datetime.
    """

    impl = String(32)
    cache_ok = True
    #: (value, dialect, result) of the last conversion: rows of one statement share their instants
    _last_conversion: tuple[datetime | None, Dialect | None, Any] = (None, None, None)

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(DateTime(timezone=True) if dialect.name == "postgresql" else String(32))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        last_value, last_dialect, last_result = self._last_conversion
        if value is last_value and dialect is last_dialect:
            return last_result
        if value.tzinfo is None:
            raise ValueError("the datetime must have a time zone")
        utc = value.astimezone(UTC)
        result = utc if dialect.name == "postgresql" else utc.isoformat(timespec="microseconds")
        self._last_conversion = value, dialect, result
        return result

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None or dialect.name == "postgresql":
            native: datetime | None = value
            return native
        return datetime.fromisoformat(value)


#: sorts before every id
MIN_ID = "00000000-0000-0000-0000-000000000000"
#: JSON, indexable on PostgreSQL
Json = JSON().with_variant(JSONB(), "postgresql")
#: a list of integers: milliseconds since 1970
TimestampList = JSON().with_variant(ARRAY(BigInteger()), "postgresql")


def BinaryText(length: int) -> TypeEngine[str]:  # noqa: N802  # named like a type
    """Text compared and sorted by its bytes on both databases. For columns that are searched or sorted by."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


users = Table(
    "users",
    metadata,
    Column("id", BinaryText(200), primary_key=True),
    Column("email", BinaryText(320)),
    Column("phone", BinaryText(20)),
    Column("locale", String(35), nullable=False),
    Column("timezone", String(64), nullable=False),
    Column("city", BinaryText(200)),
    Column("attributes", Json, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    Column("country", BinaryText(2)),
    Column("latitude", Double),
    Column("longitude", Double),
    Index("ix_users_city", "city", "id"),
    # the distinct time zones of all users
    Index("ix_users_timezone", "timezone"),
    Index("ix_users_country", "country", "id"),
    # a radius: a range of latitudes, whose rows are filtered within the index
    Index(
        "ix_users_location",
        "latitude",
        "longitude",
        "id",
        sqlite_where=WHERE_HAS_LOCATION,
        postgresql_where=WHERE_HAS_LOCATION,
    ),
    Index("ix_users_email", "email", sqlite_where=WHERE_HAS_EMAIL, postgresql_where=WHERE_HAS_EMAIL),
    Index("ix_users_phone", "phone", sqlite_where=WHERE_HAS_PHONE, postgresql_where=WHERE_HAS_PHONE),
)

preferences = Table(
    "preferences",
    metadata,
    Column("user_id", BinaryText(200), ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("category", BinaryText(64), primary_key=True),
    Column("channel", BinaryText(32), primary_key=True),
    # '' stands for all, in each column of the key
    Column("subject", BinaryText(200), primary_key=True, server_default=""),
    Column("enabled", Boolean, nullable=False),
    Column("condition", JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")),
    # the audience `opted_in` in user order; the channel selects the row of a user
    Index("ix_preferences_category", "category", "enabled", "user_id", "channel", "subject"),
    # clustered by the primary key: otherwise SQLite reads a whole category per user through the index above
    sqlite_with_rowid=False,
)

#: topics that users subscribed to
user_topics = Table(
    "user_topics",
    metadata,
    Column("user_id", BinaryText(200), ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("topic", BinaryText(100), primary_key=True),
    Column("created_at", Instant, nullable=False),
    # the audience `topic` in user order
    Index("ix_user_topics_topic", "topic", "user_id"),
    sqlite_with_rowid=False,
)

#: audiences that are stored under a name
audiences = Table(
    "audiences",
    metadata,
    Column("name", BinaryText(64), primary_key=True),
    Column("definition", Json, nullable=False),
    Column("description", String(300), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    sqlite_with_rowid=False,
)

#: when users want to receive messages; see `model.user_schedule`. Users without a row have set nothing
user_schedules = Table(
    "user_schedules",
    metadata,
    Column("user_id", BinaryText(200), ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("timezone", String(64)),
    # None: those of the installation
    Column("quiet_hours", Json),
    Column("digest_at", String(5)),
    Column("updated_at", Instant, nullable=False),
    # their distinct time zones
    Index(
        "ix_user_schedules_timezone",
        "timezone",
        sqlite_where=WHERE_HAS_TIMEZONE,
        postgresql_where=WHERE_HAS_TIMEZONE,
    ),
    sqlite_with_rowid=False,
)

#: addresses of users on all channels. Those of Web Push are the subscriptions of browsers
contact_points = Table(
    "contact_points",
    metadata,
    Column("id", Id, primary_key=True),
    Column("user_id", BinaryText(200), ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("channel", BinaryText(32), nullable=False),
    # blind index of channel, user and address: a user has each address once. Of Web Push: of the endpoint, which
    # belongs to one user. A guessed address cannot be tested without the key
    Column("identity_digest", BinaryText(64), nullable=False, unique=True),
    # blind index of channel and address, which several users may share. None for Web Push
    Column("address_digest", BinaryText(64)),
    # the address and the secrets that belong to it, encrypted together with AES-GCM. Of Web Push: the endpoint, p256dh
    # and auth
    Column("sealed", LargeBinary, nullable=False),
    Column("label", String(200)),
    Column("attributes", Json, nullable=False),
    Column("state", BinaryText(16), nullable=False),
    Column("state_changed_at", Instant, nullable=False),
    Column("created_at", Instant, nullable=False),
    # the e-mail address or phone number of the user's profile
    Column("is_from_profile", Boolean, nullable=False),
    # incremented by each registration; an outcome applies only to the version that was tried
    Column("version", Integer, nullable=False),
    # the server of the address, and the key of this server that the address is bound to: push host and VAPID key
    Column("host", String(255)),
    Column("key_id", Id),
    # the IANA time zone that the browser reported; None = it reported none
    Column("timezone", String(64)),
    # when it was last registered
    Column("last_seen_at", Instant, nullable=False),
    # when the push service last accepted a message, to the day
    Column("last_delivered_at", Instant),
    # refusals in a row for the same unknown reason, and that reason
    Column("refusals", Integer, nullable=False, server_default="0"),
    Column("refused_for", String(200)),
    Index("ix_contact_points_user", "user_id", "state"),
    Index(
        "ix_contact_points_address",
        "address_digest",
        sqlite_where=WHERE_HAS_ADDRESS,
        postgresql_where=WHERE_HAS_ADDRESS,
    ),
    Index("ix_contact_points_gone", "state_changed_at", sqlite_where=WHERE_GONE, postgresql_where=WHERE_GONE),
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
    Column("template_code", BinaryText(64), nullable=False),
    Column("template_version", Integer, nullable=False),
    Column("category", BinaryText(64), nullable=False),
    Column("audience", Json, nullable=False),
    Column("variables", Json, nullable=False),
    Column("priority", String(8), nullable=False),
    Column("channels", Json, nullable=False),
    Column("action_url", Text),
    Column("action_text", String(200)),
    Column("source", String(300)),
    Column("subject", BinaryText(200)),
    Column("subject_version", BigInteger),
    Column("subject_state", Json),
    Column("subject_previous_state", Json),
    Column("superseded_by", Id),
    # whether some of it was unsent when it was superseded
    Column("superseded_unsent", Boolean),
    # steps, digest and throttle, see `model.plan_options`
    Column("plan", Json),
    Column("send_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("state", BinaryText(16), nullable=False),
    Column("cursor", BinaryText(200)),
    Column("recipients", Integer, nullable=False),
    Column("deliveries", Integer, nullable=False),
    Column("skipped", Integer, nullable=False),
    # recipients for whom it was collected into a digest
    Column("collected", Integer, nullable=False, server_default="0"),
    # the digest that it was made from
    Column("digest_id", Id),
    Index(
        "ix_notifications_unplanned",
        "id",
        sqlite_where=WHERE_UNPLANNED,
        postgresql_where=WHERE_UNPLANNED,
    ),
    Index("ix_notifications_template", "template_code", "id"),
    Index(
        "ix_notifications_subject",
        "subject",
        "subject_version",
        sqlite_where=WHERE_SUBJECT,
        postgresql_where=WHERE_SUBJECT,
    ),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Id, primary_key=True),
    Column("notification_id", Id, nullable=False),
    Column("user_id", BinaryText(200), nullable=False),
    Column("channel", BinaryText(32), nullable=False),
    Column("target_id", Id, nullable=False),
    Column("lane", BinaryText(8), nullable=False),
    Column("state", BinaryText(16), nullable=False),
    Column("rule", String(64), nullable=False),
    Column("why", String(300)),
    # inputs of the rule of the plan that skipped or holds the delivery
    Column("detail", Json),
    # the rule of the plan that holds it until `due_at`
    Column("held_by", String(32)),
    # None: not in a task yet; waits until `due_at`
    Column("batch_id", Id),
    Column("due_at", Instant, nullable=False),
    Column("attempts", Integer, nullable=False),
    # crash count: workers that died while they held the lease
    Column("crashes", Integer, nullable=False, server_default="0"),
    Column("lease_token", Id),
    Column("lease_until", Instant),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    ForeignKeyConstraint(["notification_id"], ["notifications.id"], ondelete="CASCADE").ddl_if(dialect="sqlite"),
    # one row per recipient and target, so that fan-out can be repeated
    Index("ux_deliveries_once", "notification_id", "user_id", "channel", "target_id", unique=True),
    # pages of a notification's deliveries
    Index("ix_deliveries_notification", "notification_id", "id").ddl_if(dialect="sqlite"),
    Index("ix_deliveries_user", "user_id", "id"),
    # what is held for a user, which is decided again when their schedule changes
    Index("ix_deliveries_held", "user_id", sqlite_where=WHERE_HELD, postgresql_where=WHERE_HELD),
    Index(
        "ix_deliveries_batch",
        "batch_id",
        # excludes rows without a batch: otherwise SQLite would search this index for due rows and sort them
        sqlite_where=WHERE_BATCHED,
        postgresql_where=WHERE_BATCHED,
    ),
    Index(
        "ix_deliveries_due",
        "due_at",
        sqlite_where=WHERE_UNBATCHED,
        postgresql_where=WHERE_UNBATCHED,
    ),
    Index(
        "ix_deliveries_lease",
        "lease_until",
        sqlite_where=WHERE_SENDING,
        postgresql_where=WHERE_SENDING,
    ),
    # dead letters, newest first
    Index(
        "ix_deliveries_dead",
        "id",
        sqlite_where=WHERE_DEAD,
        postgresql_where=WHERE_DEAD,
    ),
    # pages of a notification's failed deliveries, which are few
    Index(
        "ix_deliveries_failed",
        "notification_id",
        "id",
        sqlite_where=WHERE_FAILED,
        postgresql_where=WHERE_FAILED,
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
    # the account that carried the message, and its id there
    Column("provider", String(100)),
    Column("message_id", String(200)),
    # messages that the provider made of it, None = one
    Column("parts", Integer),
    ForeignKeyConstraint(["delivery_id"], ["deliveries.id"], ondelete="CASCADE").ddl_if(dialect="sqlite"),
    # searched only by its key: one B-tree instead of two
    sqlite_with_rowid=False,
    postgresql_partition_by="RANGE (delivery_id)",
)

skips = Table(
    "skips",
    metadata,
    Column("id", Id, primary_key=True),
    Column("notification_id", Id, nullable=False),
    Column("user_id", BinaryText(200), nullable=False),
    Column("channel", BinaryText(32), nullable=False),
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
    Column("lane", BinaryText(8), nullable=False),
    Column("version", Integer, nullable=False),
    Column("due_at", Instant, nullable=False),
    Index("ix_outbox_due", "due_at"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    # `key:` with the id of an API key, or `user:` with the id of a user
    Column("caller", BinaryText(255), primary_key=True),
    Column("key", BinaryText(255), primary_key=True),
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
    Column("digest", BinaryText(64), nullable=False, unique=True),
    Column("prefix", String(16), nullable=False),
    Column("label", String(200), nullable=False),
    Column("scopes", Json, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("revoked_at", Instant),
)

#: when each user was last notified, for the limit per user and hour
user_limits = Table(
    "user_limits",
    metadata,
    Column("user_id", BinaryText(200), ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("scope", BinaryText(64), primary_key=True),
    # oldest first, no more than the limit
    Column("stamps", TimestampList, nullable=False),
    Column("last_at", Instant, nullable=False),
    # when the last stamp leaves the window, if that is longer than an hour; None = after an hour
    Column("expires_at", Instant),
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

#: scheduled tasks: each run is taken by one of all processes
schedules = Table(
    "schedules",
    metadata,
    Column("name", BinaryText(64), primary_key=True),
    Column("next_at", Instant, nullable=False),
    Column("last_at", Instant),
)

#: operator alerts of all processes
alerts = Table(
    "alerts",
    metadata,
    Column("name", BinaryText(64), primary_key=True),
    Column("subject", BinaryText(300), primary_key=True),
    Column("detail", Text, nullable=False),
    Column("since", Instant, nullable=False),
    Column("seen_at", Instant, nullable=False),
    # None: until its cause is over
    Column("ends_at", Instant),
    sqlite_with_rowid=False,
)

#: the feeds of users
inbox_items = Table(
    "inbox_items",
    metadata,
    Column("id", Id, primary_key=True),
    Column("user_id", BinaryText(200), ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    # without a foreign key: items outlive their notification
    Column("notification_id", Id, nullable=False),
    Column("category", BinaryText(64), nullable=False),
    Column("title", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("lang", String(35), nullable=False),
    Column("direction", String(3), nullable=False),
    Column("actions", Json, nullable=False),
    Column("priority", String(8), nullable=False),
    # None: the notification's own id, with which no other item collapses
    Column("collapse_key", BinaryText(200)),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant),
    Column("state", BinaryText(16), nullable=False),
    # order of arrival, unique among the active items of a user: assigned under the lock on the counters, so that an
    # item that is committed late is not placed below one that was already shown
    Column("position", BigInteger, nullable=False),
    # when an active item expires; when a snoozed one returns or expires. None in other states
    Column("due_at", Instant),
    Column("seen_at", Instant),
    Column("read_at", Instant),
    Column("archived_at", Instant),
    Column("snoozed_until", Instant),
    Column("recalled_at", Instant),
    # one item per notification and user, so that a delivery can be repeated
    Index("ux_inbox_items_once", "notification_id", "user_id", unique=True),
    Index("ix_inbox_items_feed", "user_id", "state", "position"),
    Index(
        "ix_inbox_items_unread",
        "user_id",
        "state",
        "position",
        sqlite_where=WHERE_UNREAD,
        postgresql_where=WHERE_UNREAD,
    ),
    Index(
        "ix_inbox_items_collapse",
        "user_id",
        "collapse_key",
        sqlite_where=WHERE_COLLAPSES,
        postgresql_where=WHERE_COLLAPSES,
    ),
    Index("ix_inbox_items_due", "due_at", "user_id", sqlite_where=WHERE_HAS_DUE, postgresql_where=WHERE_HAS_DUE),
)

#: the counters of the feeds. Every change of a user's items locks the user's row first
inbox_counters = Table(
    "inbox_counters",
    metadata,
    Column("user_id", BinaryText(200), ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("unseen", Integer, nullable=False),
    Column("unread", Integer, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("last_position", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

#: recalled notifications: their items are not shown, also if they arrive later
inbox_recalls = Table(
    "inbox_recalls",
    metadata,
    Column("notification_id", Id, primary_key=True),
    Column("recalled_at", Instant, nullable=False),
)

#: amounts that count against a maximum per day, such as segments of SMS to a prefix. Without personal data
quotas = Table(
    "quotas",
    metadata,
    # ISO 8601 date in UTC
    Column("day", BinaryText(10), primary_key=True),
    Column("key", BinaryText(64), primary_key=True),
    Column("used", BigInteger, nullable=False),
    # as configured when it was last counted
    Column("maximum", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

#: key/value metadata of this database: the queue epoch
facts = Table(
    "facts",
    metadata,
    Column("name", BinaryText(64), primary_key=True),
    Column("value", Text, nullable=False),
)
