"""The domain events that notifications await before their later steps are planned."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

ID = sa.String(36).with_variant(sa.Uuid(as_uuid=False), "postgresql")
INSTANT = sa.String(32).with_variant(sa.DateTime(timezone=True), "postgresql")


def _binary_text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "awaited_events",
        sa.Column("notification_id", ID, nullable=False),
        sa.Column("event", _binary_text(200), nullable=False),
        sa.Column("user_id", _binary_text(200), nullable=False),
        sa.Column("event_key", _binary_text(210), nullable=False),
        sa.Column("occurred_at", INSTANT, nullable=True),
        sa.ForeignKeyConstraint(["notification_id"], ["notifications.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("notification_id", "event", "user_id"),
        sqlite_with_rowid=False,
    )
    is_awaited = sa.text("occurred_at IS NULL")
    op.create_index(
        "ix_awaited_events_key",
        "awaited_events",
        ["event", "event_key"],
        sqlite_where=is_awaited,
        postgresql_where=is_awaited,
    )
    op.create_index("ix_awaited_events_user", "awaited_events", ["user_id", "notification_id"])


def downgrade() -> None:
    op.drop_table("awaited_events")
