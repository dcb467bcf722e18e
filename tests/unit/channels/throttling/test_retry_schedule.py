"""Retry slots: spread over time, never before Retry-After, and before the expiry."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from tidings.channels.throttling.retry_schedule import (
    DEFAULT_RETRIES_PER_SECOND,
    MAX_RETRY_SPREAD,
    HoldOff,
    before_expiry,
    next_retry_slot,
)
from tidings.testing.clock import START

LATER = START + timedelta(seconds=60)
FAR = START + timedelta(days=1)


def test_a_hundred_thousand_retries_are_spread_at_a_bounded_rate() -> None:
    pause, last_slot, slots = HoldOff("gone", LATER), None, []
    for _ in range(100_000):
        last_slot = next_retry_slot(last_slot, pause, 0.5)
        slots.append(last_slot)
    assert min(slots) > LATER
    assert slots == sorted(slots)
    assert timedelta(seconds=99) < slots[-1] - slots[0] < timedelta(seconds=101)


def test_a_full_schedule_assigns_any_slot() -> None:
    pause = HoldOff("gone", LATER)
    end = LATER + MAX_RETRY_SPREAD
    assert [next_retry_slot(end, pause, jitter) for jitter in (0.0, 0.5)] == [LATER, LATER + MAX_RETRY_SPREAD / 2]


def test_the_slots_of_a_slow_host_follow_its_rate() -> None:
    pause = HoldOff("slow", START, retries_per_second=4.0)
    assert next_retry_slot(START, pause, 0.0) == START + timedelta(seconds=0.25)


def test_a_delivery_that_would_expire_gets_an_earlier_slot() -> None:
    expires = START + timedelta(seconds=40)
    assert before_expiry(LATER, HoldOff("gone", LATER), expires, START, 0.0) == expires - timedelta(seconds=2)


def test_no_slot_is_before_retry_after() -> None:
    pause = HoldOff("shut", LATER, is_server_requested=True)
    assert before_expiry(LATER, pause, START + timedelta(seconds=40), START, 0.5) >= LATER


@given(st.floats(0, 400_000), st.floats(0, 200_000), st.booleans(), st.floats(0, 1, exclude_max=True))
def test_a_slot_is_never_in_the_past_or_before_retry_after(
    expires: float, pause_for: float, told: bool, jitter: float
) -> None:
    pause = HoldOff("x", START + timedelta(seconds=pause_for), told)
    place = next_retry_slot(None, pause, jitter)
    until = before_expiry(place, pause, START + timedelta(seconds=expires), START, jitter)
    assert until > START
    assert not told or until >= pause.until
    assert until <= place or until <= START + timedelta(seconds=1)
    assert place - pause.until <= max(MAX_RETRY_SPREAD, timedelta(seconds=1 / DEFAULT_RETRIES_PER_SECOND))
