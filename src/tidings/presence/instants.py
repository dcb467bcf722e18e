"""What the adapters agree on about time: how far a clock may be off, and what names a vacancy."""

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
#: a sign of life from further ahead than this was given by a clock that has been set back since. Nodes that agree
#: within a minute are left alone
CLOCKS_AGREE_WITHIN = timedelta(minutes=1)
#: for how long the last epoch of a room is kept; longer than any clock jumps. Later its time alone makes it a new one
EPOCHS_KEPT = timedelta(days=2)


def microseconds(instant: datetime) -> int:
    """Return microseconds since 1970, exactly."""
    return (instant - EPOCH) // MICROSECOND


def instant(since_1970: int) -> datetime:
    """Return the instant of so many microseconds since 1970."""
    return EPOCH + since_1970 * MICROSECOND


def next_epoch(since: datetime, last: int) -> int:
    """Return the epoch of a vacancy: milliseconds since 1970 of its last sign of life, and more than the last one.

    Counted like this it is not used again when the counts are lost, and two that saw the same say the same.
    """
    return max(microseconds(since) // 1000, last + 1)
