"""`examples/django-shop`: `notify_sync` within `transaction.atomic` is committed and rolled back with the order."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.support.host_process import HostProcess
from tests.support.server import TidingsServer

EXAMPLE = Path(__file__).parents[2] / "examples" / "django-shop"


async def test_an_order_and_its_notification_are_committed_together(tmp_path: Path) -> None:
    async with TidingsServer(tmp_path / "data", settings={"TIDINGS_INAPP__ENABLED": "true"}) as server:
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
        with closing(sqlite3.connect(shop.database)) as database:
            assert database.execute("SELECT number FROM shop_order").fetchall() == [("first",)]
