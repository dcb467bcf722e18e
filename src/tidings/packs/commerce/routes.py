"""HTTP routes of the shop: orders, payments, stock and new customers."""

from datetime import timedelta
from typing import Annotated, TypeAlias

from fastapi import APIRouter, Depends
from starlette.responses import JSONResponse, Response

from tidings.packs.commerce.order import Order
from tidings.packs.commerce.payment import PaymentResult
from tidings.packs.commerce.schemas import (
    Key,
    NewOrder,
    NotificationResult,
    OrderResponse,
    OrderUpdateResponse,
    PaymentCapture,
    PaymentFailure,
    Shipment,
    StockLevel,
    StockResponse,
    Welcome,
    serialize_order,
    serialize_result,
    serialize_update,
)
from tidings.packs.commerce.service import CommerceService
from tidings.packs.commerce.settings import load_settings
from tidings.packs.commerce.stock import StockItem
from tidings.ports.pack_context import Idempotent, PackContext
from tidings.schemas.field_types import UserId
from tidings.schemas.json_route import JsonRoute
from tidings.schemas.response_models import LOCATION_HEADER


def create_router(context: PackContext) -> APIRouter:
    """Return the routes of the commerce pack, to be mounted under `/api`."""
    service = CommerceService(context.store, context.notifier, context.clock, payment_grace=load_settings().grace)
    routes = APIRouter(tags=["commerce"])
    routes.include_router(_create_order_router(context, service))
    routes.include_router(_create_payment_router(context, service))
    routes.include_router(_create_stock_router(context, service))
    routes.include_router(_create_customer_router(context, service))
    return routes


def _create_order_router(context: PackContext, service: CommerceService) -> APIRouter:
    routes = APIRouter(route_class=JsonRoute)
    Writer: TypeAlias = Annotated[str, Depends(context.require_scopes("notify"))]
    Once: TypeAlias = Annotated[Idempotent, Depends(context.idempotent)]

    @routes.post(
        "/orders",
        status_code=201,
        response_model=OrderUpdateResponse,
        responses={201: {"headers": LOCATION_HEADER}},
        summary="Record a new order",
        description="Notifies the buyer with `ORDER_CREATED`. An order that is known stays as it is.",
    )
    async def create_order(body: NewOrder, caller: Writer, idempotent: Once) -> Response:
        new = Order(
            body.order_id,
            user_id=body.user_id,
            user_name=body.user_name,
            order_number=body.order_number,
            total=body.total,
            currency=body.currency,
        )
        async with idempotent(caller) as call:
            created = await service.create_order(call.tx, new, {item.sku for item in body.items})
            return call.respond(201, serialize_update(created))

    @routes.post(
        "/orders/{order_id}/ship",
        response_model=OrderUpdateResponse,
        summary="Record that an order was shipped",
        description="Notifies the buyer with `ORDER_SHIPPED`, unless the delivery is known already: then the message "
        "is skipped as superseded. The event of an order that is not created yet is kept until it is.",
    )
    async def ship_order(order_id: Key, body: Shipment, caller: Writer, idempotent: Once) -> Response:
        async with idempotent(caller) as call:
            shipped = await service.ship_order(
                call.tx, order_id, carrier=body.carrier, tracking_number=body.tracking_number
            )
            return call.respond(200, serialize_update(shipped))

    @routes.post(
        "/orders/{order_id}/deliver",
        response_model=OrderUpdateResponse,
        summary="Record that an order was delivered",
        description="Notifies the buyer with `ORDER_DELIVERED`.",
    )
    async def deliver_order(order_id: Key, caller: Writer, idempotent: Once) -> Response:
        async with idempotent(caller) as call:
            return call.respond(200, serialize_update(await service.deliver_order(call.tx, order_id)))

    @routes.get(
        "/orders/{order_id}",
        response_model=OrderResponse,
        summary="Read an order",
        dependencies=[Depends(context.require_scopes("read"))],
    )
    async def read_order(order_id: Key) -> Response:
        async with context.store.read_snapshot() as tx:
            return JSONResponse(serialize_order(await service.get_order(tx, order_id)))

    return routes


