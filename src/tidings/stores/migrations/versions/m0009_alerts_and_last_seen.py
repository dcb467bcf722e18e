"""Operator alerts; when a device was last seen and last reached, and how often it was refused."""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

INSTANT = sa.String(32).with_variant(sa.DateTime(timezone=True), "postgresql")
COLUMNS = ("last_seen_at", "last_delivered_at", "refusals", "refused_for")


def key(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    # Constant defaults change only the catalog; no row is rewritten. Every stored device counts as seen now, so that
    # none is suspended before it had 60 days to visit. The default stays: during a rolling upgrade processes of the
    # previous version insert rows without these columns.
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    op.add_column("push_subscriptions", sa.Column("last_seen_at", INSTANT, nullable=False, server_default=now))
    op.add_column("push_subscriptions", sa.Column("last_delivered_at", INSTANT, nullable=True))
    op.add_column("push_subscriptions", sa.Column("refusals", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("push_subscriptions", sa.Column("refused_for", sa.String(length=200), nullable=True))
    op.create_table(
        "alerts",
        sa.Column("name", key(64), nullable=False),
        sa.Column("subject", key(300), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("since", INSTANT, nullable=False),
        sa.Column("seen_at", INSTANT, nullable=False),
        sa.Column("ends_at", INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("name", "subject"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("alerts")
    for column in COLUMNS:
        op.drop_column("push_subscriptions", column)
