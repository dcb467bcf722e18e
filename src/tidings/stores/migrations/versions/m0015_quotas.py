"""Amounts that count against a maximum per day, and the index of a notification's failed deliveries."""

import sqlalchemy as sa
from alembic import op

from tidings.stores.migrations.indexes import create_index

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_index(
        "ix_deliveries_failed",
        "deliveries",
        "notification_id",
        "id",
        where="state IN ('refused', 'gone', 'uncertain', 'expired')",
    )
    op.create_table(
        "quotas",
        sa.Column("day", sa.String(10).with_variant(sa.String(10, collation="C"), "postgresql"), nullable=False),
        sa.Column("key", sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql"), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("maximum", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day", "key"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("quotas")
    op.drop_index("ix_deliveries_failed", "deliveries")
