"""The plan: options of notifications (steps, digest, throttle), and the rule that holds a delivery."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("notifications", sa.Column("plan", DOCUMENT, nullable=True))
    op.add_column("deliveries", sa.Column("held_by", sa.String(length=32), nullable=True))


def downgrade() -> None:
    op.drop_column("deliveries", "held_by")
    op.drop_column("notifications", "plan")
