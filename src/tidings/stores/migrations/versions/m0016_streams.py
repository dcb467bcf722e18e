"""Live streams: the settings of rooms, the epochs of rooms with their ends, and tickets of WebSockets."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

INSTANT = sa.String(32).with_variant(sa.DateTime(timezone=True), "postgresql")
ID = sa.String(36).with_variant(sa.Uuid(as_uuid=False), "postgresql")


def _binary_text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "stream_settings",
        sa.Column("scope", _binary_text(8), nullable=False),
        sa.Column("owner", _binary_text(200), nullable=False),
        sa.Column("grace_seconds", sa.Float(), nullable=True),
        sa.Column("count_by", _binary_text(16), nullable=True),
        sa.PrimaryKeyConstraint("scope", "owner"),
    )
    op.create_table(
        "stream_epochs",
        sa.Column("event_id", _binary_text(36), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("last_seen_at", INSTANT, nullable=True),
        sa.Column("ended_at", INSTANT, nullable=True),
        sa.Column("host_id", _binary_text(200), nullable=True),
        sa.Column("notice", _binary_text(24), nullable=True),
        sa.Column("notice_due_at", INSTANT, nullable=True),
        sa.Column("notification_id", ID, nullable=True),
        sa.PrimaryKeyConstraint("event_id", "epoch"),
    )
    is_open, has_due = sa.text("ended_at IS NULL"), sa.text("notice_due_at IS NOT NULL")
    op.create_index(
        "ix_stream_epochs_open",
        "stream_epochs",
        ["event_id"],
        unique=True,
        sqlite_where=is_open,
        postgresql_where=is_open,
    )
    op.create_index(
        "ix_stream_epochs_due", "stream_epochs", ["notice_due_at"], sqlite_where=has_due, postgresql_where=has_due
    )
    op.create_index("ix_stream_epochs_host", "stream_epochs", ["host_id", "ended_at"])
    op.create_table(
        "websocket_tickets",
        sa.Column("digest", _binary_text(64), nullable=False),
        sa.Column("user_id", _binary_text(200), nullable=False),
        sa.Column("authorized_until", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_index("ix_websocket_tickets_user", "websocket_tickets", ["user_id"])
    op.create_index("ix_websocket_tickets_expiry", "websocket_tickets", ["expires_at"])


def downgrade() -> None:
    op.drop_table("websocket_tickets")
    op.drop_table("stream_epochs")
    op.drop_table("stream_settings")
