"""Orders, purchases, payments, stock, stock keepers, welcomes.

Never edited once released. It defines its own column types, so that later changes of the tables do not affect it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

INSTANT = sa.String(32).with_variant(sa.DateTime(timezone=True), "postgresql")
KEY = sa.String(100).with_variant(sa.String(100, collation="C"), "postgresql")
#: as users.id
USER_ID = sa.String(200).with_variant(sa.String(200, collation="C"), "postgresql")


def _user_column(*, nullable: bool = False, primary_key: bool = False) -> sa.Column[str]:
    reference = sa.ForeignKey("users.id", ondelete="CASCADE")
    return sa.Column("user_id", USER_ID, reference, nullable=nullable, primary_key=primary_key)


def upgrade() -> None:
    op.create_table(
        "commerce_orders",
        sa.Column("id", KEY, primary_key=True),
        _user_column(nullable=True),
        sa.Column("user_name", sa.String(200)),
        sa.Column("order_number", sa.String(200)),
        sa.Column("total", sa.String(24)),
        sa.Column("currency", sa.String(3)),
        sa.Column("carrier", sa.String(200)),
        sa.Column("tracking_number", sa.String(200)),
        sa.Column("created_at", INSTANT),
        sa.Column("shipped_at", INSTANT),
        sa.Column("delivered_at", INSTANT),
    )
    op.create_index("ix_commerce_orders_user", "commerce_orders", ["user_id", "id"])
    op.create_table(
        "commerce_purchases",
        sa.Column("sku", KEY, primary_key=True),
        _user_column(primary_key=True),
        sa.Column("bought_at", INSTANT, nullable=False),
    )
    op.create_index("ix_commerce_purchases_user", "commerce_purchases", ["user_id", "sku"])
    op.create_table(
        "commerce_payments",
        sa.Column("id", KEY, primary_key=True),
        _user_column(),
        sa.Column("failed_attempt", sa.Integer, nullable=False),
        sa.Column("captured_at", INSTANT),
    )
    op.create_index("ix_commerce_payments_user", "commerce_payments", ["user_id", "id"])
    op.create_table(
        "commerce_stock_items",
        sa.Column("sku", KEY, primary_key=True),
        sa.Column("product_name", sa.String(200), nullable=False),
        sa.Column("current_stock", sa.Integer, nullable=False),
        sa.Column("threshold", sa.Integer, nullable=False),
        sa.Column("rearm_at", sa.Integer, nullable=False),
        sa.Column("is_low", sa.Boolean, nullable=False),
    )
    op.create_table("commerce_stock_keepers", _user_column(primary_key=True))
    op.create_table(
        "commerce_welcomes",
        _user_column(primary_key=True),
        sa.Column("welcomed_at", INSTANT, nullable=False),
    )


def downgrade() -> None:
    for name in ("welcomes", "stock_keepers", "stock_items", "payments", "purchases", "orders"):
        op.drop_table(f"commerce_{name}")
