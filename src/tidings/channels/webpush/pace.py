"""How many of a process's places one push host may take, judged by how quickly it answers. Pure.

A host that answers slowly holds each place for long, and would end up with all of them (MISSION B5). So its share
shrinks while it is slow, and grows back as it gets quick.
"""

import msgspec

#: bounds of a host's share of the places: never all, or one that hangs would stop the others. It begins with the
#: least, and has the most after 65 quick answers
LEAST_SHARE, MOST_SHARE = 0.1, 0.75
#: seconds until an answer: below the first the share grows, above the second it shrinks
QUICK, SLOW = 1.0, 2.0
_GROWTH = 0.01
_SHRINK = 0.9
#: what the newest answer counts in the average
_WEIGHT = 0.1
#: seconds without any answer, while there is something to answer, after which nothing more is sent
SILENCE = 2.0


class Pace(msgspec.Struct, frozen=True):
    """How quick a host is."""

    share: float = LEAST_SHARE
    #: average time to an answer, in seconds, the newest weighing most
    seconds: float = 0.0

    @property
    def is_slow(self) -> bool:
        """Whether it is slow however little is asked of it."""
        return self.share <= LEAST_SHARE and self.seconds > SLOW


def answered(pace: Pace, seconds: float) -> Pace:
    """Return the pace after a try that took so long, answered or not."""
    average = pace.seconds + _WEIGHT * (seconds - pace.seconds)
    if seconds < QUICK:
        share = min(MOST_SHARE, pace.share + _GROWTH)
    elif seconds > SLOW:
        share = max(LEAST_SHARE, pace.share * _SHRINK)
    else:
        share = pace.share
    return Pace(share, average)
