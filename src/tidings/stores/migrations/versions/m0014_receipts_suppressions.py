"""Receipts of providers, suppressed addresses, and the number of messages that a provider made of one."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

ID = sa.String(36).with_variant(sa.Uuid(as_uuid=False), "postgresql")
INSTANT = sa.String(32).with_variant(sa.DateTime(timezone=True), "postgresql")


def key(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def create_partial_index(name: str, column: str, *columns: str) -> None:
    where = sa.text(f"{column} IS NOT NULL")
    op.create_index(name, "receipts", [column, *columns], sqlite_where=where, postgresql_where=where)


def upgrade() -> None:
    # without a default only the catalog changes, on PostgreSQL once per partition
    op.add_column("attempts", sa.Column("parts", sa.Integer(), nullable=True))
    op.create_table(
        "receipts",
        sa.Column("id", ID, nullable=False),
        sa.Column("event_digest", key(64), nullable=False),
        sa.Column("channel", key(32), nullable=False),
        sa.Column("provider", key(32), nullable=False),
        sa.Column("status", key(16), nullable=True),
        sa.Column("cause", key(16), nullable=False),
        sa.Column("message_id", key(200), nullable=True),
        sa.Column("delivery_id", ID, nullable=True),
        sa.Column("address_digest", key(64), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("occurred_at", INSTANT, nullable=False),
        sa.Column("received_at", INSTANT, nullable=False),
        sa.Column("repeats", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("event_digest"),
    )
    create_partial_index("ix_receipts_message", "message_id")
    create_partial_index("ix_receipts_delivery", "delivery_id")
    create_partial_index("ix_receipts_address", "address_digest", "occurred_at")
    op.create_index("ix_receipts_cause", "receipts", ["cause", "id"])
    op.create_index("ix_receipts_channel", "receipts", ["channel", "id"])
    op.create_index("ix_receipts_received", "receipts", ["received_at"])
    op.create_table(
        "suppressions",
        sa.Column("id", ID, nullable=False),
        sa.Column("channel", key(32), nullable=False),
        sa.Column("address_digest", key(64), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("sender", key(64), nullable=False),
        sa.Column("category", key(64), nullable=False),
        sa.Column("reason", key(32), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("author", sa.String(length=200), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("last_event_at", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=True),
        sa.Column("lifted_at", INSTANT, nullable=True),
        sa.Column("lifted_by", sa.String(length=200), nullable=True),
        sa.Column("lift_reason", sa.String(length=300), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "ux_suppressions_once", "suppressions", ["address_digest", "sender", "category", "reason"], unique=True
    )
    op.create_index("ix_suppressions_channel", "suppressions", ["channel", "id"])
    # numbers that opted out with their provider: START could not make their contact points usable again
    op.execute(
        """INSERT INTO suppressions (id, channel, address_digest, sender, category, reason, source, author, count,
            created_at, last_event_at)
        SELECT id, channel, address_digest, '', '', 'provider_opt_out', 'send', 'system', 1,
            state_changed_at, state_changed_at
        FROM contact_points WHERE state = 'suppressed' AND NOT EXISTS (
            SELECT 1 FROM contact_points AS first WHERE first.state = 'suppressed'
            AND first.address_digest = contact_points.address_digest AND first.id < contact_points.id)"""
    )
    op.execute("UPDATE contact_points SET state = 'active' WHERE state = 'suppressed'")
    op.create_table(
        "provider_activity",
        sa.Column("channel", key(32), nullable=False),
        sa.Column("unanswered_since", INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("channel"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("provider_activity")
    # the previous version knows only the state of a contact point: those that opted out with their provider keep it
    op.execute(
        """UPDATE contact_points SET state = 'suppressed' WHERE state = 'active' AND address_digest IN
        (SELECT address_digest FROM suppressions
        WHERE lifted_at IS NULL AND category = '' AND reason IN ('hard_bounce', 'opt_out', 'provider_opt_out'))"""
    )
    op.drop_table("suppressions")
    op.drop_table("receipts")
    op.drop_column("attempts", "parts")
