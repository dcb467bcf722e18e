"""Which digest a notification was made from, and how late a digest may close."""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

ID = sa.String(36).with_variant(sa.Uuid(as_uuid=False), "postgresql")


def upgrade() -> None:
    # without defaults only the catalog changes; no row is rewritten
    op.add_column("notifications", sa.Column("digest_id", ID, nullable=True))
    op.add_column("digests", sa.Column("catch_up_seconds", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("digests", "catch_up_seconds")
    op.drop_column("notifications", "digest_id")
