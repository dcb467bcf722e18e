"""When deliveries that are held back come again: in a line, not in a crowd, and no sooner than it makes sense. Pure.

Each gets a place in the line, so that a hundred thousand of them do not come back at one instant, only to be written
to the database once more. Each priority has a line of its own: what is urgent does not stand behind a broadcast.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

#: deliveries a second that come back to a host of which nothing else is known
RETURNS_PER_SECOND = 1000.0
#: and to one that is slow, however slow: most will be held back once more, which costs a write each, but it may be
#: quick again any moment, and then nobody should be late by minutes
LEAST_RETURNS_PER_SECOND = 200.0
#: nobody is put further back than this behind the first
LONGEST_LINE = timedelta(minutes=5)
#: what would expire in the line comes back for a last try within the last seconds of its life
LAST_TRY = timedelta(seconds=2)
#: those last tries are spread over at most this much
_LAST_TRIES = timedelta(seconds=30)
_SOON = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Pause:
    """Why and until when a host takes nothing."""

    why: str
    until: datetime
    #: whether the service named the time: then nothing may come sooner
    told: bool = False
    #: deliveries a second that it can take afterwards
    rate: float = RETURNS_PER_SECOND


def place_in_line(line: datetime | None, pause: Pause, jitter: float) -> datetime:
    """Return when the next one in a line comes back. line: when the one before it does; jitter: 0 ≤ jitter < 1."""
    last = pause.until if line is None else max(line, pause.until)
    place = last + timedelta(seconds=1) / max(pause.rate, 0.01)
    if place - pause.until > LONGEST_LINE:
        # the line is full: anywhere in it
        return pause.until + LONGEST_LINE * jitter
    return place


def in_time(place: datetime, pause: Pause, expires_at: datetime, now: datetime, jitter: float) -> datetime:
    """Return the place, or a sooner one if the message would expire first and the service has not forbidden it."""
    if place < expires_at:
        return place
    latest = expires_at - LAST_TRY
    last_try = latest - min(_LAST_TRIES, max(timedelta(), latest - now) / 4) * jitter
    return max(last_try, now + _SOON, pause.until if pause.told else now)
