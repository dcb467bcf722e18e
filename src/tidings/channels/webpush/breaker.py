"""When to stop asking a push host, and when to try it again: standing and sign in, standing out. Pure.

    closed ──5 failures not made up for──► open ──its time is over──► probing ──the probe is answered──► closed
       └──"come back in …"──► open           ▲───────the probe fails: twice as long───┘

An answer makes up for two failures, so a host opens when it fails in more than two of three tries. What may be about
one device only (429, 5xx) counts once for each device: a single one must not hold up everybody else's messages.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from tidings.channels.webpush.signs import Kind, Sign

#: failures that open a breaker
FAILURES = 5
#: failures further apart than this do not add up
MEMORY = timedelta(seconds=60)
#: how long it stays open at first, and at most; doubled each time the probe fails
FIRST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(seconds=60)
#: a wait that the service asks for is obeyed by all its deliveries, but not for longer than this without a probe:
#: the delivery that was told waits as long as it was told
LONGEST_TOLD_PAUSE = timedelta(hours=1)
#: added at random, so that many workers do not probe at one instant
JITTER_SHARE = 0.25
#: a probe without any result is given up after this; a send gets 20 s
PROBE = timedelta(seconds=25)


class Standing(StrEnum):
    """Whether a host is asked."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"


@dataclass(frozen=True, slots=True)
class Breaker:
    """How a host stands, as far as this process knows."""

    standing: Standing = Standing.CLOSED
    #: silent tries that no answer has made up for
    silent: int = 0
    #: devices for which it failed or asked to wait since its last good answer
    complaints: frozenset[int] = frozenset()
    failed_at: datetime | None = None
    #: when it was opened or the probe began, and until when that lasts
    since: datetime | None = None
    until: datetime | None = None
    #: times it opened by itself since it was last closed
    openings: int = 0
    #: whether the service itself named `until`
    told: bool = False

    def lasts(self, now: datetime) -> bool:
        """Return whether it is held back now. A clock that was set back ends the pause."""
        return self.since is not None and self.until is not None and self.since <= now < self.until


def admitted(breaker: Breaker, now: datetime) -> tuple[Breaker, bool]:
    """Return the breaker after somebody asked to send, and whether they may; after a pause one may, as the probe."""
    if breaker.standing is Standing.CLOSED:
        return breaker, True
    if breaker.lasts(now):
        return breaker, False
    return replace(breaker, standing=Standing.PROBING, since=now, until=now + PROBE, told=False), True


def noted(
    breaker: Breaker, sign: Sign | None, now: datetime, *, device: int, probe: bool = False, jitter: float = 0.0
) -> Breaker:
    """Return the breaker after a send ended.

    sign: None when it says nothing about the host; device: which one it was for, as a hash; probe: whether it was let
    in as the probe; jitter: random, 0 ≤ jitter < 1.
    """
    if sign is None:
        # the next one is the probe
        return replace(breaker, standing=Standing.OPEN, until=now) if _is_probe(breaker, probe) else breaker
    if sign.kind is Kind.SHUT:
        return _told(breaker, sign, now, jitter)
    match breaker.standing:
        case Standing.CLOSED:
            return _counted(breaker, sign, now, device, jitter)
        case Standing.PROBING if probe:
            return _probed(breaker, sign, now, jitter)
        case _:
            # sent before it was opened: old news
            return breaker


def _is_probe(breaker: Breaker, probe: bool) -> bool:
    return probe and breaker.standing is Standing.PROBING


def _counted(breaker: Breaker, sign: Sign, now: datetime, device: int, jitter: float) -> Breaker:
    if sign.kind is Kind.WELL:
        if not breaker.silent and not breaker.complaints:
            return breaker
        return replace(breaker, silent=max(0, breaker.silent - 2), complaints=frozenset())
    forgotten = breaker.failed_at is None or not timedelta() <= now - breaker.failed_at <= MEMORY
    silent = 0 if forgotten else breaker.silent
    complaints = frozenset() if forgotten else breaker.complaints
    if sign.kind is Kind.SILENT:
        silent += 1
    else:
        complaints |= {device}
    counted = replace(breaker, silent=silent, complaints=complaints, failed_at=now)
    if silent + len(complaints) < FAILURES:
        return counted
    return _told(counted, sign, now, jitter) if sign.wait is not None else _opened(counted, now, jitter)


def _probed(breaker: Breaker, sign: Sign, now: datetime, jitter: float) -> Breaker:
    if sign.kind is Kind.WELL:
        return Breaker()
    return _told(breaker, sign, now, jitter) if sign.wait is not None else _opened(breaker, now, jitter)


def _opened(breaker: Breaker, now: datetime, jitter: float) -> Breaker:
    # 2 ** 10 is far above the longest pause; a count of days must not overflow
    pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(breaker.openings, 10)) * (1 + JITTER_SHARE * jitter)
    return Breaker(Standing.OPEN, since=now, until=now + pause, openings=breaker.openings + 1)


def _told(breaker: Breaker, sign: Sign, now: datetime, jitter: float) -> Breaker:
    assert sign.wait is not None, "FULL and SHUT come with a wait"
    # jitter only ever adds: never earlier than told
    until = now + min(LONGEST_TOLD_PAUSE, sign.wait) * (1 + JITTER_SHARE * jitter)
    if breaker.standing is Standing.OPEN and breaker.until is not None and breaker.lasts(now):
        # of those in flight at that moment each was told much the same; the longest wait counts
        return replace(breaker, until=max(until, breaker.until), told=True)
    return Breaker(Standing.OPEN, since=now, until=until, openings=breaker.openings, told=True)
