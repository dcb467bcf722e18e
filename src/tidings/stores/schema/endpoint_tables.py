"""The tables of endpoints that the host product or its customers operate: their failures, and status events."""

from sqlalchemy import Column, ForeignKey, Index, Integer, LargeBinary, String, Table

from tidings.stores.schema.tables import Instant, metadata
from tidings.stores.sql.ids import Id

#: contact points with failures since the last success, on channels that disable them (`ChannelTraits.disable_after`)
contact_point_health = Table(
    "contact_point_health",
    metadata,
    Column("contact_point_id", Id, ForeignKey("contact_points.id", ondelete="CASCADE"), primary_key=True),
    # None: the last attempt succeeded
    Column("failing_since", Instant),
    Column("failures", Integer, nullable=False),
    Column("last_error", String(300)),
    # from when on messages were missed; None: none were, or all of them were replayed
    Column("missed_since", Instant),
)

#: batches of status events that the host product has not confirmed
status_events = Table(
    "status_events",
    metadata,
    Column("id", Id, primary_key=True),
    # a JSON array
    Column("events", LargeBinary, nullable=False),
    Column("count", Integer, nullable=False),
    Column("created_at", Instant, nullable=False),
    # when it is sent next; in the future while a worker sends it
    Column("due_at", Instant, nullable=False),
    Column("attempts", Integer, nullable=False),
    Index("ix_status_events_due", "due_at"),
)
