"""Which provider is asked first, whether another one is asked, and what the outcome is."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.channels.providers.failover import (
    MIN_RECOVERY_SHARE,
    RECOVERY_PERIOD,
    Concern,
    ProviderResponse,
    SendContext,
    build_request_key,
    can_fail_over,
    compute_recovery_share,
    limit_provider_time,
    order_providers,
    select_outcome,
)
from tidings.channels.providers.weights import complete_weights, parse_weight
from tidings.model.outcome import Accepted, InvalidTarget, Outcome, PermanentFailure, RetryLater, Uncertain
from tidings.testing.clock import START

EXPIRES_AT = START + timedelta(hours=1)
SOON = RetryLater(START + timedelta(minutes=1), "429")
AFTER_EXPIRY = RetryLater(EXPIRES_AT, "429")
UNCERTAIN, REFUSED, GONE = Uncertain("hung"), PermanentFailure("no"), InvalidTarget("unknown")


def decide(outcome: Outcome, concern: Concern, *, duplicate_ok: bool = False, shares_excess: bool = False) -> bool:
    context = SendContext("d-1", 1, EXPIRES_AT, duplicate_ok)
    return can_fail_over(ProviderResponse(outcome, concern), context, shares_excess=shares_excess)


def test_c43_a_refusal_of_the_provider_itself_leaves_the_message_to_the_next() -> None:
    assert decide(REFUSED, Concern.PROVIDER)


def test_c43_a_rate_limit_leaves_only_what_would_expire_or_what_the_channel_shares() -> None:
    assert not decide(SOON, Concern.RATE)
    assert decide(AFTER_EXPIRY, Concern.RATE)
    assert decide(SOON, Concern.RATE, shares_excess=True)


def test_c43_an_uncertain_message_goes_on_only_where_a_duplicate_is_acceptable() -> None:
    assert not decide(UNCERTAIN, Concern.UNCERTAIN)
    assert decide(UNCERTAIN, Concern.UNCERTAIN, duplicate_ok=True)


@pytest.mark.parametrize("outcome", [GONE, REFUSED, SOON])
def test_c44_a_refusal_about_the_recipient_never_goes_to_another_provider(outcome: Outcome) -> None:
    assert not decide(outcome, Concern.RECIPIENT, duplicate_ok=True, shares_excess=True)


def test_c45_the_request_key_depends_on_delivery_and_provider_only() -> None:
    assert build_request_key("d-1", "twilio") == "d-1-twilio"
    assert build_request_key("d-1", "twilio") != build_request_key("d-1", "vonage")


def test_c46_a_provider_leaves_time_for_the_next_one() -> None:
    assert limit_provider_time(118.0, has_next=True) == 115.0
    assert limit_provider_time(118.0, has_next=False) == 118.0


@pytest.mark.parametrize(
    ("outcomes", "is_final", "selected"),
    [
        ([UNCERTAIN, Accepted()], True, Accepted()),
        ([UNCERTAIN, GONE], True, GONE),
        ([UNCERTAIN, REFUSED], False, UNCERTAIN),
        ([REFUSED, SOON], False, SOON),
        ([AFTER_EXPIRY, SOON], False, SOON),
        ([SOON, REFUSED], True, REFUSED),
        ([REFUSED, REFUSED], False, REFUSED),
    ],
)
def test_the_outcome_of_several_providers(outcomes: list[Outcome], is_final: bool, selected: Outcome) -> None:
    assert select_outcome(outcomes, is_final=is_final) == selected


@given(st.lists(st.integers(0, 100), min_size=1, max_size=5), st.data(), st.text(max_size=40))
def test_every_provider_is_asked_once_and_the_order_is_stable(
    weights: list[int], data: st.DataObject, delivery_id: str
) -> None:
    shares = data.draw(st.lists(st.floats(0, 1), min_size=len(weights), max_size=len(weights)))
    order = order_providers(weights, shares, delivery_id)
    assert sorted(order) == list(range(len(weights)))
    assert order_providers(weights, shares, delivery_id) == order


def count_first(weights: list[int], shares: list[float]) -> list[int]:
    firsts = [order_providers(weights, shares, f"delivery-{number}")[0] for number in range(10_000)]
    return [firsts.count(index) for index in range(len(weights))]


def test_weights_are_shares_of_the_messages() -> None:
    assert count_first([100, 0], [1, 1]) == [10_000, 0]
    assert count_first([70, 30], [1, 1]) == [pytest.approx(7_000, rel=0.03), pytest.approx(3_000, rel=0.05)]
    assert count_first([0, 0], [1, 1]) == [10_000, 0]


def test_c47_a_provider_that_returns_receives_a_growing_share() -> None:
    assert compute_recovery_share(None, START) == 1
    shares = [compute_recovery_share(START, START + RECOVERY_PERIOD * part / 4) for part in range(5)]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (MIN_RECOVERY_SHARE, 1)
    assert count_first([100, 0], [shares[0], 1]) == [pytest.approx(1_000, rel=0.1), pytest.approx(9_000, rel=0.1)]


def test_a_clock_that_is_set_back_ends_a_recovery() -> None:
    assert compute_recovery_share(START, START - timedelta(days=1)) == 1


def test_the_first_provider_has_all_messages_unless_weights_are_set() -> None:
    assert complete_weights([None, None, None]) == [100, 0, 0]
    assert complete_weights([70, 30, None]) == [70, 30, 0]


@pytest.mark.parametrize("text", ["", "-1", "1.5", "1001", "a"])
def test_a_wrong_weight_is_refused_with_what_it_must_be(text: str) -> None:
    with pytest.raises(ValueError, match="must be a number from 0 to 1000"):
        parse_weight(text)
