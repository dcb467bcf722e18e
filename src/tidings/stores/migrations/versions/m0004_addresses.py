"""Indexes on e-mail address and phone number: jobs of older services identify users only by these."""

import sqlalchemy as sa
from alembic import op

from tidings.stores.migrations.indexes import create_index

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

LENGTHS = {"email": 320, "phone": 20}


def upgrade() -> None:
    # first, and repeatable: after the indexes exist, it would rebuild them under a lock. No row is rewritten.
    _collate("C")
    create_index("ix_users_email", "users", "email", where="email IS NOT NULL")
    create_index("ix_users_phone", "users", "phone", where="phone IS NOT NULL")


def downgrade() -> None:
    op.drop_index("ix_users_phone", "users")
    op.drop_index("ix_users_email", "users")
    _collate("default")


def _collate(collation: str) -> None:
    """Set the collation of addresses on PostgreSQL. SQLite compares bytes by default."""
    if op.get_context().dialect.name == "postgresql":
        for column, length in LENGTHS.items():
            op.alter_column("users", column, type_=sa.String(length, collation=collation), existing_nullable=True)
