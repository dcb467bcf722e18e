"""Deliveries that the preflight check skips store the inputs of that decision, as skips of planning do."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    # without a default only the catalog changes, on PostgreSQL once per partition; no row is rewritten
    op.add_column("deliveries", sa.Column("detail", DOCUMENT, nullable=True))


def downgrade() -> None:
    op.drop_column("deliveries", "detail")
