"""Contact points of all channels but Web Push; the provider and the provider's message id of each attempt."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

ID = sa.String(36).with_variant(sa.Uuid(as_uuid=False), "postgresql")
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
INSTANT = sa.String(32).with_variant(sa.DateTime(timezone=True), "postgresql")


def key(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "contact_points",
        sa.Column("id", ID, nullable=False),
        sa.Column("user_id", key(200), nullable=False),
        sa.Column("channel", key(32), nullable=False),
        sa.Column("identity_digest", key(64), nullable=False),
        sa.Column("address_digest", key(64), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("label", sa.String(length=200), nullable=True),
        sa.Column("attributes", DOCUMENT, nullable=False),
        sa.Column("state", key(16), nullable=False),
        sa.Column("state_changed_at", INSTANT, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("is_from_profile", sa.Boolean(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("identity_digest"),
    )
    op.create_index("ix_contact_points_user", "contact_points", ["user_id", "state"])
    op.create_index("ix_contact_points_address", "contact_points", ["address_digest"])
    # without defaults only the catalog changes, on PostgreSQL once per partition
    op.add_column("attempts", sa.Column("provider", sa.String(length=100), nullable=True))
    op.add_column("attempts", sa.Column("message_id", sa.String(length=200), nullable=True))


def downgrade() -> None:
    op.drop_column("attempts", "message_id")
    op.drop_column("attempts", "provider")
    op.drop_table("contact_points")
