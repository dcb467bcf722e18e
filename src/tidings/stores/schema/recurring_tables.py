"""The tables of recurring notifications: definitions under a name, and their runs."""

from sqlalchemy import Boolean, Column, ForeignKey, Index, Integer, String, Table, text

from tidings.stores.schema.tables import BinaryText, Instant, Json, metadata
from tidings.stores.sql.ids import Id

#: conditions of partial indexes. A query must contain the condition literally for its plan to use the index.
WHERE_SCHEDULED = text("next_run_at IS NOT NULL")
WHERE_PENDING = text("state = 'pending'")
WHERE_FINISHED = text("finished_at IS NOT NULL")

recurring_notifications = Table(
    "recurring_notifications",
    metadata,
    Column("name", BinaryText(64), primary_key=True),
    Column("description", String(300), nullable=False),
    Column("template_code", BinaryText(100), nullable=False),
    Column("audience", Json, nullable=False),
    Column("variables", Json, nullable=False),
    Column("options", Json, nullable=False),
    # at most one of them: what further variables are pulled from
    Column("variables_url", String(2048)),
    Column("variables_function", String(100)),
    # a list of times such as `MON 09:00`
    Column("times", Json, nullable=False),
    # None: the time zone of each user
    Column("timezone", String(64)),
    # None: until the next run
    Column("catch_up_seconds", Integer),
    Column("is_paused", Boolean, nullable=False),
    # the earliest time that was not acted upon. None: paused
    Column("next_run_at", Instant),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    Index("ix_recurring_due", "next_run_at", sqlite_where=WHERE_SCHEDULED, postgresql_where=WHERE_SCHEDULED),
    sqlite_with_rowid=False,
)

recurring_runs = Table(
    "recurring_runs",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", BinaryText(64), ForeignKey("recurring_notifications.name", ondelete="CASCADE"), nullable=False),
    Column("scheduled_at", Instant, nullable=False),
    Column("deadline", Instant, nullable=False),
    # stored time zones of the users that it is for. None: the whole audience
    Column("timezones", Json),
    Column("is_manual", Boolean, nullable=False),
    Column("state", BinaryText(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    # of the next attempt; in the future while a worker makes one
    Column("due_at", Instant, nullable=False),
    Column("notification_id", Id),
    Column("reason", String(300)),
    Column("finished_at", Instant),
    Index("ix_recurring_runs_name", "name", "id"),
    Index("ix_recurring_runs_due", "due_at", sqlite_where=WHERE_PENDING, postgresql_where=WHERE_PENDING),
    Index("ix_recurring_runs_finished", "finished_at", sqlite_where=WHERE_FINISHED, postgresql_where=WHERE_FINISHED),
)
