"""Locations of users, topics, saved audiences, and the user of an event of a provider."""

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from tidings.stores.migrations.indexes import create_index

revision = "0022"
# the number before it; numbers that are left out here may be added by changes of the same time
down_revision = max(
    number for path in Path(__file__).parent.glob("m[0-9][0-9][0-9][0-9]_*.py") if (number := path.name[1:5]) < revision
)
branch_labels = None
depends_on = None

DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
INSTANT = sa.String(32).with_variant(sa.DateTime(timezone=True), "postgresql")


def _binary_text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    # Without defaults only the catalog changes; no row is rewritten. Creating an index commits the columns, so an
    # interrupted migration finds them.
    exists = op.get_context().dialect.name == "postgresql" or None
    op.add_column("users", sa.Column("country", _binary_text(2), nullable=True), if_not_exists=exists)
    op.add_column("users", sa.Column("latitude", sa.Double(), nullable=True), if_not_exists=exists)
    op.add_column("users", sa.Column("longitude", sa.Double(), nullable=True), if_not_exists=exists)
    op.add_column("receipts", sa.Column("user_id", _binary_text(200), nullable=True), if_not_exists=exists)
    create_index("ix_users_country", "users", "country", "id")
    create_index("ix_users_location", "users", "latitude", "longitude", "id", where="latitude IS NOT NULL")
    create_index("ix_receipts_user", "receipts", "user_id", "occurred_at", where="user_id IS NOT NULL")
    op.create_table(
        "user_topics",
        sa.Column("user_id", _binary_text(200), nullable=False),
        sa.Column("topic", _binary_text(100), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", "topic"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_user_topics_topic", "user_topics", ["topic", "user_id"])
    op.create_table(
        "audiences",
        sa.Column("name", _binary_text(64), nullable=False),
        sa.Column("definition", DOCUMENT, nullable=False),
        sa.Column("description", sa.String(length=300), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("name"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("audiences")
    op.drop_table("user_topics")
    op.drop_index("ix_receipts_user", "receipts")
    op.drop_column("receipts", "user_id")
    op.drop_index("ix_users_location", "users")
    op.drop_index("ix_users_country", "users")
    for name in ("longitude", "latitude", "country"):
        op.drop_column("users", name)
