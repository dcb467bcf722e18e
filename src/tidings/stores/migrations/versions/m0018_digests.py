"""Digests: windows that collect notifications for users, and their items."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

INSTANT = sa.String(32).with_variant(sa.DateTime(timezone=True), "postgresql")
ID = sa.String(36).with_variant(sa.Uuid(as_uuid=False), "postgresql")
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def _binary_text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def _create_index(name: str, *columns: str, where: str, unique: bool = False) -> None:
    condition = sa.text(where)
    op.create_index(name, "digests", list(columns), unique=unique, sqlite_where=condition, postgresql_where=condition)


def upgrade() -> None:
    op.create_table(
        "digests",
        sa.Column("id", ID, nullable=False),
        sa.Column("user_id", _binary_text(200), nullable=False),
        sa.Column("template_code", _binary_text(64), nullable=False),
        sa.Column("category", _binary_text(64), nullable=False),
        sa.Column("rule_id", _binary_text(32), nullable=False),
        sa.Column("key", _binary_text(200), nullable=False),
        sa.Column("opened_at", INSTANT, nullable=False),
        sa.Column("closes_at", INSTANT, nullable=False),
        sa.Column("latest_close_at", INSTANT, nullable=True),
        sa.Column("state", _binary_text(8), nullable=False),
        sa.Column("item_count", sa.Integer(), nullable=False),
        sa.Column("sent_count", sa.Integer(), nullable=False),
        sa.Column("max_items", sa.Integer(), nullable=True),
        sa.Column("closed_at", INSTANT, nullable=True),
        sa.Column("notification_id", ID, nullable=True),
        sa.Column("template_version", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    is_open = "state = 'open'"
    _create_index("ux_digests_open", "user_id", "template_code", "rule_id", "key", where=is_open, unique=True)
    _create_index("ix_digests_due", "closes_at", where=is_open)
    op.create_index("ix_digests_user", "digests", ["user_id", "id"])
    op.create_index("ix_digests_key", "digests", ["key", "id"])
    _create_index("ix_digests_closed", "closed_at", where="closed_at IS NOT NULL")
    _create_index("ix_digests_notification", "notification_id", where="notification_id IS NOT NULL")
    op.create_table(
        "digest_items",
        sa.Column("notification_id", ID, nullable=False),
        sa.Column("user_id", _binary_text(200), nullable=False),
        sa.Column("digest_id", ID, nullable=False),
        sa.Column("accepted_at", INSTANT, nullable=False),
        sa.Column("state", _binary_text(16), nullable=False),
        sa.Column("reason", sa.String(32), nullable=True),
        sa.Column("detail", DOCUMENT, nullable=True),
        sa.ForeignKeyConstraint(["notification_id"], ["notifications.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["digest_id"], ["digests.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("notification_id", "user_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_digest_items_order", "digest_items", ["digest_id", "accepted_at", "notification_id"])
    op.add_column("notifications", sa.Column("collected", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("notifications", "collected")
    op.drop_table("digest_items")
    op.drop_table("digests")
