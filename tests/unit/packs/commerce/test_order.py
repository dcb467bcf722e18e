"""Events of an order in any order and repeated: each is notified about once, and the latest stage counts."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.model.audience import NamedSet
from tidings.model.request import NotifyRequest
from tidings.packs.commerce.order import (
    Order,
    OrderStage,
    build_order_requests,
    record_creation,
    record_delivery,
    record_shipment,
)

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
NEW = Order("7", user_id="ana", user_name="Ana", order_number="ORD-7", total="4999", currency="INR")

#: every event at least once, in any order, with repeats
histories = st.tuples(
    st.permutations(list(OrderStage)), st.lists(st.tuples(st.sampled_from(OrderStage), st.integers(0, 10)), max_size=5)
).map(lambda drawn: _insert(drawn[0], drawn[1]))


def _insert(events: list[OrderStage], repeats: Sequence[tuple[OrderStage, int]]) -> list[OrderStage]:
    for event, place in repeats:
        events.insert(min(place, len(events)), event)
    return events


def record(order: Order, stage: OrderStage) -> Order:
    match stage:
        case OrderStage.CREATED:
            return record_creation(order, NEW, NOW)
        case OrderStage.SHIPPED:
            return record_shipment(order, "DHL", "T-1", NOW)
        case OrderStage.DELIVERED:
            return record_delivery(order, NOW)


def replay(history: Sequence[OrderStage]) -> tuple[Order, list[NotifyRequest]]:
    order, requests = Order("7"), []
    for stage in history:
        before, order = order, record(order, stage)
        requests += build_order_requests(before, order)
    return order, requests


@given(histories)
def test_c83_every_order_of_events_with_repeats_has_the_same_end(history: list[OrderStage]) -> None:
    expected_order, expected = replay(list(OrderStage))
    order, requests = replay(history)
    assert order == expected_order
    assert sorted(requests, key=lambda one: one.template_code) == sorted(expected, key=lambda one: one.template_code)


@pytest.mark.parametrize("stage", OrderStage)
def test_a_repeated_event_notifies_nobody(stage: OrderStage) -> None:
    once = record(record_creation(Order("7"), NEW, NOW), stage)
    assert build_order_requests(once, record(once, stage)) == []


def test_before_the_creation_the_buyer_is_unknown() -> None:
    shipped = record_shipment(Order("7"), None, None, NOW)
    assert build_order_requests(Order("7"), shipped) == []
    created = record_creation(shipped, NEW, NOW)
    assert [one.template_code for one in build_order_requests(shipped, created)] == ["ORDER_CREATED", "ORDER_SHIPPED"]


def test_the_buyer_is_told_the_order_and_its_total() -> None:
    [request] = build_order_requests(Order("7"), record_creation(Order("7"), NEW, NOW))
    assert request.audience == NamedSet("buyer", {"orderId": "7"})
    assert request.variables == {
        "orderId": "7",
        "orderNumber": "ORD-7",
        "userName": "Ana",
        "total": "4999",
        "currency": "INR",
    }
