"""Rate limits in the memory of one process, by the generic cell rate algorithm (GCRA)."""

from cachetools import LRUCache

from tidings.ports.clock import Clock
from tidings.ports.rate_limits import RateDecision, RateLimit

#: largest number of keys per limit; the least recently used is evicted first
MAX_KEYS = 20_000
#: seconds; about four times the precision of a float timestamp
_EPSILON = 1e-6


class GcraLimiter:
    """The counters of one limit: one theoretical arrival time per key."""

    def __init__(self, rate: RateLimit) -> None:
        self.rate = rate
        self._emission_interval = rate.period / rate.calls
        self._arrival_times: LRUCache[str, float] = LRUCache(MAX_KEYS)

    def consume(self, key: str, now: float) -> RateDecision:
        """Count one call of `key` at `now` (seconds since the epoch)."""
        interval, period = self._emission_interval, self.rate.period
        arrival = max(self._arrival_times.get(key, now), now)
        next_arrival = arrival + interval
        if next_arrival > now + period + _EPSILON:
            return RateDecision(False, 0, arrival - now, next_arrival - now - period)
        self._arrival_times[key] = next_arrival
        reset_after = next_arrival - now
        return RateDecision(True, int((period - reset_after + _EPSILON) / interval), reset_after, 0.0)


class MemoryRateLimiter:
    """Implements `ports.rate_limits.RateLimiter` for one process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._limiters: dict[tuple[str, RateLimit], GcraLimiter] = {}

    async def consume(self, name: str, key: str, rate: RateLimit) -> RateDecision:
        limiter = self._limiters.get((name, rate))
        if limiter is None:
            limiter = self._limiters[name, rate] = GcraLimiter(rate)
        return limiter.consume(key, self._clock.now().timestamp())

    async def close(self) -> None:
        """Close nothing."""
