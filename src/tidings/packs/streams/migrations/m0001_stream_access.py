"""Who may watch a stream.

Never edited once released. It defines its own column types, so that later changes of the tables do not affect it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "stream_access",
        sa.Column("scope", _text(8), primary_key=True),
        sa.Column("owner", _text(200), primary_key=True),
        sa.Column("access", _text(16), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("stream_access")
