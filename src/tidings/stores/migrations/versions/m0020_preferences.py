"""Preferences for subjects and with conditions. In each column of the key, an empty text stands for all."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
INDEX = "ix_preferences_category"
OLD_INDEX_COLUMNS = ["category", "enabled", "user_id", "channel"]


def _binary_text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.drop_index(INDEX, "preferences")
    if op.get_context().dialect.name == "postgresql":
        op.add_column("preferences", sa.Column("subject", _binary_text(200), nullable=False, server_default=""))
        op.add_column("preferences", sa.Column("condition", DOCUMENT, nullable=True))
        op.drop_constraint("preferences_pkey", "preferences")
        op.create_primary_key("preferences_pkey", "preferences", ["user_id", "category", "channel", "subject"])
    else:
        _rebuild(
            [
                sa.Column("subject", _binary_text(200), nullable=False, server_default=""),
                sa.Column("condition", DOCUMENT, nullable=True),
            ],
            ["user_id", "category", "channel", "subject"],
        )
    op.create_index(INDEX, "preferences", [*OLD_INDEX_COLUMNS, "subject"])


def downgrade() -> None:
    op.drop_index(INDEX, "preferences")
    # the previous version would take an entry for one subject, or with a condition, as one for all
    op.execute("DELETE FROM preferences WHERE subject <> '' OR condition IS NOT NULL OR category = '' OR channel = ''")
    if op.get_context().dialect.name == "postgresql":
        op.drop_constraint("preferences_pkey", "preferences")
        op.drop_column("preferences", "condition")
        op.drop_column("preferences", "subject")
        op.create_primary_key("preferences_pkey", "preferences", ["user_id", "category", "channel"])
    else:
        _rebuild([], ["user_id", "category", "channel"])
    op.create_index(INDEX, "preferences", OLD_INDEX_COLUMNS)


def _rebuild(new_columns: Sequence[sa.Column[object]], key: Sequence[str]) -> None:
    """Copy the table to one with another primary key, which SQLite cannot change."""
    op.create_table(
        "preferences_new",
        sa.Column("user_id", _binary_text(200), nullable=False),
        sa.Column("category", _binary_text(64), nullable=False),
        sa.Column("channel", _binary_text(32), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        *new_columns,
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint(*key),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO preferences_new (user_id, category, channel, enabled)"
        " SELECT user_id, category, channel, enabled FROM preferences"
    )
    op.drop_table("preferences")
    op.rename_table("preferences_new", "preferences")
