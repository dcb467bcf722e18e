"""The later steps of notifications."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

ID = sa.String(36).with_variant(sa.Uuid(as_uuid=False), "postgresql")
INSTANT = sa.String(32).with_variant(sa.DateTime(timezone=True), "postgresql")
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def _binary_text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "waiting_steps",
        sa.Column("notification_id", ID, nullable=False),
        sa.Column("user_id", _binary_text(200), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("channels", DOCUMENT, nullable=False),
        sa.Column("after_seconds", sa.Integer(), nullable=False),
        sa.Column("unless", _binary_text(16), nullable=True),
        sa.Column("event", _binary_text(200), nullable=True),
        sa.Column("event_key", _binary_text(210), nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("due_at", INSTANT, nullable=True),
        sa.Column("cause", _binary_text(16), nullable=True),
        sa.Column("started_at", INSTANT, nullable=True),
        sa.Column("ended_at", INSTANT, nullable=True),
        sa.Column("ended_by", _binary_text(24), nullable=True),
        sa.ForeignKeyConstraint(["notification_id"], ["notifications.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("notification_id", "user_id", "step"),
        sqlite_with_rowid=False,
    )
    is_due, has_event = sa.text("due_at IS NOT NULL"), sa.text("event IS NOT NULL")
    op.create_index("ix_waiting_steps_due", "waiting_steps", ["due_at"], sqlite_where=is_due, postgresql_where=is_due)
    op.create_index("ix_waiting_steps_user", "waiting_steps", ["user_id", "notification_id", "step"])
    op.create_index(
        "ix_waiting_steps_event",
        "waiting_steps",
        ["event", "event_key"],
        sqlite_where=has_event,
        postgresql_where=has_event,
    )


def downgrade() -> None:
    op.drop_table("waiting_steps")
