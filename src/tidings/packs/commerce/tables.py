"""The tables of the commerce pack, in a `MetaData` of their own: the pack brings its migrations."""

from sqlalchemy import Boolean, Column, ForeignKey, Index, Integer, MetaData, String, Table

from tidings.stores.schema.tables import BinaryText, Instant, users

metadata = MetaData()

#: ids of orders, payments and products are those of the host product
_ID_LENGTH = 100

orders = Table(
    "commerce_orders",
    metadata,
    Column("id", BinaryText(_ID_LENGTH), primary_key=True),
    # all columns up to the total are null while only later events of the order have arrived
    Column("user_id", ForeignKey(users.c.id, ondelete="CASCADE")),
    Column("user_name", String(200)),
    Column("order_number", String(200)),
    #: decimal text, such as `4999.00`
    Column("total", String(24)),
    Column("currency", String(3)),
    Column("carrier", String(200)),
    Column("tracking_number", String(200)),
    Column("created_at", Instant),
    Column("shipped_at", Instant),
    Column("delivered_at", Instant),
    # exporting and erasing a user; purging orders without one
    Index("ix_commerce_orders_user", "user_id", "id"),
)

purchases = Table(
    "commerce_purchases",
    metadata,
    # the primary key serves the audience `bought`, in user order
    Column("sku", BinaryText(_ID_LENGTH), primary_key=True),
    Column("user_id", ForeignKey(users.c.id, ondelete="CASCADE"), primary_key=True),
    Column("bought_at", Instant, nullable=False),
    # exporting and erasing a user
    Index("ix_commerce_purchases_user", "user_id", "sku"),
)

payments = Table(
    "commerce_payments",
    metadata,
    Column("id", BinaryText(_ID_LENGTH), primary_key=True),
    Column("user_id", ForeignKey(users.c.id, ondelete="CASCADE"), nullable=False),
    #: number of the last attempt that failed, 0 = none has
    Column("failed_attempt", Integer, nullable=False),
    Column("captured_at", Instant),
    # exporting and erasing a user
    Index("ix_commerce_payments_user", "user_id", "id"),
)

stock_items = Table(
    "commerce_stock_items",
    metadata,
    Column("sku", BinaryText(_ID_LENGTH), primary_key=True),
    Column("product_name", String(200), nullable=False),
    Column("current_stock", Integer, nullable=False),
    #: the stock at which the alert fires
    Column("threshold", Integer, nullable=False),
    #: the stock at which it can fire again
    Column("rearm_at", Integer, nullable=False),
    #: the alert has fired and is not armed again
    Column("is_low", Boolean, nullable=False),
)

stock_keepers = Table(
    "commerce_stock_keepers",
    metadata,
    # the primary key serves the audience `stock_keepers`
    Column("user_id", ForeignKey(users.c.id, ondelete="CASCADE"), primary_key=True),
)

welcomes = Table(
    "commerce_welcomes",
    metadata,
    Column("user_id", ForeignKey(users.c.id, ondelete="CASCADE"), primary_key=True),
    Column("welcomed_at", Instant, nullable=False),
)
