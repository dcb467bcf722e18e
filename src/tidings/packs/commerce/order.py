"""Orders: which of their events are new, and what is notified about them. Pure.

Events may arrive repeated and in any order. Each is recorded once. The stage of an event is the version of its
notification on the order's subject, so that an earlier event that arrives later is superseded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum

from tidings.model.audience import NamedSet
from tidings.model.request import NotifyRequest
from tidings.model.subject import SubjectRequest


class OrderStage(IntEnum):
    """The events of an order, in the order in which they happen."""

    CREATED = 1
    SHIPPED = 2
    DELIVERED = 3


@dataclass(frozen=True, slots=True)
class Order:
    """An order as far as its events have arrived. Without a user, its creation has not."""

    id: str
    user_id: str | None = None
    user_name: str | None = None
    order_number: str | None = None
    #: decimal text, such as `4999.00`
    total: str | None = None
    #: ISO 4217
    currency: str | None = None
    carrier: str | None = None
    tracking_number: str | None = None
    created_at: datetime | None = None
    shipped_at: datetime | None = None
    delivered_at: datetime | None = None

    @property
    def stages(self) -> Sequence[OrderStage]:
        """The events that have arrived, earliest stage first."""
        instants = (self.created_at, self.shipped_at, self.delivered_at)
        return [stage for stage, instant in zip(OrderStage, instants, strict=True) if instant is not None]


def record_creation(order: Order, new: Order, now: datetime) -> Order:
    """Return the order after its creation. It stays as it is if that was known."""
    if order.user_id is not None:
        return order
    return replace(
        order,
        user_id=new.user_id,
        user_name=new.user_name,
        order_number=new.order_number,
        total=new.total,
        currency=new.currency,
        created_at=now,
    )


def record_shipment(order: Order, carrier: str | None, tracking_number: str | None, now: datetime) -> Order:
    """Return the order after its shipment. It stays as it is if that was known."""
    if order.shipped_at is not None:
        return order
    return replace(order, carrier=carrier, tracking_number=tracking_number, shipped_at=now)


def record_delivery(order: Order, now: datetime) -> Order:
    """Return the order after its delivery. It stays as it is if that was known."""
    return order if order.delivered_at is not None else replace(order, delivered_at=now)


def build_order_requests(before: Order, after: Order) -> list[NotifyRequest]:
    """Return the notifications about the events that `after` has and `before` has not, earliest stage first.

    While the buyer is unknown there are none. The creation of the order then notifies about every event.
    """
    if after.user_id is None:
        return []
    known = () if before.user_id is None else before.stages
    return [_build_request(after, stage) for stage in after.stages if stage not in known]


def _build_request(order: Order, stage: OrderStage) -> NotifyRequest:
    return NotifyRequest(
        template_code=f"ORDER_{stage.name}",
        audience=NamedSet("buyer", {"orderId": order.id}),
        variables=_select_variables(order, stage),
        source=f"order:{order.id}:{stage.name.lower()}",
        subject=SubjectRequest(build_order_subject(order.id), int(stage)),
    )


def _select_variables(order: Order, stage: OrderStage) -> Mapping[str, object]:
    common = {"orderId": order.id, "orderNumber": order.order_number, "userName": order.user_name}
    match stage:
        case OrderStage.CREATED:
            return {**common, "total": order.total, "currency": order.currency}
        case OrderStage.SHIPPED:
            return {**common, "carrier": order.carrier, "trackingNumber": order.tracking_number}
        case OrderStage.DELIVERED:
            return common


def build_order_subject(order_id: str) -> str:
    """Return the subject of the notifications about an order."""
    return f"order:{order_id}"
