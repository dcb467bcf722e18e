"""`examples/django-shop`: `notify_sync` within `transaction.atomic` is committed and rolled back with the order."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.support.host_process import HostProcess
from tests.support.killed_host import place_orders_while_killed
from tests.support.server import TidingsServer

EXAMPLE = Path(__file__).parents[2] / "examples" / "django-shop"
# one customer places all orders, more than a user is notified of in an hour
SETTINGS = {"TIDINGS_INAPP__ENABLED": "true", "TIDINGS_USER_LIMIT": "0"}


async def test_an_order_and_its_notification_are_committed_together(tmp_path: Path) -> None:
    async with TidingsServer(tmp_path / "data", settings=SETTINGS) as server:
        await server.expect(201, "PUT", "/api/users/ana", {})
        settings = {"SHOP_DATABASE": str(tmp_path / "data" / "tidings.db")}
        async with HostProcess(server, "shop:application", EXAMPLE, settings) as shop:
            assert (await shop.post("products", {"sku": "cup", "stock": 1})).status == 201
            placed = await shop.post("orders", {"number": "first", "customer": "ana", "sku": "cup"})
            assert placed.status == 201
            sold_out = await shop.post("orders", {"number": "second", "customer": "ana", "sku": "cup"})
            assert sold_out.status == 409
        # the shop was killed; what it committed is sent
        page = (await server.expect(200, "GET", "/api/notifications")).read(dict[str, Any])
        assert [item["source"] for item in page["items"]] == ["shop:first"]
        accepted = placed.read(dict[str, str])["notification"]
        assert (await server.wait_until_finished(accepted)).by_state == {"delivered": 1}
        assert read_orders(shop) == ["first"]


@pytest.mark.parametrize("kills", [2, pytest.param(12, marks=pytest.mark.extended)])
async def test_a_killed_django_loses_no_notification_and_leaves_none_without_its_order(
    tmp_path: Path, kills: int
) -> None:
    async with TidingsServer(tmp_path / "data", settings=SETTINGS) as server:
        await server.expect(201, "PUT", "/api/users/ana", {})
        settings = {"SHOP_DATABASE": str(tmp_path / "data" / "tidings.db")}
        async with HostProcess(server, "shop:application", EXAMPLE, settings) as shop:
            assert (await shop.post("products", {"sku": "cup", "stock": 1000})).status == 201

            async def place_order(number: str) -> int:
                return (await shop.post("orders", {"number": number, "customer": "ana", "sku": "cup"})).status

            confirmed = await place_orders_while_killed(shop, place_order, kills=kills, prefix="order")
        stored = read_orders(shop)
        assert set(confirmed) <= set(stored)
        page = (await server.expect(200, "GET", "/api/notifications?limit=500")).read(dict[str, Any])
        assert page["nextCursor"] is None
        for item in page["items"]:
            assert (await server.wait_until_finished(item["id"])).by_state == {"delivered": 1}
        assert sorted(item["source"].removeprefix("shop:") for item in page["items"]) == stored


def read_orders(shop: HostProcess) -> list[str]:
    """Return the numbers of the stored orders."""
    with closing(sqlite3.connect(shop.database)) as database:
        return sorted(number for (number,) in database.execute("SELECT number FROM shop_order"))
