"""Schedules of users, what is held for a user, time zones of devices, and windows of limits beyond an hour."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from tidings.stores.migrations.indexes import create_index

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
INSTANT = sa.String(32).with_variant(sa.DateTime(timezone=True), "postgresql")


def upgrade() -> None:
    # first, because it commits on PostgreSQL: the following statements and the new revision are one transaction
    create_index("ix_deliveries_held", "deliveries", "user_id", where="state = 'pending' AND held_by IS NOT NULL")
    op.create_table(
        "user_schedules",
        sa.Column("user_id", sa.String(200).with_variant(sa.String(200, collation="C"), "postgresql"), nullable=False),
        sa.Column("timezone", sa.String(length=64), nullable=True),
        sa.Column("quiet_hours", DOCUMENT, nullable=True),
        sa.Column("digest_at", sa.String(length=5), nullable=True),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id"),
        sqlite_with_rowid=False,
    )
    op.add_column("contact_points", sa.Column("timezone", sa.String(length=64), nullable=True))
    op.add_column("user_limits", sa.Column("expires_at", INSTANT, nullable=True))


def downgrade() -> None:
    op.drop_column("user_limits", "expires_at")
    op.drop_column("contact_points", "timezone")
    op.drop_table("user_schedules")
    op.drop_index("ix_deliveries_held", "deliveries")
