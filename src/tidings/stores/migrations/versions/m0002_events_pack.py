"""The events pack: events, tickets, favourites.

Never edited once released. It defines its own column types, so that later changes of the schema do not affect it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

INSTANT = sa.String(32).with_variant(sa.DateTime(timezone=True), "postgresql")


def key(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("id", key(36), nullable=False),
        sa.Column("title", sa.String(length=200), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("start_date", INSTANT, nullable=False),
        sa.Column("end_date", INSTANT, nullable=True),
        sa.Column("venue", sa.String(length=300), nullable=True),
        sa.Column("address", sa.String(length=300), nullable=True),
        sa.Column("city", key(200), nullable=True),
        sa.Column("host_id", key(200), nullable=True),
        sa.Column("status", key(16), nullable=False),
        sa.Column("first_published_at", INSTANT, nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_events_city", "events", ["city", "id"])
    op.create_index("ix_events_status", "events", ["status", "id"])
    op.create_table(
        "favourites",
        sa.Column("event_id", key(36), nullable=False),
        sa.Column("user_id", key(200), nullable=False),
        sa.Column("host_id", key(200), nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["event_id"], ["events.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("event_id", "user_id"),
    )
    op.create_index("ix_favourites_host", "favourites", ["host_id", "user_id", "event_id"])
    op.create_index("ix_favourites_user", "favourites", ["user_id"])
    op.create_table(
        "tickets",
        sa.Column("event_id", key(36), nullable=False),
        sa.Column("user_id", key(200), nullable=False),
        sa.Column("status", key(16), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("returned_at", INSTANT, nullable=True),
        sa.ForeignKeyConstraint(["event_id"], ["events.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("event_id", "user_id"),
    )
    op.create_index("ix_tickets_holders", "tickets", ["event_id", "status", "user_id"])
    op.create_index("ix_tickets_user", "tickets", ["user_id"])


def downgrade() -> None:
    op.drop_table("tickets")
    op.drop_table("favourites")
    op.drop_table("events")
