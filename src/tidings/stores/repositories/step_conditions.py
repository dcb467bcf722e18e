"""What users did with notifications, as other tables know it: feeds, receipts and tracked links."""

from collections.abc import Collection, Mapping
from datetime import datetime

from sqlalchemy import select

from tidings.model.engagement import has_human_click
from tidings.model.receipt import ReceiptStatus
from tidings.model.waiting_step import StepEnd
from tidings.ports.steps import Fulfilment, Pair
from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.repositories.delivery_history import SELECT_TRACES, load_deliveries
from tidings.stores.schema.tables import deliveries, inbox_items
from tidings.stores.sql.json_params import encode_rows, rowset

_d, _i = deliveries.c, inbox_items.c
_pairs = rowset("rows", _d.notification_id, _d.user_id, alias="pairs")
_SELECT_MARKS = select(_i.notification_id, _i.user_id, _i.seen_at, _i.read_at).where(
    _i.notification_id == _pairs.c.notification_id, _i.user_id == _pairs.c.user_id, _i.seen_at.is_not(None)
)
_SELECT_SENT = SELECT_TRACES.where(_d.notification_id == _pairs.c.notification_id, _d.user_id == _pairs.c.user_id)
_ARRIVED = frozenset({ReceiptStatus.DELIVERED, ReceiptStatus.COMPLAINED})


async def find_seen(tx: Transaction, pairs: Collection[Pair]) -> set[Pair]:
    """Return the pairs whose user has seen or read the notification in the feed."""
    marks = await connection_of(tx).execute(_SELECT_MARKS, {"rows": encode_rows(sorted(set(pairs)))})
    return {(mark.notification_id, mark.user_id) for mark in marks}


async def load_fulfilled(tx: Transaction, pairs: Collection[Pair], now: datetime) -> Mapping[Pair, list[Fulfilment]]:
    """Return what happened, for each pair for which something did."""
    rows = encode_rows(sorted(set(pairs)))
    found: dict[Pair, list[Fulfilment]] = {}
    for mark in await connection_of(tx).execute(_SELECT_MARKS, {"rows": rows}):
        end = StepEnd.SEEN if mark.read_at is None else StepEnd.READ
        found.setdefault((mark.notification_id, mark.user_id), []).append(Fulfilment(end))
    for trace in await load_deliveries(tx, _SELECT_SENT, {"rows": rows}):
        of_pair = found.setdefault((trace.notification_id, trace.user_id), [])
        if has_human_click(trace.receipts, now):
            of_pair.append(Fulfilment(StepEnd.CLICKED))
        if trace.receipt_status in _ARRIVED:
            of_pair.append(Fulfilment(StepEnd.DELIVERED, trace.channel))
    return found
