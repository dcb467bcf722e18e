"""Bodies of requests and responses of the commerce API. Names are those of the templates' variables."""

from decimal import Decimal, InvalidOperation
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from tidings.localization.instants import format_utc_instant
from tidings.model.notification import Notification
from tidings.packs.commerce.order import Order
from tidings.packs.commerce.payment import MAX_ATTEMPTS
from tidings.packs.commerce.service import OrderUpdate
from tidings.schemas.field_types import Label, UserId, check_single_line
from tidings.schemas.json_body import RequestModel
from tidings.schemas.response_models import ResponseModel

MAX_STOCK = 2**31 - 1
#: longest delay of a welcome, in milliseconds: a week
MAX_WELCOME_DELAY = 7 * 24 * 3_600_000


def parse_amount(value: object) -> str:
    """Return a number, or the text of one, as decimal text. Raises ValueError."""
    message = 'must be an amount from 0 to 999999999999999 with at most 4 decimals, such as 4999 or "49.90"'
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(message)
    try:
        amount = Decimal(str(value))
    except InvalidOperation as error:
        raise ValueError(message) from error
    if not amount.is_finite() or not 0 <= amount < 10**15 or amount != round(amount, 4):
        raise ValueError(message)
    return format(amount, "f")


Amount = Annotated[
    str,
    BeforeValidator(parse_amount),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}], "examples": ["49.90"]}),
]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$", description="ISO 4217, such as EUR")]
Key = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(check_single_line)]
Count = Annotated[int, Field(ge=0, le=MAX_STOCK)]


class OrderItem(RequestModel):
    """A product of an order."""

    sku: Key
    quantity: Annotated[int, Field(ge=1, le=MAX_STOCK)] = 1


class NewOrder(RequestModel):
    """An order that was created in the shop."""

    order_id: Key
    user_id: UserId
    order_number: Label
    total: Amount
    currency: Currency
    user_name: Label | None = None
    items: Annotated[list[OrderItem], Field(max_length=500)] = Field(default_factory=list)


class Shipment(RequestModel):
    """How an order was shipped."""

    carrier: Label | None = None
    tracking_number: Label | None = None


class PaymentCapture(RequestModel):
    """A payment that succeeded."""

    user_id: UserId
    order_number: Label
    amount: Amount
    currency: Currency
    user_name: Label | None = None


class PaymentFailure(PaymentCapture):
    """An attempt to pay that failed."""

    attempt: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)] = 1
    reason: Label | None = None


class StockLevel(RequestModel):
    """The stock of a product."""

    product_name: Label
    current_stock: Count
    threshold: Count
    rearm_at: Count | None = Field(None, description="the stock at which the alert can fire again; default: 20 % more")


class Welcome(RequestModel):
    """A new user to welcome."""

    user_name: Label | None = None
    delay: Annotated[int, Field(ge=0, le=MAX_WELCOME_DELAY)] = Field(0, description="milliseconds from now")


class AcceptedNotification(ResponseModel):
    """A notification that was accepted."""

    id: str
    template_code: str
    status: str


class OrderResponse(ResponseModel):
    """An order. Without a user, only later events of it have arrived."""

    order_id: str
    user_id: str | None
    order_number: str | None
    total: str | None
    currency: str | None
    created_at: str | None
    shipped_at: str | None
    delivered_at: str | None


class OrderUpdateResponse(OrderResponse):
    """An order after an event. A repeated event causes no notification."""

    notifications: list[AcceptedNotification]


class NotificationResult(ResponseModel):
    """The notification that a call caused, null if it caused none."""

    notification: AcceptedNotification | None


class StockResponse(NotificationResult):
    """The state of the alert about a product."""

    sku: str
    is_low: bool
    rearm_at: int


def serialize_order(order: Order) -> dict[str, object]:
    """Return an order as `OrderResponse`."""
    instants = {"createdAt": order.created_at, "shippedAt": order.shipped_at, "deliveredAt": order.delivered_at}
    return {
        "orderId": order.id,
        "userId": order.user_id,
        "orderNumber": order.order_number,
        "total": order.total,
        "currency": order.currency,
        **{name: None if instant is None else format_utc_instant(instant) for name, instant in instants.items()},
    }


def serialize_update(update: OrderUpdate) -> dict[str, object]:
    """Return the result of an event as `OrderUpdateResponse`."""
    return {
        **serialize_order(update.order),
        "notifications": [serialize_notification(notification) for notification in update.notifications],
    }


def serialize_notification(notification: Notification) -> dict[str, object]:
    """Return a notification as `AcceptedNotification`."""
    return {
        "id": notification.id,
        "templateCode": notification.template_code,
        "status": notification.state.value,
    }


def serialize_result(notification: Notification | None) -> dict[str, object]:
    """Return the notification of a call as `NotificationResult`."""
    return {"notification": None if notification is None else serialize_notification(notification)}
