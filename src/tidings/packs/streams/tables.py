"""The tables of the streams pack: in the engine's `metadata`, and those of the pack's own migrations."""

from sqlalchemy import Column, Float, Index, Integer, MetaData, Table, text

from tidings.stores.schema.tables import BinaryText, Instant, metadata
from tidings.stores.sql.ids import Id

WHERE_OPEN = text("ended_at IS NULL")
WHERE_NOTICE_DUE = text("notice_due_at IS NOT NULL")

stream_settings = Table(
    "stream_settings",
    metadata,
    #: `event` or `host`
    Column("scope", BinaryText(8), primary_key=True),
    #: id of the event, or of the host
    Column("owner", BinaryText(200), primary_key=True),
    Column("grace_seconds", Float),
    #: `user` or `connection`
    Column("count_by", BinaryText(16)),
)

stream_epochs = Table(
    "stream_epochs",
    metadata,
    # without a foreign key: the record of an end outlives its event
    Column("event_id", BinaryText(36), primary_key=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("started_at", Instant, nullable=False),
    #: the last sign of life of the last viewer
    Column("last_seen_at", Instant),
    Column("ended_at", Instant),
    #: the host when it ended
    Column("host_id", BinaryText(200)),
    #: what became of the notice, see `notices.Notice`
    Column("notice", BinaryText(24)),
    #: when a grouped notice is due
    Column("notice_due_at", Instant),
    Column("notification_id", Id),
    # an event has at most one open epoch; also all open ones at the start of a process
    Index("ix_stream_epochs_open", "event_id", unique=True, sqlite_where=WHERE_OPEN, postgresql_where=WHERE_OPEN),
    Index("ix_stream_epochs_due", "notice_due_at", sqlite_where=WHERE_NOTICE_DUE, postgresql_where=WHERE_NOTICE_DUE),
    # the recent ends of a host; export and erasure
    Index("ix_stream_epochs_host", "host_id", "ended_at"),
)

websocket_tickets = Table(
    "websocket_tickets",
    metadata,
    #: SHA-256 of the ticket, hex
    Column("digest", BinaryText(64), primary_key=True),
    Column("user_id", BinaryText(200), nullable=False),
    #: end of the user token with which the ticket was obtained
    Column("authorized_until", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Index("ix_websocket_tickets_user", "user_id"),
    Index("ix_websocket_tickets_expiry", "expires_at"),
)

#: created by the migrations of the pack
pack_metadata = MetaData()

stream_access = Table(
    "stream_access",
    pack_metadata,
    #: `event` or `host`, as in `stream_settings`
    Column("scope", BinaryText(8), primary_key=True),
    Column("owner", BinaryText(200), primary_key=True),
    #: `users` or `ticket_holders`
    Column("access", BinaryText(16), nullable=False),
)
