"""What follows from events of providers for the address that they name."""

from datetime import timedelta

import pytest
from msgspec import structs

from tidings.flow.record.suppression_policy import (
    Effect,
    LiftBounces,
    LiftOptOuts,
    MarkGone,
    ReportReply,
    Suppress,
    count_soft_bounces,
    decide_effect,
)
from tidings.model.receipt import EventCause, ProviderEvent, Receipt, ReceiptStatus
from tidings.model.suppression import SoftBouncePolicy, SuppressionReason
from tidings.testing.clock import START as NOW

POLICY = SoftBouncePolicy(bounces=3, within=timedelta(days=14), suppressed_for=timedelta(days=7))
EVENT = ProviderEvent("email", "postmark", "e1", NOW, recipient="ana@example.org", sender="+1")
DELIVERED, BOUNCED = ReceiptStatus.DELIVERED, ReceiptStatus.BOUNCED


def make_history(*causes: EventCause | ReceiptStatus) -> list[Receipt]:
    return [
        Receipt(
            str(number),
            "email",
            "postmark",
            cause if isinstance(cause, ReceiptStatus) else BOUNCED,
            cause if isinstance(cause, EventCause) else EventCause.NONE,
            *(None, None, None, None, ""),
            NOW,
            NOW,
        )
        for number, cause in enumerate(causes)
    ]


def decide(cause: EventCause, history: list[Receipt] | None = None) -> Effect | None:
    return decide_effect(structs.replace(EVENT, cause=cause), BOUNCED, history or [], POLICY, NOW)


@pytest.mark.parametrize(
    ("cause", "effect"),
    [
        (EventCause.HARD_BOUNCE, Suppress(SuppressionReason.HARD_BOUNCE, "+1")),
        (EventCause.COMPLAINT, Suppress(SuppressionReason.COMPLAINT, "+1")),
        (EventCause.UNSUBSCRIBE, Suppress(SuppressionReason.UNSUBSCRIBE, "+1")),
        (EventCause.OPT_OUT, Suppress(SuppressionReason.OPT_OUT, "+1")),
        (EventCause.PROVIDER_OPT_OUT, Suppress(SuppressionReason.PROVIDER_OPT_OUT, "+1")),
        (EventCause.OPT_IN, LiftOptOuts("+1")),
        (EventCause.INVALID_NUMBER, MarkGone()),
        (EventCause.HELP, ReportReply()),
        (EventCause.REVIEW, ReportReply()),
        (EventCause.POLICY_BOUNCE, None),
        (EventCause.AUTO_REPLY, None),
        (EventCause.SOFT_BOUNCE, None),
        (EventCause.NONE, None),
    ],
)
def test_c55_each_cause_has_one_effect(cause: EventCause, effect: Effect | None) -> None:
    assert decide(cause) == effect


def test_c55_bounces_that_pass_suppress_when_they_repeat_and_for_some_days() -> None:
    soft = EventCause.SOFT_BOUNCE
    assert decide(soft, make_history(soft, soft)) is None
    until = NOW + timedelta(days=7)
    assert decide(soft, make_history(soft, soft, soft)) == Suppress(SuppressionReason.SOFT_BOUNCES, expires_at=until)


def test_c55_a_confirmed_delivery_and_other_causes_do_not_count_as_soft_bounces() -> None:
    soft, policy = EventCause.SOFT_BOUNCE, EventCause.POLICY_BOUNCE
    assert count_soft_bounces(make_history(soft, policy, soft, EventCause.AUTO_REPLY)) == 2
    assert count_soft_bounces(make_history(soft, DELIVERED, soft, soft)) == 1
    assert count_soft_bounces([]) == 0


def test_c56_only_a_delivery_that_did_not_bounce_as_well_lifts_bounces() -> None:
    delivered = structs.replace(EVENT, status=DELIVERED)
    assert decide_effect(delivered, DELIVERED, [], POLICY, NOW) == LiftBounces()
    assert decide_effect(delivered, BOUNCED, [], POLICY, NOW) is None
    assert decide_effect(structs.replace(EVENT, status=ReceiptStatus.SENT), ReceiptStatus.SENT, [], POLICY, NOW) is None
