"""The feeds of users: items, counters, and recalled notifications."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

ID = sa.String(36).with_variant(sa.Uuid(as_uuid=False), "postgresql")
INSTANT = sa.String(32).with_variant(sa.DateTime(timezone=True), "postgresql")
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
#: index → its columns and its condition. The tables are new and empty, so that building them takes no time
INDEXES = {
    "ix_inbox_items_feed": (("user_id", "state", "position"), None),
    "ix_inbox_items_unread": (("user_id", "state", "position"), "read_at IS NULL"),
    "ix_inbox_items_collapse": (("user_id", "collapse_key"), "collapse_key IS NOT NULL"),
    "ix_inbox_items_due": (("due_at", "user_id"), "due_at IS NOT NULL"),
}


def key(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "inbox_items",
        sa.Column("id", ID, primary_key=True),
        sa.Column("user_id", key(200), sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
        sa.Column("notification_id", ID, nullable=False),
        sa.Column("category", key(64), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("lang", sa.String(35), nullable=False),
        sa.Column("direction", sa.String(3), nullable=False),
        sa.Column("actions", DOCUMENT, nullable=False),
        sa.Column("priority", sa.String(8), nullable=False),
        sa.Column("collapse_key", key(200), nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=True),
        sa.Column("state", key(16), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("due_at", INSTANT, nullable=True),
        sa.Column("seen_at", INSTANT, nullable=True),
        sa.Column("read_at", INSTANT, nullable=True),
        sa.Column("archived_at", INSTANT, nullable=True),
        sa.Column("snoozed_until", INSTANT, nullable=True),
        sa.Column("recalled_at", INSTANT, nullable=True),
    )
    op.create_index("ux_inbox_items_once", "inbox_items", ["notification_id", "user_id"], unique=True)
    for name, (columns, where) in INDEXES.items():
        condition = None if where is None else sa.text(where)
        op.create_index(name, "inbox_items", list(columns), sqlite_where=condition, postgresql_where=condition)
    op.create_table(
        "inbox_counters",
        sa.Column("user_id", key(200), sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("unseen", sa.Integer(), nullable=False),
        sa.Column("unread", sa.Integer(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("last_position", sa.BigInteger(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "inbox_recalls",
        sa.Column("notification_id", ID, primary_key=True),
        sa.Column("recalled_at", INSTANT, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("inbox_recalls")
    op.drop_table("inbox_counters")
    op.drop_table("inbox_items")