def _create_payment_router(context: PackContext, service: CommerceService) -> APIRouter:
    routes = APIRouter(route_class=JsonRoute)
    Writer: TypeAlias = Annotated[str, Depends(context.require_scopes("notify"))]
    Once: TypeAlias = Annotated[Idempotent, Depends(context.idempotent)]

    @routes.post(
        "/payments/{payment_id}/capture",
        response_model=NotificationResult,
        summary="Record a payment that succeeded",
        description="Notifies the buyer with `PAYMENT_CAPTURED`. A message about a failed attempt that is not sent yet "
        "is cancelled.",
    )
    async def capture_payment(payment_id: Key, body: PaymentCapture, caller: Writer, idempotent: Once) -> Response:
        result = PaymentResult(None, body.order_number, body.amount, body.currency, body.user_name)
        async with idempotent(caller) as call:
            _, accepted = await service.record_payment(call.tx, payment_id, body.user_id, result)
            return call.respond(200, serialize_result(accepted))

    @routes.post(
        "/payments/{payment_id}/fail",
        response_model=NotificationResult,
        summary="Record an attempt to pay that failed",
        description="Notifies the buyer with `PAYMENT_FAILED` after the grace `TIDINGS_COMMERCE__PAYMENT_GRACE`, "
        "unless the payment is captured by then.",
    )
    async def fail_payment(payment_id: Key, body: PaymentFailure, caller: Writer, idempotent: Once) -> Response:
        result = PaymentResult(body.attempt, body.order_number, body.amount, body.currency, body.user_name, body.reason)
        async with idempotent(caller) as call:
            _, accepted = await service.record_payment(call.tx, payment_id, body.user_id, result)
            return call.respond(200, serialize_result(accepted))

    return routes


def _create_stock_router(context: PackContext, service: CommerceService) -> APIRouter:
    routes = APIRouter(route_class=JsonRoute)
    Writer: TypeAlias = Annotated[str, Depends(context.require_scopes("notify"))]
    Once: TypeAlias = Annotated[Idempotent, Depends(context.idempotent)]

    @routes.post(
        "/inventory/{sku}",
        response_model=StockResponse,
        summary="Record the stock of a product",
        description="Alerts the stock keepers with `LOW_STOCK_ALERT` when the stock falls to `threshold`, once until "
        "it has risen to `rearmAt`.",
    )
    async def record_stock(sku: Key, body: StockLevel, caller: Writer, idempotent: Once) -> Response:
        observed = StockItem.build(sku, body.product_name, body.current_stock, body.threshold, body.rearm_at)
        async with idempotent(caller) as call:
            item, accepted = await service.record_stock(call.tx, observed)
            state = {"sku": item.sku, "isLow": item.is_low, "rearmAt": item.rearm_at}
            return call.respond(200, {**state, **serialize_result(accepted)})

    @routes.put("/stock-keepers/{user_id}", status_code=204, summary="Make a user a stock keeper")
    async def add_stock_keeper(user_id: UserId, _caller: Writer) -> None:
        async with context.store.transaction() as tx:
            await service.add_stock_keeper(tx, user_id)

    @routes.delete("/stock-keepers/{user_id}", status_code=204, summary="Let a user be no stock keeper any more")
    async def remove_stock_keeper(user_id: UserId, _caller: Writer) -> None:
        async with context.store.transaction() as tx:
            await service.remove_stock_keeper(tx, user_id)

    return routes


def _create_customer_router(context: PackContext, service: CommerceService) -> APIRouter:
    routes = APIRouter(route_class=JsonRoute)
    Writer: TypeAlias = Annotated[str, Depends(context.require_scopes("notify"))]
    Once: TypeAlias = Annotated[Idempotent, Depends(context.idempotent)]

    @routes.post(
        "/customers/{user_id}/welcome",
        response_model=NotificationResult,
        summary="Welcome a new user",
        description="Notifies the user with `USER_WELCOME`, at most once.",
    )
    async def record_welcome(user_id: UserId, body: Welcome, caller: Writer, idempotent: Once) -> Response:
        delay = timedelta(milliseconds=body.delay)
        async with idempotent(caller) as call:
            accepted = await service.record_welcome(call.tx, user_id, user_name=body.user_name, delay=delay)
            return call.respond(200, serialize_result(accepted))

    return routes
