"""The status that follows from receipts."""

from datetime import timedelta
from itertools import permutations
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tidings.model.receipt import (
    EventCause,
    Receipt,
    ReceiptStatus,
    advance_status,
    compute_status,
    select_receipt,
)
from tidings.testing.clock import START as NOW

SENT, DELIVERED, BOUNCED = ReceiptStatus.SENT, ReceiptStatus.DELIVERED, ReceiptStatus.BOUNCED
STATUSES = list(ReceiptStatus)


def make_receipt(status: ReceiptStatus | None, message_id: str | None = "m1", code: str | None = None) -> Receipt:
    return Receipt("id", "sms", "twilio", status, EventCause.NONE, message_id, None, None, code, "", NOW, NOW)


RECEIPTS = st.builds(
    make_receipt,
    st.sampled_from([None, *STATUSES]),
    st.sampled_from([None, "m1", "m2"]),
    st.sampled_from([None, "30005"]),
)


def test_c48_sent_after_delivered_changes_nothing() -> None:
    for order in permutations([make_receipt(SENT), make_receipt(DELIVERED), make_receipt(SENT)]):
        assert compute_status(order) is DELIVERED


@given(st.lists(RECEIPTS, max_size=7), st.integers(1, 3), st.randoms(use_true_random=False))
def test_c48_the_order_and_the_repetition_of_receipts_change_nothing(
    receipts: list[Receipt], parts: int, random: Any
) -> None:
    shuffled = receipts + receipts[:3]
    random.shuffle(shuffled)
    assert compute_status(shuffled, parts) is compute_status(receipts, parts)


@given(st.lists(st.sampled_from([None, *STATUSES]), max_size=6), st.sampled_from([None, *STATUSES]))
def test_c48_a_status_never_moves_back(statuses: list[ReceiptStatus | None], last: ReceiptStatus | None) -> None:
    before = compute_status([make_receipt(status) for status in statuses])
    after = advance_status(before, last)
    rank = [None, *STATUSES].index
    assert rank(after) >= rank(before)


def test_c48_a_late_failure_without_a_code_does_not_hide_the_recorded_reason() -> None:
    with_code = make_receipt(BOUNCED, code="5.1.1")
    for order in permutations([make_receipt(BOUNCED), with_code, make_receipt(SENT)]):
        assert select_receipt(order, compute_status(order)) == with_code
    assert select_receipt([], None) is None


def test_c49_a_delivered_part_does_not_hide_the_failure_of_another() -> None:
    failed, delivered = make_receipt(ReceiptStatus.UNDELIVERED, "m1"), make_receipt(DELIVERED, "m2")
    for order in permutations([failed, delivered]):
        assert compute_status(order, 2) is ReceiptStatus.UNDELIVERED


def test_c49_a_message_is_delivered_when_all_its_parts_are() -> None:
    first, second = make_receipt(DELIVERED, "m1"), make_receipt(DELIVERED, "m2")
    assert compute_status([first, second], 3) is SENT
    assert compute_status([first, second, make_receipt(SENT, "m3")], 3) is SENT
    assert compute_status([first, second, make_receipt(DELIVERED, "m3")], 3) is DELIVERED
    assert compute_status([], 3) is None


def test_the_first_receipt_of_a_status_decides() -> None:
    first = make_receipt(DELIVERED)
    later = Receipt(
        "b", "sms", "twilio", DELIVERED, EventCause.NONE, "m1", None, None, None, "", NOW + timedelta(1), NOW
    )
    assert select_receipt([later, first], DELIVERED) == first
