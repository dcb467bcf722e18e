"""What outcomes say about a device."""

from datetime import timedelta

import pytest

from tidings.flow.record.target_health import derive_target_changes
from tidings.model.delivery import AttemptResult, SkipReason, SkipRecord
from tidings.model.outcome import Accepted, InvalidTarget, Outcome, PermanentFailure, RetryLater
from tidings.model.subscription import TargetChange
from tidings.testing.clock import START

ODD = PermanentFailure("the push service answered 400: odd request 17", 400, is_target_suspect=True)
OTHER = PermanentFailure("the push service answered 403: no", 403, is_target_suspect=True)
REASON = "400: the push service answered # odd request #"


def results(*outcomes: Outcome | SkipRecord, target: str | None = "s-1") -> list[AttemptResult]:
    return [
        AttemptResult(
            delivery_id=f"d-{number}",
            notification_id="n-1",
            user_id="u-1",
            channel="webpush",
            target_id=target,
            lease_token="t",  # not a password
            number=1,
            outcome=outcome,
            expires_at=START + timedelta(days=1),
            started_at=START,
            finished_at=START + timedelta(seconds=number),
        )
        for number, outcome in enumerate(outcomes)
    ]


@pytest.mark.parametrize(
    ("outcomes", "change"),
    [
        ([Accepted()], TargetChange("s-1", True, continues=False)),
        ([ODD], TargetChange("s-1", False, 1, REASON)),
        ([ODD, ODD], TargetChange("s-1", False, 2, REASON)),
        ([ODD, Accepted()], TargetChange("s-1", True, continues=False)),
        ([Accepted(), ODD, ODD], TargetChange("s-1", True, 2, REASON, continues=False)),
        ([OTHER, ODD], TargetChange("s-1", False, 1, REASON, continues=False)),
    ],
)
def test_refusals_in_a_row_are_counted(outcomes: list[Outcome], change: TargetChange) -> None:
    assert derive_target_changes(results(*outcomes)) == [change]


def test_the_order_of_time_counts_and_not_that_of_the_list() -> None:
    [change] = derive_target_changes(results(Accepted(), ODD)[::-1])
    assert (change.refusals, change.is_reached) == (1, True)


def test_numbers_in_a_reason_do_not_make_it_another_reason() -> None:
    again = PermanentFailure("the push service answered 400: odd request 18", 400, is_target_suspect=True)
    [change] = derive_target_changes(results(ODD, again))
    assert change.refusals == 2


@pytest.mark.parametrize(
    "outcome",
    [
        RetryLater(START, "later"),
        PermanentFailure("our header", 400, operator_alert=True),
        InvalidTarget("gone", 410),
        SkipRecord("n-1", "u-1", "webpush", SkipReason.EXPIRED),
    ],
)
def test_other_outcomes_say_nothing(outcome: Outcome | SkipRecord) -> None:
    assert derive_target_changes(results(outcome)) == []
    assert derive_target_changes(results(ODD, target=None)) == []
