"""A shop that notifies inside its own transactions: an order and its notification are committed together.

Its tables are in the database of Tidings. `SHOP_DATABASE` is the SQLAlchemy URL of that database for the shop; Tidings
reads its own settings.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel, Field
from sqlalchemy import CheckConstraint, Column, Integer, MetaData, String, Table, insert, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from tidings import Tidings

metadata = MetaData()
products = Table(
    "shop_products",
    metadata,
    Column("sku", String(40), primary_key=True),
    Column("price", Integer, nullable=False),
    Column("stock", Integer, nullable=False),
    CheckConstraint("stock >= 0"),
)
orders = Table(
    "shop_orders",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("customer", String(200), nullable=False),
    Column("sku", String(40), nullable=False),
)


class NewOrder(BaseModel):
    """An order of one product. The customer is a user of Tidings."""

    id: str = Field(max_length=40)
    customer: str = Field(max_length=200)
    sku: str = Field(max_length=40)


class Product(BaseModel):
    """A product and its stock."""

    sku: str = Field(max_length=40)
    price: int
    stock: int


@asynccontextmanager
async def run_shop(app: FastAPI) -> AsyncIterator[None]:
    """Open the database and the client of Tidings."""
    engine = create_async_engine(os.environ["SHOP_DATABASE"])
    async with Tidings.from_env() as tidings:
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        app.state.engine, app.state.tidings = engine, tidings
        yield
    await engine.dispose()


app = FastAPI(title="Shop", lifespan=run_shop)


async def begin(request: Request) -> AsyncIterator[AsyncConnection]:
    """Open a transaction for a request: committed before the response is sent, rolled back if the request fails."""
    engine: AsyncEngine = request.app.state.engine
    async with engine.begin() as connection:
        yield connection


Transaction = Annotated[AsyncConnection, Depends(begin, scope="function")]


@app.post("/products", status_code=201)
async def add_product(product: Product, connection: Transaction) -> Product:
    """Add a product."""
    await connection.execute(insert(products).values(**product.model_dump()))
    return product


@app.post("/orders", status_code=201)
async def place_order(order: NewOrder, request: Request, connection: Transaction) -> dict[str, str]:
    """Store an order and notify its customer, or do neither."""
    tidings: Tidings = request.app.state.tidings
    await connection.execute(insert(orders).values(**order.model_dump()))
    bought = update(products).where(products.c.sku == order.sku, products.c.stock > 0)
    price = await connection.scalar(bought.values(stock=products.c.stock - 1).returning(products.c.price))
    handle = await tidings.notify(
        "ORDER_CREATED",
        to=order.customer,
        variables={"orderId": order.id, "orderNumber": order.id, "total": price or 0, "currency": "EUR"},
        source=f"shop:{order.id}",
        conn=connection,
    )
    if price is None:
        # the order and the notification above are rolled back
        raise HTTPException(409, "the product is sold out")
    return {"order": order.id, "notification": handle.id}
