"""The audiences of the commerce pack: the buyer of an order, customers by what they bought, stock keepers."""

from collections.abc import Mapping

from sqlalchemy import Select, select

from tidings.packs.commerce.tables import orders, purchases, stock_keepers
from tidings.ports.pack import AudienceKind


def _select_buyer(arguments: Mapping[str, object]) -> Select[str]:
    return select(orders.c.user_id).where(orders.c.id == arguments["orderId"], orders.c.user_id.is_not(None))


def _select_bought(arguments: Mapping[str, object]) -> Select[str]:
    return select(purchases.c.user_id).where(purchases.c.sku == arguments["sku"])


def _select_stock_keepers(_arguments: Mapping[str, object]) -> Select[str]:
    return select(stock_keepers.c.user_id)


AUDIENCES = (
    AudienceKind("buyer", {"orderId": "order-1"}, _select_buyer, "bought order {orderId}"),
    AudienceKind("bought", {"sku": "widget-1"}, _select_bought, "bought product {sku}"),
    AudienceKind("stock_keepers", {}, _select_stock_keepers, "keeps the stock"),
)
