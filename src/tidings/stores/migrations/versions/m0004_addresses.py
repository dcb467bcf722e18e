"""Users are found by their e-mail address or phone number: jobs of older services name nothing else."""

import sqlalchemy as sa
from alembic import op

from tidings.stores.migrations.indexes import create_index

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

LENGTHS = {"email": 320, "phone": 20}


def upgrade() -> None:
    # first, and harmless when repeated: an index that is there would be made again under a lock. No row is rewritten.
    _collate("C")
    create_index("ix_users_email", "users", "email", where="email IS NOT NULL")
    create_index("ix_users_phone", "users", "phone", where="phone IS NOT NULL")


def downgrade() -> None:
    op.drop_index("ix_users_phone", "users")
    op.drop_index("ix_users_email", "users")
    _collate("default")


def _collate(collation: str) -> None:
    """Have addresses compared in another way, where that can be told; SQLite compares bytes anyway."""
    if op.get_context().dialect.name == "postgresql":
        for column, length in LENGTHS.items():
            op.alter_column("users", column, type_=sa.String(length, collation=collation), existing_nullable=True)
