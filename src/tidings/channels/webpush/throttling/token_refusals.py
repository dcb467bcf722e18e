"""Decides whether a refused VAPID token concerns a push host or one device. Pure.

A push service that refuses the token for one device while it accepts it for others means the device: its endpoint may
be an address that is no subscription. Otherwise it means this server, and the host is held back until it accepts again.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from cachetools import LRUCache

#: a host that accepted a message within this period is held back after two refusals in a row, otherwise after one
RECENT_ACCEPTANCE = timedelta(seconds=60)
#: refusals of one device, each after the host accepted another one, that show that only the device is refused
MIN_CONTRADICTIONS = 3
#: devices remembered per host
_MAX_TARGETS = 10_000


class TokenVerdict(StrEnum):
    """What a refused token means."""

    #: only this device is refused
    TARGET_REFUSED = "target refused"
    #: the host accepts nothing from this server
    HOST_REFUSES = "host refuses"
    #: the next refusals will show it
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class _RefusedTarget:
    refused_at: datetime
    contradictions: int = 0


@dataclass(slots=True)
class TokenRefusals:
    """The token refusals of one push host."""

    _last_accepted_at: datetime | None = None
    #: start of the latest request that was accepted
    _last_accepted_start: datetime | None = None
    #: refusals of any device since the last acceptance
    _refusals: int = 0
    #: by hash
    _refused_targets: LRUCache[int, _RefusedTarget] = field(default_factory=lambda: LRUCache(_MAX_TARGETS))

    def on_accepted(self, target_hash: int, started_at: datetime, now: datetime) -> None:
        """Note that the host accepted a message."""
        self._last_accepted_at, self._last_accepted_start = now, started_at
        self._refusals = 0
        if self._refused_targets:
            self._refused_targets.pop(target_hash, None)

    def on_refused(self, target_hash: int, now: datetime) -> TokenVerdict:
        """Return what a refusal means."""
        target = self._refused_targets.get(target_hash, _RefusedTarget(now))
        # a request that started before the refusal may have been accepted before the service changed its mind
        if self._last_accepted_start is not None and self._last_accepted_start > target.refused_at:
            target = replace(target, contradictions=target.contradictions + 1)
        self._refused_targets[target_hash] = replace(target, refused_at=now)
        if target.contradictions >= MIN_CONTRADICTIONS:
            return TokenVerdict.TARGET_REFUSED
        self._refusals += 1
        is_recent = self._last_accepted_at is not None and now - self._last_accepted_at < RECENT_ACCEPTANCE
        return TokenVerdict.UNCLEAR if self._refusals == 1 and is_recent else TokenVerdict.HOST_REFUSES
