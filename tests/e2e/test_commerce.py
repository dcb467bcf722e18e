"""The shop's events over HTTP, with a real server: messages, order of events, grace, alerts and audiences."""

from collections.abc import Mapping
from typing import Any

import pytest
from tests.support.server import TidingsServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]
PAYMENT = {"userId": "buyer", "orderNumber": "ORD-1", "amount": 49.9, "currency": "EUR"}


@pytest.fixture(scope="module")
def settings() -> Mapping[str, str]:
    return {"TIDINGS_INAPP__ENABLED": "true", "TIDINGS_COMMERCE__PAYMENT_GRACE": "1.5"}


async def post(server: TidingsServer, path: str, body: Json, status: int = 200) -> Json:
    return (await server.expect(status, "POST", path, body)).read(Json)


async def create_order(server: TidingsServer, order: str) -> Json:
    await server.call("PUT", "/api/users/buyer", {"locale": "de"})
    body = {
        "orderId": order,
        "userId": "buyer",
        "userName": "Ana",
        "orderNumber": f"ORD-{order}",
        "total": "4999.00",
        "currency": "EUR",
        "items": [{"sku": f"widget-{order}", "quantity": 2}],
    }
    return await post(server, "/api/orders", body, 201)


async def read_feed(server: TidingsServer, user: str) -> list[tuple[str, str]]:
    token = server.user_token(user)
    items = (await server.expect(200, "GET", "/api/inbox", token=token)).read(Json)["items"]
    return [(item["title"], item["body"]) for item in items]


async def test_an_order_is_followed_from_its_creation_to_its_delivery(server: TidingsServer) -> None:
    created = await create_order(server, "1")
    [accepted] = created["notifications"]
    await server.wait_until_finished(accepted["id"])
    feed = await read_feed(server, "buyer")
    assert (
        "Bestellung ORD-1 eingegangen",
        "Vielen Dank für Ihre Bestellung, Ana. Die Summe beträgt 4.999,00\u00a0€.",
    ) in feed
    assert (await create_order(server, "1"))["notifications"] == [], "it is known"
    shipped = await post(server, "/api/orders/1/ship", {"carrier": "DHL", "trackingNumber": "T-1"})
    await server.wait_until_finished(shipped["notifications"][0]["id"])
    delivered = await post(server, "/api/orders/1/deliver", {})
    await server.wait_until_finished(delivered["notifications"][0]["id"])
    assert ("Bestellung ORD-1 zugestellt", "Ihre Bestellung wurde zugestellt.") in await read_feed(server, "buyer")
    read = (await server.expect(200, "GET", "/api/orders/1")).read(Json)
    assert (read["userId"], read["total"], read["deliveredAt"] > read["createdAt"]) == ("buyer", "4999.00", True)
    await server.expect(404, "GET", "/api/orders/unknown")


async def test_c83_a_shipment_that_is_reported_after_the_delivery_is_skipped_as_superseded(
    server: TidingsServer,
) -> None:
    await create_order(server, "2")
    await post(server, "/api/orders/2/deliver", {})
    [shipped] = (await post(server, "/api/orders/2/ship", {}))["notifications"]
    progress = await server.wait_until_finished(shipped["id"])
    assert (shipped["templateCode"], progress.deliveries) == ("ORDER_SHIPPED", 0)
    explained = await server.expect(200, "GET", f"/api/explain?userId=buyer&notificationId={shipped['id']}")
    assert "superseded" in explained.body.decode()
    assert not [title for title, _ in await read_feed(server, "buyer") if title == "Bestellung ORD-2 versandt"]


async def test_c84_a_failed_payment_is_reported_after_the_grace_unless_it_is_captured(server: TidingsServer) -> None:
    await server.call("PUT", "/api/users/buyer", {"locale": "de"})
    failed = await post(server, "/api/payments/p1/fail", {**PAYMENT, "reason": "Karte abgelaufen"})
    captured = await post(server, "/api/payments/p1/capture", PAYMENT)
    unpaid = await post(server, "/api/payments/p2/fail", PAYMENT)
    for one in (captured, unpaid):
        await server.wait_until_finished(one["notification"]["id"])
    assert (await server.wait_until_finished(failed["notification"]["id"])).deliveries == 0
    assert (await post(server, "/api/payments/p2/fail", PAYMENT))["notification"] is None
    titles = [title for title, _ in await read_feed(server, "buyer")]
    assert (titles.count("Zahlung eingegangen"), titles.count("Zahlung fehlgeschlagen")) == (1, 1)


async def test_c82_stock_keepers_are_alerted_once_per_crossing(server: TidingsServer) -> None:
    await server.expect(201, "PUT", "/api/users/keeper", {})
    await server.expect(204, "PUT", "/api/stock-keepers/keeper")
    await server.expect(422, "PUT", "/api/stock-keepers/nobody")
    fired = []
    for stock in (11, 10, 5, 11, 12, 9):
        body = {"productName": "Premium Widget", "currentStock": stock, "threshold": 10}
        observed = await post(server, "/api/inventory/widget", body)
        if observed["notification"] is not None:
            fired.append(stock)
            await server.wait_until_finished(observed["notification"]["id"])
    assert fired == [10, 9]
    assert ("Low stock: Premium Widget", "9 left, alert at 10.") in await read_feed(server, "keeper")
    await server.expect(204, "DELETE", "/api/stock-keepers/keeper")
    await server.expect(404, "DELETE", "/api/stock-keepers/keeper")
    wrong = {"productName": "Widget", "currentStock": 1, "threshold": 10, "rearmAt": 9}
    assert (await post(server, "/api/inventory/w2", wrong, 422))["errors"][0]["field"] == "rearmAt"


async def test_a_new_user_is_welcomed_once_and_buyers_of_a_product_are_an_audience(server: TidingsServer) -> None:
    await create_order(server, "3")
    welcomed = await post(server, "/api/customers/buyer/welcome", {"userName": "Ana"})
    await server.wait_until_finished(welcomed["notification"]["id"])
    assert ("Willkommen, Ana!", "Ihr Konto ist bereit.") in await read_feed(server, "buyer")
    assert (await post(server, "/api/customers/buyer/welcome", {}))["notification"] is None
    for sku, recipients in (("widget-3", 1), ("widget-99", 0)):
        body = {
            "audience": {"kind": "bought", "sku": sku},
            "templateCode": "MESSAGE",
            "variables": {"title": "Recall", "body": "Please return it."},
        }
        accepted = await post(server, "/api/notifications", body, 202)
        assert (await server.wait_until_finished(accepted["id"])).recipients == recipients


@pytest.mark.parametrize("total", [-1, True, "much", 1.00001, "1e20", None])
async def test_a_wrong_amount_is_refused_with_what_it_must_be(server: TidingsServer, total: object) -> None:
    order = {"orderId": "9", "userId": "buyer", "orderNumber": "9", "total": total, "currency": "EUR"}
    problem = await post(server, "/api/orders", order, 422)
    assert problem["errors"][0]["field"] == "total"
    assert "must be an amount" in problem["errors"][0]["message"]
