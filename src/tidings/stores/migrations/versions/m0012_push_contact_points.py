"""Push subscriptions become contact points of the channel `webpush`.

On PostgreSQL the large table of subscriptions is changed in the catalog only: it gets the further columns, takes the
rows of the former contact points, which are new with 0010, and the name of their table. Processes of the previous
version continue during a rolling upgrade: a view with the former name and columns reads and writes the subscriptions.
"""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

ID = sa.String(36).with_variant(sa.Uuid(as_uuid=False), "postgresql")
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
INSTANT = sa.String(32).with_variant(sa.DateTime(timezone=True), "postgresql")
#: columns that both tables have under the same name
SHARED = "id, user_id, sealed, state, state_changed_at, created_at, version"
HEALTH = "last_seen_at, last_delivered_at, refusals, refused_for"
HAS_ADDRESS, IS_GONE = "address_digest IS NOT NULL", "state = 'gone'"
#: the table of subscriptions becomes that of contact points
CHANGES = (
    "LOCK TABLE push_subscriptions, contact_points IN ACCESS EXCLUSIVE MODE",
    "ALTER TABLE push_subscriptions RENAME COLUMN endpoint_digest TO identity_digest",
    "ALTER TABLE push_subscriptions RENAME COLUMN device TO label",
    "ALTER TABLE push_subscriptions RENAME COLUMN vapid_key_id TO key_id",
    "ALTER TABLE push_subscriptions ALTER COLUMN host DROP NOT NULL, ALTER COLUMN key_id DROP NOT NULL",
    # constant defaults: no row is rewritten
    """ALTER TABLE push_subscriptions ADD COLUMN channel varchar(32) COLLATE "C" NOT NULL DEFAULT 'webpush',
        ADD COLUMN address_digest varchar(64) COLLATE "C", ADD COLUMN attributes jsonb NOT NULL DEFAULT '{}',
        ADD COLUMN is_from_profile boolean NOT NULL DEFAULT false""",
    f"""INSERT INTO push_subscriptions
        ({SHARED}, channel, identity_digest, address_digest, label, attributes, is_from_profile, last_seen_at)
        SELECT {SHARED}, channel, identity_digest, address_digest, label, attributes, is_from_profile, created_at
        FROM contact_points""",  # noqa: S608  # names only
    "DROP TABLE contact_points",
    "ALTER TABLE push_subscriptions RENAME TO contact_points",
    "ALTER TABLE contact_points RENAME CONSTRAINT push_subscriptions_pkey TO contact_points_pkey",
    """ALTER TABLE contact_points
        RENAME CONSTRAINT push_subscriptions_endpoint_digest_key TO contact_points_identity_digest_key""",
    "ALTER TABLE contact_points RENAME CONSTRAINT push_subscriptions_user_id_fkey TO contact_points_user_id_fkey",
    "ALTER INDEX ix_push_subscriptions_user RENAME TO ix_contact_points_user",
    "ALTER INDEX ix_push_subscriptions_gone RENAME TO ix_contact_points_gone",
    f"CREATE INDEX ix_contact_points_address ON contact_points (address_digest) WHERE {HAS_ADDRESS}",
    """ALTER TABLE contact_points ALTER COLUMN channel DROP DEFAULT, ALTER COLUMN attributes DROP DEFAULT,
        ALTER COLUMN is_from_profile DROP DEFAULT, ALTER COLUMN last_seen_at DROP DEFAULT""",
    f"""CREATE VIEW push_subscriptions AS SELECT {SHARED}, {HEALTH}, identity_digest AS endpoint_digest, host,
        key_id AS vapid_key_id, label AS device, channel, attributes, is_from_profile
        FROM contact_points WHERE channel = 'webpush'""",  # noqa: S608
    # what the previous version does not write
    """ALTER VIEW push_subscriptions ALTER COLUMN channel SET DEFAULT 'webpush',
        ALTER COLUMN attributes SET DEFAULT '{}', ALTER COLUMN is_from_profile SET DEFAULT false,
        ALTER COLUMN last_seen_at SET DEFAULT now(), ALTER COLUMN version SET DEFAULT 1,
        ALTER COLUMN refusals SET DEFAULT 0""",
)


