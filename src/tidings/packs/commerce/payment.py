"""Payments: which results are new, and what is notified about them. Pure."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from tidings.model.audience import users
from tidings.model.request import NotifyRequest
from tidings.model.subject import SubjectRequest

#: attempts of one payment
MAX_ATTEMPTS = 1_000
#: the version of the notification about a capture: it supersedes those about every attempt that failed
CAPTURED_VERSION = MAX_ATTEMPTS + 1


@dataclass(frozen=True, slots=True)
class Payment:
    """The results of a payment so far."""

    id: str
    user_id: str
    #: number of the last attempt that failed, 0 = none has
    failed_attempt: int = 0
    captured_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class PaymentResult:
    """What the payment provider reported of one attempt."""

    #: None = the payment was captured; else the number of the attempt that failed, from 1
    failed_attempt: int | None
    order_number: str
    #: decimal text, such as `4999.00`
    amount: str
    #: ISO 4217
    currency: str
    user_name: str | None = None
    #: why the attempt failed, for the buyer
    reason: str | None = None


def apply_result(payment: Payment, result: PaymentResult, now: datetime) -> Payment:
    """Return the payment after a result. It is unchanged if the result, or one of a later attempt, was known."""
    if result.failed_attempt is None:
        return replace(payment, captured_at=payment.captured_at or now)
    return replace(payment, failed_attempt=max(payment.failed_attempt, result.failed_attempt))


def build_payment_request(payment: Payment, result: PaymentResult, now: datetime, grace: timedelta) -> NotifyRequest:
    """Return the notification about a result.

    A failure is sent after the grace. A capture within the grace supersedes it, and it is never sent. A failure that
    arrives after the capture is superseded at once.
    """
    has_failed = result.failed_attempt is not None
    variables = {
        "orderNumber": result.order_number,
        "amount": result.amount,
        "currency": result.currency,
        "userName": result.user_name,
    }
    return NotifyRequest(
        template_code="PAYMENT_FAILED" if has_failed else "PAYMENT_CAPTURED",
        audience=users(payment.user_id),
        variables={**variables, "reason": result.reason} if has_failed else variables,
        send_at=now + grace if has_failed else None,
        source=f"payment:{payment.id}:{'failed' if has_failed else 'captured'}",
        subject=SubjectRequest(f"payment:{payment.id}", result.failed_attempt or CAPTURED_VERSION),
    )
