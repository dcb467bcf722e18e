"""`examples/shop`: an order and its notification are committed together, also when the shop is killed."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.support.host_process import HostProcess
from tests.support.killed_host import place_orders_while_killed
from tests.support.server import TidingsServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]
EXAMPLE = Path(__file__).parents[2] / "examples" / "shop"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HostProcess]:
    data = tmp_path_factory.mktemp("shop") / "data"
    # one customer places all orders, more than a user is notified of in an hour
    settings = {"TIDINGS_INAPP__ENABLED": "true", "TIDINGS_USER_LIMIT": "0"}
    async with TidingsServer(data, settings=settings) as server:
        await server.expect(201, "PUT", "/api/users/ana", {})
        database = {"SHOP_DATABASE": f"sqlite+aiosqlite:///{data / 'tidings.db'}"}
        async with HostProcess(server, "shop:app", EXAMPLE, database) as shop:
            yield shop


def read_orders(shop: HostProcess) -> list[str]:
    """Return the ids of the stored orders."""
    with closing(sqlite3.connect(shop.database)) as database:
        return sorted(order for (order,) in database.execute("SELECT id FROM shop_orders"))


async def place_order(shop: HostProcess, order: str, sku: str) -> int:
    """Return the status of the response."""
    return (await shop.post("orders", {"id": order, "customer": "ana", "sku": sku})).status


async def add_product(shop: HostProcess, sku: str, stock: int) -> None:
    assert (await shop.post("products", {"sku": sku, "price": 12, "stock": stock})).status == 201


async def read_notified(server: TidingsServer) -> list[str]:
    """Return the orders whose notifications were delivered, once per notification."""
    page = (await server.expect(200, "GET", "/api/notifications?limit=500")).read(Json)
    assert page["nextCursor"] is None
    for item in page["items"]:
        assert (await server.wait_until_finished(item["id"])).by_state == {"delivered": 1}
    return sorted(str(item["source"]).removeprefix("shop:") for item in page["items"])


async def test_a_rollback_leaves_nothing_and_a_commit_sends_once(shop: HostProcess) -> None:
    await add_product(shop, "cup", 1)
    assert await place_order(shop, "first", "cup") == 201
    assert await place_order(shop, "sold-out", "cup") == 409
    assert read_orders(shop) == ["first"]
    assert await read_notified(shop.server) == ["first"]


@pytest.mark.parametrize("kills", [2, pytest.param(12, marks=pytest.mark.extended)])
async def test_a_killed_shop_loses_no_notification_and_leaves_none_without_its_order(
    shop: HostProcess, kills: int
) -> None:
    await add_product(shop, f"plate-{kills}", 1000)
    confirmed = await place_orders_while_killed(
        shop, lambda order: place_order(shop, order, f"plate-{kills}"), kills=kills, prefix=str(kills)
    )
    stored = read_orders(shop)
    assert set(confirmed) <= set(stored)
    assert await read_notified(shop.server) == stored


async def test_what_is_ordered_while_the_server_is_down_is_sent_when_it_is_back(shop: HostProcess) -> None:
    await shop.server.kill()
    await add_product(shop, "bowl", 1)
    assert await place_order(shop, "at-night", "bowl") == 201
    await shop.server.restart()
    assert "at-night" in await read_notified(shop.server)
