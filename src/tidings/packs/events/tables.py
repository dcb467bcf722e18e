"""The tables of the events pack, in the engine's `metadata`."""

from sqlalchemy import Column, ForeignKey, Index, Integer, String, Table, Text

from tidings.stores.schema.tables import BinaryText, Instant, metadata

events = Table(
    "events",
    metadata,
    # UUIDv7 as text on PostgreSQL too: an id in a URL that is not a UUID is an unknown event, not a database error
    Column("id", BinaryText(36), primary_key=True),
    Column("title", String(200), nullable=False),
    Column("description", Text, nullable=False),
    Column("start_date", Instant, nullable=False),
    Column("end_date", Instant),
    Column("venue", String(300)),
    Column("address", String(300)),
    Column("city", BinaryText(200)),
    # IANA name of the zone of the venue
    Column("timezone", String(64)),
    Column("host_id", BinaryText(200)),
    Column("status", BinaryText(16), nullable=False),
    Column("first_published_at", Instant),
    Column("version", Integer, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    # lists, newest first: by status, by city
    Index("ix_events_status", "status", "id"),
    Index("ix_events_city", "city", "id"),
)

tickets = Table(
    "tickets",
    metadata,
    Column("event_id", BinaryText(36), ForeignKey("events.id", ondelete="CASCADE"), primary_key=True),
    Column("user_id", BinaryText(200), ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    #: `active` or `returned`
    Column("status", BinaryText(16), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("returned_at", Instant),
    # the audience `ticket_holders`, in user order
    Index("ix_tickets_holders", "event_id", "status", "user_id"),
    # erasing a user
    Index("ix_tickets_user", "user_id"),
)

favourites = Table(
    "favourites",
    metadata,
    # the primary key serves the audience `favourited`, in user order
    Column("event_id", BinaryText(36), ForeignKey("events.id", ondelete="CASCADE"), primary_key=True),
    Column("user_id", BinaryText(200), ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    # the event's host, repeated here so that `favourited_host` reads one range of one index
    Column("host_id", BinaryText(200)),
    Column("created_at", Instant, nullable=False),
    # the audience `favourited_host`, in user order; the event id decides which row of a user is selected
    Index("ix_favourites_host", "host_id", "user_id", "event_id"),
    # erasing a user
    Index("ix_favourites_user", "user_id"),
)
