"""Notifications have a subject, with a version that orders the notifications on it."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from tidings.stores.migrations.indexes import create_index

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

ID = sa.String(36).with_variant(sa.Uuid(as_uuid=False), "postgresql")
KEY = sa.String(200).with_variant(sa.String(200, collation="C"), "postgresql")
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
COLUMNS: dict[str, sa.types.TypeEngine[Any]] = {
    "subject": KEY,
    "subject_version": sa.BigInteger(),
    "subject_state": DOCUMENT,
    "subject_previous_state": DOCUMENT,
    "superseded_by": ID,
    "superseded_unsent": sa.Boolean(),
}


def upgrade() -> None:
    # Without defaults only the catalog changes; no row is rewritten. Creating the index commits the columns, so an
    # interrupted migration finds them.
    is_postgresql = op.get_context().dialect.name == "postgresql"
    for name, type_ in COLUMNS.items():
        op.add_column("notifications", sa.Column(name, type_, nullable=True), if_not_exists=is_postgresql or None)
    create_index("ix_notifications_subject", "notifications", "subject", "subject_version", where="subject IS NOT NULL")


def downgrade() -> None:
    op.drop_index("ix_notifications_subject", "notifications")
    for name in reversed(COLUMNS):
        op.drop_column("notifications", name)
