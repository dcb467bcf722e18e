"""Stock levels: when the alert about a low stock fires, and when it can fire again. Pure."""

from dataclasses import dataclass, replace
from typing import Self

from tidings.errors import ValidationFailed
from tidings.model.audience import NamedSet
from tidings.model.request import NotifyRequest
from tidings.model.subject import SubjectRequest


@dataclass(frozen=True, slots=True)
class StockItem:
    """A product with its stock and its thresholds."""

    sku: str
    product_name: str
    current_stock: int
    #: the alert fires when the stock falls to this
    threshold: int
    #: the alert can fire again once the stock has risen to this; more than `threshold`, so that a stock that varies
    #: around the threshold causes one alert
    rearm_at: int
    is_low: bool = False

    @classmethod
    def build(cls, sku: str, product_name: str, current_stock: int, threshold: int, rearm_at: int | None) -> Self:
        """Return an item that has not fired. rearm_at: None = a fifth above the threshold, at least one piece.

        Raises ValidationFailed if `rearm_at` is not more than `threshold`.
        """
        if rearm_at is None:
            rearm_at = threshold + max(1, threshold // 5)
        if rearm_at <= threshold:
            raise ValidationFailed.for_field("rearmAt", f"must be more than threshold ({threshold})")
        return cls(sku, product_name, current_stock, threshold, rearm_at)

    def with_alert_state(self, before: Self | None) -> Self:
        """Return the item with the state of the alert. before: the item as it was last recorded, None = never."""
        was_low = before is not None and before.is_low
        is_low = self.current_stock < self.rearm_at if was_low else self.current_stock <= self.threshold
        return replace(self, is_low=is_low)


def build_low_stock_request(item: StockItem) -> NotifyRequest:
    """Return the alert for the stock keepers."""
    return NotifyRequest(
        template_code="LOW_STOCK_ALERT",
        audience=NamedSet("stock_keepers"),
        variables={
            "sku": item.sku,
            "productName": item.product_name,
            "currentStock": item.current_stock,
            "threshold": item.threshold,
        },
        source=f"stock:{item.sku}",
        subject=SubjectRequest(build_stock_subject(item.sku)),
    )


def build_stock_subject(sku: str) -> str:
    """Return the subject of the alerts about a product."""
    return f"stock:{sku}"
