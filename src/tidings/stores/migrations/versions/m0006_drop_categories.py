"""Drops the table of categories: packs declare categories at each start, and the stored ones were never read."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

CODE = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")


def upgrade() -> None:
    op.drop_table("categories")


def downgrade() -> None:
    # the previous version fills the table at its next start
    op.create_table(
        "categories",
        sa.Column("code", CODE, nullable=False),
        sa.Column("title", sa.String(length=200), nullable=False),
        sa.Column("mandatory", sa.Boolean(), nullable=False),
        sa.Column("opt_in", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("code"),
    )
