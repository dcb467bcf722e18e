"""The later steps of notifications, one row per notification, user and step; and the events that they await."""

from sqlalchemy import Column, ForeignKey, Index, Integer, Table, text

from tidings.stores.schema.tables import BinaryText, Instant, Json, metadata
from tidings.stores.sql.ids import Id

#: conditions of partial indexes, as in `tables.py`
WHERE_DUE = text("due_at IS NOT NULL")
WHERE_EVENT = text("event IS NOT NULL")
WHERE_AWAITED = text("occurred_at IS NULL")

waiting_steps = Table(
    "waiting_steps",
    metadata,
    Column("notification_id", Id, ForeignKey("notifications.id", ondelete="CASCADE"), primary_key=True),
    # without a foreign key, as in `deliveries`: the fan-out does not lock users
    Column("user_id", BinaryText(200), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("channels", Json, nullable=False),
    Column("after_seconds", Integer, nullable=False),
    # what cancels it; None = nothing
    Column("unless", BinaryText(16)),
    # the domain event that cancels it, and what that must be about
    Column("event", BinaryText(200)),
    Column("event_key", BinaryText(210)),
    Column("created_at", Instant, nullable=False),
    # None: its clock has not started, or it does not wait any more
    Column("due_at", Instant),
    Column("cause", BinaryText(16)),
    Column("started_at", Instant),
    Column("ended_at", Instant),
    Column("ended_by", BinaryText(24)),
    Index("ix_waiting_steps_due", "due_at", sqlite_where=WHERE_DUE, postgresql_where=WHERE_DUE),
    # also the steps of a notification for a user
    Index("ix_waiting_steps_user", "user_id", "notification_id", "step"),
    Index("ix_waiting_steps_event", "event", "event_key", sqlite_where=WHERE_EVENT, postgresql_where=WHERE_EVENT),
    # found by the key: one B-tree instead of two
    sqlite_with_rowid=False,
)

awaited_events = Table(
    "awaited_events",
    metadata,
    Column("notification_id", Id, ForeignKey("notifications.id", ondelete="CASCADE"), primary_key=True),
    Column("event", BinaryText(200), primary_key=True),
    # for whom the event counts; empty = for all users of the notification
    Column("user_id", BinaryText(200), primary_key=True),
    # what the event must be about
    Column("event_key", BinaryText(210), nullable=False),
    # None: it is awaited
    Column("occurred_at", Instant),
    Index("ix_awaited_events_key", "event", "event_key", sqlite_where=WHERE_AWAITED, postgresql_where=WHERE_AWAITED),
    Index("ix_awaited_events_user", "user_id", "notification_id"),
    sqlite_with_rowid=False,
)

#: the conditions of a step that can still start
IS_WAITING = (waiting_steps.c.started_at.is_(None), waiting_steps.c.ended_at.is_(None))
