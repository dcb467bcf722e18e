"""Retry slots: when deferred deliveries are tried again. Pure.

Each deferred delivery gets its own slot, so that a hundred thousand of them do not return at one instant and have to be
deferred again with a database write each. Slots are assigned per priority: urgent ones do not queue behind a broadcast.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

#: deliveries per second that return to a host by default
DEFAULT_RETRIES_PER_SECOND = 1000.0
#: deliveries per second that return to a slow host at least. Most of them are deferred again, at the cost of a write
#: each, but the host may recover at any moment, and then no delivery should be minutes late
MIN_RETRIES_PER_SECOND = 200.0
#: the last slot is at most this long after the first
MAX_RETRY_SPREAD = timedelta(minutes=5)
#: a delivery that would expire before its slot gets a last try this long before its expiry, or earlier
LAST_TRY_MARGIN = timedelta(seconds=2)
#: last tries are spread over at most this period
_MAX_LAST_TRY_SPREAD = timedelta(seconds=30)
_MIN_RETRY_DELAY = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class HoldOff:
    """Why and until when a push host receives nothing."""

    why: str
    until: datetime
    #: whether the push service requested the wait: then no delivery may return sooner
    is_server_requested: bool = False
    #: deliveries per second that it can take afterwards
    retries_per_second: float = DEFAULT_RETRIES_PER_SECOND


def next_retry_slot(previous_slot: datetime | None, hold_off: HoldOff, jitter: float) -> datetime:
    """Return the slot after `previous_slot`, the last one of the priority. `jitter`: random, 0 ≤ jitter < 1."""
    last = hold_off.until if previous_slot is None else max(previous_slot, hold_off.until)
    slot = last + timedelta(seconds=1) / max(hold_off.retries_per_second, 0.01)
    if slot - hold_off.until > MAX_RETRY_SPREAD:
        # all slots are taken: share a random one
        return hold_off.until + MAX_RETRY_SPREAD * jitter
    return slot


def before_expiry(slot: datetime, hold_off: HoldOff, expires_at: datetime, now: datetime, jitter: float) -> datetime:
    """Return the slot, or an earlier time if the message would expire before it.

    The time is never before a wait that the push service requested.
    """
    if slot < expires_at:
        return slot
    latest = expires_at - LAST_TRY_MARGIN
    last_try = latest - min(_MAX_LAST_TRY_SPREAD, max(timedelta(), latest - now) / 4) * jitter
    return max(last_try, now + _MIN_RETRY_DELAY, hold_off.until if hold_off.is_server_requested else now)
