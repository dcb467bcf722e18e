"""Recurring notifications and their runs, and indexes of the time zones of users."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from tidings.stores.migrations.indexes import create_index

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

INSTANT = sa.String(32).with_variant(sa.DateTime(timezone=True), "postgresql")
ID = sa.String(36).with_variant(sa.Uuid(as_uuid=False), "postgresql")
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def _binary_text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def _create_partial_index(name: str, table: str, column: str, where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, table, [column], sqlite_where=condition, postgresql_where=condition)


def upgrade() -> None:
    # first, because it commits on PostgreSQL
    create_index("ix_users_timezone", "users", "timezone")
    create_index("ix_user_schedules_timezone", "user_schedules", "timezone", where="timezone IS NOT NULL")
    op.create_table(
        "recurring_notifications",
        sa.Column("name", _binary_text(64), nullable=False),
        sa.Column("description", sa.String(length=300), nullable=False),
        sa.Column("template_code", _binary_text(100), nullable=False),
        sa.Column("audience", DOCUMENT, nullable=False),
        sa.Column("variables", DOCUMENT, nullable=False),
        sa.Column("options", DOCUMENT, nullable=False),
        sa.Column("variables_url", sa.String(length=2048), nullable=True),
        sa.Column("variables_function", sa.String(length=100), nullable=True),
        sa.Column("times", DOCUMENT, nullable=False),
        sa.Column("timezone", sa.String(length=64), nullable=True),
        sa.Column("catch_up_seconds", sa.Integer(), nullable=True),
        sa.Column("is_paused", sa.Boolean(), nullable=False),
        sa.Column("next_run_at", INSTANT, nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("name"),
        sqlite_with_rowid=False,
    )
    _create_partial_index("ix_recurring_due", "recurring_notifications", "next_run_at", "next_run_at IS NOT NULL")
    op.create_table(
        "recurring_runs",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", _binary_text(64), nullable=False),
        sa.Column("scheduled_at", INSTANT, nullable=False),
        sa.Column("deadline", INSTANT, nullable=False),
        sa.Column("timezones", DOCUMENT, nullable=True),
        sa.Column("is_manual", sa.Boolean(), nullable=False),
        sa.Column("state", _binary_text(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", INSTANT, nullable=False),
        sa.Column("notification_id", ID, nullable=True),
        sa.Column("reason", sa.String(length=300), nullable=True),
        sa.Column("finished_at", INSTANT, nullable=True),
        sa.ForeignKeyConstraint(["name"], ["recurring_notifications.name"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_recurring_runs_name", "recurring_runs", ["name", "id"])
    _create_partial_index("ix_recurring_runs_due", "recurring_runs", "due_at", "state = 'pending'")
    _create_partial_index("ix_recurring_runs_finished", "recurring_runs", "finished_at", "finished_at IS NOT NULL")


def downgrade() -> None:
    op.drop_table("recurring_runs")
    op.drop_table("recurring_notifications")
    op.drop_index("ix_user_schedules_timezone", "user_schedules")
    op.drop_index("ix_users_timezone", "users")
