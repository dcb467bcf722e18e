"""Push subscriptions have a version, so that the outcome of a send applies only to the registration that was tried."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # a constant default: only the catalog changes, no row is rewritten
    op.add_column("push_subscriptions", sa.Column("version", sa.Integer(), nullable=False, server_default="1"))


def downgrade() -> None:
    op.drop_column("push_subscriptions", "version")
