"""The time zone of the venue of an event."""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # without a default only the catalog changes; no row is rewritten
    op.add_column("events", sa.Column("timezone", sa.String(64), nullable=True))


def downgrade() -> None:
    op.drop_column("events", "timezone")
