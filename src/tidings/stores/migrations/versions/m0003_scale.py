"""Rate limits per user, crash counts, heartbeats and schedules; longer callers of idempotency keys."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from tidings.stores.migrations.indexes import create_index

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ID = sa.String(36).with_variant(sa.Uuid(as_uuid=False), "postgresql")
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
INSTANT = sa.String(32).with_variant(sa.DateTime(timezone=True), "postgresql")
STAMPS = sa.JSON().with_variant(postgresql.ARRAY(sa.BigInteger()), "postgresql")


def key(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    # first, because it commits on PostgreSQL: the following statements and the new revision are one transaction
    create_index("ix_deliveries_dead", "deliveries", "id", where="state = 'refused'")
    op.add_column("deliveries", sa.Column("crashes", sa.Integer(), nullable=False, server_default="0"))
    op.create_table(
        "user_limits",
        sa.Column("user_id", key(200), nullable=False),
        sa.Column("scope", key(64), nullable=False),
        sa.Column("stamps", STAMPS, nullable=False),
        sa.Column("last_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", "scope"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_user_limits_last", "user_limits", ["last_at"])
    op.create_table(
        "processes",
        sa.Column("id", ID, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("seen_at", INSTANT, nullable=False),
        sa.Column("detail", DOCUMENT, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "schedules",
        sa.Column("name", key(64), nullable=False),
        sa.Column("next_at", INSTANT, nullable=False),
        sa.Column("last_at", INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("name"),
    )
    _length_of_callers(64, 255)


def downgrade() -> None:
    _length_of_callers(255, 64)
    op.drop_table("schedules")
    op.drop_table("processes")
    op.drop_index("ix_user_limits_last", "user_limits")
    op.drop_table("user_limits")
    op.drop_index("ix_deliveries_dead", "deliveries")
    op.drop_column("deliveries", "crashes")


def _length_of_callers(before: int, after: int) -> None:
    """Change the declared length on SQLite, which does not enforce it. On PostgreSQL it has been 255 since 0001."""
    if op.get_context().dialect.name == "sqlite":
        with op.batch_alter_table("idempotency_keys") as table:
            table.alter_column(
                "caller", existing_type=sa.String(before), type_=sa.String(after), existing_nullable=False
            )
