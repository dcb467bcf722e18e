"""Results of a payment: repeats change nothing, a failure waits for the grace, a capture supersedes it."""

from datetime import UTC, datetime, timedelta

import pytest

from tidings.packs.commerce.payment import Payment, PaymentResult, apply_result, build_payment_request

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
GRACE = timedelta(minutes=2)
PAYMENT = Payment("p1", "ana")


def result(failed_attempt: int | None) -> PaymentResult:
    return PaymentResult(failed_attempt, "ORD-7", "49.90", "EUR", reason=None if failed_attempt is None else "expired")


@pytest.mark.parametrize("results", [[1, 1], [2, 1], [None, None], [1, None, 1], [None, 1, None, 1]])
def test_a_repeated_result_changes_nothing(results: list[int | None]) -> None:
    payment = PAYMENT
    for one in results[:-1]:
        payment = apply_result(payment, result(one), NOW)
    assert apply_result(payment, result(results[-1]), NOW + GRACE) == payment


def test_c84_a_capture_supersedes_every_failure_and_a_failure_waits_for_the_grace() -> None:
    failed = build_payment_request(PAYMENT, result(1), NOW, GRACE)
    again = build_payment_request(PAYMENT, result(2), NOW, GRACE)
    captured = build_payment_request(PAYMENT, result(None), NOW, GRACE)
    assert (failed.send_at, captured.send_at) == (NOW + GRACE, None)
    subjects = [one.subject for one in (failed, again, captured)]
    assert [one.key for one in subjects if one] == ["payment:p1"] * 3
    versions = [one.version for one in subjects if one and one.version is not None]
    assert versions == sorted(set(versions))
    assert failed.variables["reason"] == "expired"
    assert "reason" not in captured.variables