def key(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        for statement in CHANGES:
            op.execute(statement)
        return
    _set_aside("contact_points", "ix_contact_points_user", "ix_contact_points_address")
    op.create_table(
        "contact_points",
        *_contact_point_columns(is_address_optional=True),
        sa.Column("host", sa.String(length=255), nullable=True),
        sa.Column("key_id", ID, nullable=True),
        sa.Column("last_seen_at", INSTANT, nullable=False),
        sa.Column("last_delivered_at", INSTANT, nullable=True),
        sa.Column("refusals", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("refused_for", sa.String(length=200), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("identity_digest"),
    )
    op.execute(
        f"""INSERT INTO contact_points
        ({SHARED}, channel, identity_digest, address_digest, label, attributes, is_from_profile, last_seen_at)
        SELECT {SHARED}, channel, identity_digest, address_digest, label, attributes, is_from_profile, created_at
        FROM former"""  # noqa: S608  # names only
    )
    op.execute(
        f"""INSERT INTO contact_points
        ({SHARED}, {HEALTH}, channel, identity_digest, label, attributes, is_from_profile, host, key_id)
        SELECT {SHARED}, {HEALTH}, 'webpush', endpoint_digest, device, '{{}}', false, host, vapid_key_id
        FROM push_subscriptions"""  # noqa: S608
    )
    op.drop_table("former")
    op.drop_table("push_subscriptions")
    op.create_index("ix_contact_points_user", "contact_points", ["user_id", "state"])
    op.create_index(
        "ix_contact_points_address", "contact_points", ["address_digest"], sqlite_where=sa.text(HAS_ADDRESS)
    )
    op.create_index("ix_contact_points_gone", "contact_points", ["state_changed_at"], sqlite_where=sa.text(IS_GONE))


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP VIEW push_subscriptions")
    _set_aside("contact_points", "ix_contact_points_user", "ix_contact_points_address", "ix_contact_points_gone")
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
        sa.Column("version", sa.Integer(), nullable=False, server_default="1"),
        # the default of 0009
        sa.Column(
            "last_seen_at", INSTANT, nullable=False, server_default=datetime.now(UTC).isoformat(timespec="microseconds")
        ),
        sa.Column("last_delivered_at", INSTANT, nullable=True),
        sa.Column("refusals", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("refused_for", sa.String(length=200), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("endpoint_digest"),
    )
    op.create_table(
        "contact_points",
        *_contact_point_columns(is_address_optional=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("identity_digest"),
    )
    op.execute(
        f"""INSERT INTO push_subscriptions ({SHARED}, {HEALTH}, endpoint_digest, host, vapid_key_id, device)
        SELECT {SHARED}, {HEALTH}, identity_digest, host, key_id, label FROM former WHERE channel = 'webpush'"""  # noqa: S608
    )
    op.execute(
        f"""INSERT INTO contact_points
        ({SHARED}, channel, identity_digest, address_digest, label, attributes, is_from_profile)
        SELECT {SHARED}, channel, identity_digest, address_digest, label, attributes, is_from_profile
        FROM former WHERE channel <> 'webpush'"""  # noqa: S608
    )
    op.drop_table("former")
    op.create_index("ix_push_subscriptions_user", "push_subscriptions", ["user_id", "state"])
    op.create_index(
        "ix_push_subscriptions_gone",
        "push_subscriptions",
        ["state_changed_at"],
        sqlite_where=sa.text(IS_GONE),
        postgresql_where=sa.text(IS_GONE),
    )
    op.create_index("ix_contact_points_user", "contact_points", ["user_id", "state"])
    op.create_index("ix_contact_points_address", "contact_points", ["address_digest"])


def _set_aside(table: str, *indexes: str) -> None:
    """Rename a table to `former`, without its indexes, so that the table can be created anew."""
    for index in indexes:
        op.drop_index(index, table)
    op.rename_table(table, "former")
    if op.get_context().dialect.name == "postgresql":
        # their names would be taken
        op.execute(f"ALTER TABLE former RENAME CONSTRAINT {table}_pkey TO former_pkey")
        op.execute(f"ALTER TABLE former RENAME CONSTRAINT {table}_identity_digest_key TO former_identity_digest_key")
        op.execute(f"ALTER TABLE former RENAME CONSTRAINT {table}_user_id_fkey TO former_user_id_fkey")


def _contact_point_columns(*, is_address_optional: bool) -> list[sa.Column[object]]:
    return [
        sa.Column("id", ID, nullable=False),
        sa.Column("user_id", key(200), nullable=False),
        sa.Column("channel", key(32), nullable=False),
        sa.Column("identity_digest", key(64), nullable=False),
        sa.Column("address_digest", key(64), nullable=is_address_optional),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("label", sa.String(length=200), nullable=True),
        sa.Column("attributes", DOCUMENT, nullable=False),
        sa.Column("state", key(16), nullable=False),
        sa.Column("state_changed_at", INSTANT, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("is_from_profile", sa.Boolean(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
    ]
