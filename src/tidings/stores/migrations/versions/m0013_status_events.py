"""Failures of contact points in a row, and the status events that are sent to the host product."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

ID = sa.String(36).with_variant(sa.Uuid(as_uuid=False), "postgresql")
INSTANT = sa.String(32).with_variant(sa.DateTime(timezone=True), "postgresql")


def upgrade() -> None:
    op.create_table(
        "contact_point_health",
        sa.Column("contact_point_id", ID, nullable=False),
        sa.Column("failing_since", INSTANT, nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("last_error", sa.String(length=300), nullable=True),
        sa.Column("missed_since", INSTANT, nullable=True),
        sa.ForeignKeyConstraint(["contact_point_id"], ["contact_points.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("contact_point_id"),
    )
    op.create_table(
        "status_events",
        sa.Column("id", ID, nullable=False),
        sa.Column("events", sa.LargeBinary(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("due_at", INSTANT, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_status_events_due", "status_events", ["due_at"])


def downgrade() -> None:
    op.drop_table("status_events")
    op.drop_table("contact_point_health")
    # the previous version does not know this state
    op.execute("UPDATE contact_points SET state = 'gone' WHERE state = 'disabled'")
