"""AIMD limit of the rate at which a provider receives messages. Pure.

A provider that answers "too many messages" is not taken out: it receives half as many per second, then gradually more.
Without such an answer for a minute there is no limit.
"""

from datetime import datetime, timedelta

import msgspec
from msgspec import structs

#: messages per second that a provider receives at least
MIN_RATE = 0.5
#: the wait after "too many messages" without a requested wait
DEFAULT_PAUSE = timedelta(seconds=1)
#: the longest pause without a further request
MAX_PAUSE = timedelta(hours=1)
#: a message whose turn comes this soon waits for it; otherwise it is deferred
MAX_WAIT = timedelta(seconds=2)
_MULTIPLICATIVE_DECREASE = 0.5
#: after each such period the rate grows by the rate to which it was reduced
_ADDITIVE_INCREASE_PERIOD = timedelta(seconds=10)
_UNLIMITED_AFTER = timedelta(seconds=60)
#: answers to messages that were sent before the last reduction do not reduce the rate again
_REDUCTION_INTERVAL = timedelta(seconds=1)


class SendRate(msgspec.Struct, frozen=True):
    """The rate of one provider."""

    #: messages per second to which the rate was last reduced; None = no limit
    reduced_to: float | None = None
    reduced_at: datetime | None = None
    #: nothing is sent before this
    paused_until: datetime | None = None
    #: turn of the next message
    next_at: datetime | None = None


def find_limit(rate: SendRate, now: datetime) -> float | None:
    """Return the messages per second that may be sent now, None = no limit. Setting the clock back ends a limit."""
    if rate.reduced_to is None or rate.reduced_at is None:
        return None
    elapsed = now - rate.reduced_at
    if not timedelta() <= elapsed < _UNLIMITED_AFTER:
        return None
    return rate.reduced_to * (1 + elapsed / _ADDITIVE_INCREASE_PERIOD)


def find_pause(rate: SendRate, now: datetime) -> datetime | None:
    """Return until when nothing is sent, None if there is no pause."""
    until = rate.paused_until
    return until if until is not None and now < until <= now + MAX_PAUSE else None


def on_throttled(rate: SendRate, now: datetime, sent_per_second: float, wait: timedelta | None) -> SendRate:
    """Return the rate after the answer "too many messages".

    sent_per_second: the rate at which messages were sent lately. wait: the wait that the provider requested.
    """
    until = now + min(MAX_PAUSE, wait if wait is not None else DEFAULT_PAUSE)
    paused = structs.replace(rate, paused_until=max(until, find_pause(rate, now) or until))
    limit = find_limit(rate, now)
    if limit is not None and rate.reduced_at is not None and now - rate.reduced_at < _REDUCTION_INTERVAL:
        return paused
    current = sent_per_second if limit is None else min(limit, sent_per_second)
    return structs.replace(paused, reduced_to=max(MIN_RATE, current * _MULTIPLICATIVE_DECREASE), reduced_at=now)


def reserve(rate: SendRate, now: datetime) -> tuple[SendRate, datetime, bool]:
    """Return the new state, the turn of a message, and whether the turn is reserved.

    Without a reservation the turn is more than `MAX_WAIT` ahead.
    """
    turn = max(now, find_pause(rate, now) or now)
    limit = find_limit(rate, now)
    if limit is not None and rate.next_at is not None and rate.next_at - now <= MAX_PAUSE:
        turn = max(turn, rate.next_at)
    if turn - now > MAX_WAIT:
        return rate, turn, False
    if limit is None:
        return rate, turn, True
    return structs.replace(rate, next_at=turn + timedelta(seconds=1) / limit), turn, True
