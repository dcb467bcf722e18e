"""SQL of the commerce pack: one statement per function, in the caller's transaction."""

import dataclasses
from collections.abc import Collection, Mapping
from datetime import datetime

from sqlalchemy import Table, delete, func, select, update

from tidings.packs.commerce.order import Order
from tidings.packs.commerce.payment import Payment
from tidings.packs.commerce.stock import StockItem
from tidings.packs.commerce.tables import orders, payments, purchases, stock_items, stock_keepers, welcomes
from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.sql.upsert import upsert

_TABLES_WITH_USERS = (orders, purchases, payments, stock_keepers, welcomes)


async def lock_order(tx: Transaction, order_id: str) -> Order:
    """Return an order, and lock its row until the transaction ends. An unknown one is stored without a buyer."""
    await connection_of(tx).execute(upsert(tx, orders).values(id=order_id).on_conflict_do_nothing())
    query = select(orders).where(orders.c.id == order_id).with_for_update()
    row = (await connection_of(tx).execute(query)).one()
    return Order(**row._mapping)


async def find_order(tx: Transaction, order_id: str) -> Order | None:
    """Return an order, None if it is unknown."""
    row = (await connection_of(tx).execute(select(orders).where(orders.c.id == order_id))).first()
    return None if row is None else Order(**row._mapping)


async def replace_order(tx: Transaction, order: Order) -> None:
    """Replace a locked order."""
    await connection_of(tx).execute(update(orders).where(orders.c.id == order.id).values(dataclasses.asdict(order)))


async def purge_unknown_orders(tx: Transaction, before: datetime) -> int:
    """Delete the orders whose creation was not reported, and whose last event is older. Returns how many."""
    last_event_at = func.coalesce(orders.c.delivered_at, orders.c.shipped_at)
    statement = delete(orders).where(orders.c.user_id.is_(None), last_event_at < before)
    return (await connection_of(tx).execute(statement)).rowcount


async def add_purchases(tx: Transaction, user_id: str, skus: Collection[str], now: datetime) -> None:
    """Record the products that a user bought. Those bought before stay as they are."""
    rows = [{"sku": sku, "user_id": user_id, "bought_at": now} for sku in sorted(skus)]
    if rows:
        await connection_of(tx).execute(upsert(tx, purchases).values(rows).on_conflict_do_nothing())


async def lock_payment(tx: Transaction, payment_id: str, user_id: str) -> Payment:
    """Return a payment, and lock its row until the transaction ends. An unknown one is stored for the user."""
    new = {"id": payment_id, "user_id": user_id, "failed_attempt": 0}
    await connection_of(tx).execute(upsert(tx, payments).values(new).on_conflict_do_nothing())
    query = select(payments).where(payments.c.id == payment_id).with_for_update()
    row = (await connection_of(tx).execute(query)).one()
    return Payment(**row._mapping)


async def replace_payment(tx: Transaction, payment: Payment) -> None:
    """Replace a locked payment."""
    statement = update(payments).where(payments.c.id == payment.id)
    await connection_of(tx).execute(statement.values(dataclasses.asdict(payment)))


async def lock_stock_item(tx: Transaction, item: StockItem) -> StockItem | None:
    """Return the stored item and lock its row until the transaction ends. If it is new, store `item`: None."""
    values = dataclasses.asdict(item)
    inserted = await connection_of(tx).execute(upsert(tx, stock_items).values(values).on_conflict_do_nothing())
    if inserted.rowcount == 1:
        return None
    query = select(stock_items).where(stock_items.c.sku == item.sku).with_for_update()
    row = (await connection_of(tx).execute(query)).one()
    return StockItem(**row._mapping)


async def replace_stock_item(tx: Transaction, item: StockItem) -> None:
    """Replace a locked item."""
    statement = update(stock_items).where(stock_items.c.sku == item.sku)
    await connection_of(tx).execute(statement.values(dataclasses.asdict(item)))


async def add_stock_keeper(tx: Transaction, user_id: str) -> None:
    """Make a user a stock keeper. Repeating it changes nothing."""
    await connection_of(tx).execute(upsert(tx, stock_keepers).values(user_id=user_id).on_conflict_do_nothing())


async def remove_stock_keeper(tx: Transaction, user_id: str) -> bool:
    """Remove a stock keeper. False if the user is none."""
    statement = delete(stock_keepers).where(stock_keepers.c.user_id == user_id)
    return (await connection_of(tx).execute(statement)).rowcount == 1


async def add_welcome(tx: Transaction, user_id: str, now: datetime) -> bool:
    """Record that a user is welcomed. False if that was recorded before."""
    statement = upsert(tx, welcomes).values(user_id=user_id, welcomed_at=now).on_conflict_do_nothing()
    return (await connection_of(tx).execute(statement)).rowcount == 1


async def export(tx: Transaction, user_id: str) -> Mapping[str, object]:
    """Return everything that the pack stores about a user, by table."""
    exported = {
        "orders": await _list_rows(tx, orders, "id", user_id),
        "purchases": await _list_rows(tx, purchases, "sku", user_id),
        "payments": await _list_rows(tx, payments, "id", user_id),
    }
    welcomed_at = await connection_of(tx).scalar(select(welcomes.c.welcomed_at).where(welcomes.c.user_id == user_id))
    keeper = await connection_of(tx).scalar(select(stock_keepers.c.user_id).where(stock_keepers.c.user_id == user_id))
    return {**exported, "welcomedAt": welcomed_at, "isStockKeeper": keeper is not None}


async def _list_rows(tx: Transaction, table: Table, order: str, user_id: str) -> list[dict[str, object]]:
    query = select(table).where(table.c.user_id == user_id).order_by(table.c[order])
    rows = await connection_of(tx).execute(query)
    return [{_to_camel(name): value for name, value in row._mapping.items() if name != "user_id"} for row in rows]


def _to_camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(other.title() for other in others)


async def erase(tx: Transaction, user_id: str) -> None:
    """Delete everything that the pack stores about a user."""
    for table in _TABLES_WITH_USERS:
        await connection_of(tx).execute(delete(table).where(table.c.user_id == user_id))
