"""The engine's tables.

Never edited once released. It defines its own column types, so that later changes of the schema do not affect it.

On PostgreSQL deliveries, skips and attempts are partitioned by time (`stores/schema/partitions.py`), with triggers
instead of foreign keys: a key would be checked for every row, and dropping a partition would lock the referenced table.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.String(36).with_variant(sa.Uuid(as_uuid=False), "postgresql")
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
INSTANT = sa.String(32).with_variant(sa.DateTime(timezone=True), "postgresql")

#: cascading deletes, one statement each: (parent table, child table, column of the child)
CASCADES = (
    ("notifications", "deliveries", "notification_id"),
    ("notifications", "skips", "notification_id"),
    ("deliveries", "attempts", "delivery_id"),
)


def key(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    partitioned = op.get_context().dialect.name == "postgresql"
    op.create_table(
        "api_keys",
        sa.Column("id", ID, nullable=False),
        sa.Column("digest", key(64), nullable=False),
        sa.Column("prefix", sa.String(length=16), nullable=False),
        sa.Column("label", sa.String(length=200), nullable=False),
        sa.Column("scopes", DOCUMENT, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("revoked_at", INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("digest"),
    )
    op.create_table(
        "categories",
        sa.Column("code", key(64), nullable=False),
        sa.Column("title", sa.String(length=200), nullable=False),
        sa.Column("mandatory", sa.Boolean(), nullable=False),
        sa.Column("opt_in", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("code"),
    )
    op.create_table(
        "facts",
        sa.Column("name", key(64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("caller", sa.String(64).with_variant(sa.String(255, collation="C"), "postgresql"), nullable=False),
        sa.Column("key", key(255), nullable=False),
        sa.Column("request_digest", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("caller", "key"),
    )
    op.create_index("ix_idempotency_keys_created", "idempotency_keys", ["created_at"])
    op.create_table(
        "notifications",
        sa.Column("id", ID, nullable=False),
        sa.Column("template_code", key(64), nullable=False),
        sa.Column("template_version", sa.Integer(), nullable=False),
        sa.Column("category", key(64), nullable=False),
        sa.Column("audience", DOCUMENT, nullable=False),
        sa.Column("variables", DOCUMENT, nullable=False),
        sa.Column("priority", sa.String(length=8), nullable=False),
        sa.Column("channels", DOCUMENT, nullable=False),
        sa.Column("action_url", sa.Text(), nullable=True),
        sa.Column("action_text", sa.String(length=200), nullable=True),
        sa.Column("source", sa.String(length=300), nullable=True),
        sa.Column("send_at", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("state", key(16), nullable=False),
        sa.Column("cursor", key(200), nullable=True),
        sa.Column("recipients", sa.Integer(), nullable=False),
        sa.Column("deliveries", sa.Integer(), nullable=False),
        sa.Column("skipped", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_notifications_template", "notifications", ["template_code", "id"])
    op.create_index(
        "ix_notifications_unplanned",
        "notifications",
        ["id"],
        sqlite_where=sa.text("state IN ('accepted', 'fanning_out')"),
        postgresql_where=sa.text("state IN ('accepted', 'fanning_out')"),
    )
    op.create_table(
        "outbox",
        sa.Column("id", ID, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("ref", ID, nullable=False),
        sa.Column("lane", key(8), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("due_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_outbox_due", "outbox", ["due_at"])
    op.create_table(
        "users",
        sa.Column("id", key(200), nullable=False),
        sa.Column("email", sa.String(length=320), nullable=True),
        sa.Column("phone", sa.String(length=20), nullable=True),
        sa.Column("locale", sa.String(length=35), nullable=False),
        sa.Column("timezone", sa.String(length=64), nullable=False),
        sa.Column("city", key(200), nullable=True),
        sa.Column("attributes", DOCUMENT, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_users_city", "users", ["city", "id"])
    op.create_table(
        "vapid_keys",
        sa.Column("id", ID, nullable=False),
        sa.Column("public", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_private", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("retired_at", INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", ID, nullable=False),
        sa.Column("notification_id", ID, nullable=False),
        sa.Column("user_id", key(200), nullable=False),
        sa.Column("channel", key(32), nullable=False),
        sa.Column("target_id", ID, nullable=False),
        sa.Column("lane", key(8), nullable=False),
        sa.Column("state", key(16), nullable=False),
        sa.Column("rule", sa.String(length=64), nullable=False),
        sa.Column("why", sa.String(length=300), nullable=True),
        sa.Column("batch_id", ID, nullable=True),
        sa.Column("due_at", INSTANT, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("lease_token", ID, nullable=True),
        sa.Column("lease_until", INSTANT, nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        *_ledger_key(partitioned, "notification_id", "notifications"),
        postgresql_partition_by="RANGE (notification_id)",
    )
    op.create_index(
        "ix_deliveries_batch",
        "deliveries",
        ["batch_id"],
        sqlite_where=sa.text("state = 'pending' AND batch_id IS NOT NULL"),
        postgresql_where=sa.text("state = 'pending' AND batch_id IS NOT NULL"),
    )
    op.create_index(
        "ix_deliveries_due",
        "deliveries",
        ["due_at"],
        sqlite_where=sa.text("state = 'pending' AND batch_id IS NULL"),
        postgresql_where=sa.text("state = 'pending' AND batch_id IS NULL"),
    )
    op.create_index(
        "ix_deliveries_lease",
        "deliveries",
        ["lease_until"],
        sqlite_where=sa.text("state = 'sending'"),
        postgresql_where=sa.text("state = 'sending'"),
    )
    if not partitioned:
        op.create_index("ix_deliveries_notification", "deliveries", ["notification_id", "id"])
    op.create_index("ix_deliveries_user", "deliveries", ["user_id", "id"])
    op.create_index(
        "ux_deliveries_once", "deliveries", ["notification_id", "user_id", "channel", "target_id"], unique=True
    )
    op.create_table(
        "preferences",
        sa.Column("user_id", key(200), nullable=False),
        sa.Column("category", key(64), nullable=False),
        sa.Column("channel", key(32), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", "category", "channel"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_preferences_category", "preferences", ["category", "enabled", "user_id", "channel"])
    op.create_table(
        "push_subscriptions",
        sa.Column("id", ID, nullable=False),
        sa.Column("user_id", key(200), nullable=False),
        sa.Column("endpoint_digest", key(64), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("vapid_key_id", ID, nullable=False),
        sa.Column("device", sa.String(length=200), nullable=True),
        sa.Column("state", key(16), nullable=False),
        sa.Column("state_changed_at", INSTANT, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("endpoint_digest"),
    )
    op.create_index(
        "ix_push_subscriptions_gone",
        "push_subscriptions",
        ["state_changed_at"],
        sqlite_where=sa.text("state = 'gone'"),
        postgresql_where=sa.text("state = 'gone'"),
    )
    op.create_index("ix_push_subscriptions_user", "push_subscriptions", ["user_id", "state"])
    op.create_table(
        "skips",
        sa.Column("id", ID, nullable=False),
        sa.Column("notification_id", ID, nullable=False),
        sa.Column("user_id", key(200), nullable=False),
        sa.Column("channel", key(32), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("detail", DOCUMENT, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        *_ledger_key(partitioned, "notification_id", "notifications"),
        postgresql_partition_by="RANGE (notification_id)",
    )
    if not partitioned:
        op.create_index("ix_skips_notification", "skips", ["notification_id", "id"])
    op.create_index("ix_skips_user", "skips", ["user_id", "id"])
    op.create_index("ux_skips_once", "skips", ["notification_id", "user_id", "channel"], unique=True)
    op.create_table(
        "attempts",
        sa.Column("delivery_id", ID, nullable=False),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("why", sa.String(length=300), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("finished_at", INSTANT, nullable=False),
        *([] if partitioned else [sa.ForeignKeyConstraint(["delivery_id"], ["deliveries.id"], ondelete="CASCADE")]),
        sa.PrimaryKeyConstraint("delivery_id", "started_at"),
        sqlite_with_rowid=False,
        postgresql_partition_by="RANGE (delivery_id)",
    )
    if partitioned:
        for table in ("deliveries", "skips", "attempts"):
            op.execute(f"CREATE TABLE {table}_default PARTITION OF {table} DEFAULT")
        for parent, child, column in CASCADES:
            op.execute(_cascade(child, column))
            op.execute(
                f"CREATE TRIGGER {child}_go_too AFTER DELETE ON {parent} REFERENCING OLD TABLE AS gone "
                f"FOR EACH STATEMENT EXECUTE FUNCTION {child}_go_too()"
            )


def _ledger_key(partitioned: bool, column: str, points_to: str) -> list[sa.Constraint]:
    """Return the keys of a child table. On a partitioned table the primary key must begin with the partition key."""
    if partitioned:
        return [sa.PrimaryKeyConstraint(column, "id")]
    return [sa.ForeignKeyConstraint([column], [f"{points_to}.id"], ondelete="CASCADE"), sa.PrimaryKeyConstraint("id")]


def _cascade(child: str, column: str) -> str:
    # The plan is cached for the session, whatever number of rows it was made for: force index scans.
    return f"""CREATE FUNCTION {child}_go_too() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    DELETE FROM {child} USING gone WHERE {child}.{column} = gone.id;
    RETURN NULL;
END
$$"""  # noqa: S608  # names from CASCADES


def downgrade() -> None:
    op.drop_table("attempts")
    op.drop_table("skips")
    op.drop_table("push_subscriptions")
    op.drop_table("preferences")
    op.drop_table("deliveries")
    op.drop_table("vapid_keys")
    op.drop_table("users")
    op.drop_table("outbox")
    op.drop_table("notifications")
    op.drop_table("idempotency_keys")
    op.drop_table("facts")
    op.drop_table("categories")
    op.drop_table("api_keys")
    if op.get_context().dialect.name == "postgresql":
        for _, child, _ in CASCADES:
            op.execute(f"DROP FUNCTION {child}_go_too()")
