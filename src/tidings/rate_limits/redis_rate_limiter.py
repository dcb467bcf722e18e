"""Rate limits in Redis, shared by all processes. While Redis is unavailable, each process counts by itself."""

import hashlib
import time
from collections.abc import Callable

from tidings.backend_health import BackendHealth
from tidings.errors import BackendError
from tidings.ports.rate_limits import RateDecision, RateLimit, RateLimiter
from tidings.redis_client import FAST_TIMEOUT, RedisClient

#: seconds between calls to an unavailable Redis
PROBE_INTERVAL = 1.0
_MICROSECONDS = 1_000_000

# GCRA with the clock of Redis, in microseconds: KEYS: arrival time of the caller. ARGV: interval, period.
# Returns: allowed, remaining calls, reset after, retry after.
_CONSUME_SCRIPT = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, period = tonumber(ARGV[1]), tonumber(ARGV[2])
local arrival = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now)
local next_arrival = arrival + interval
if next_arrival > now + period then
  return {0, 0, arrival - now, next_arrival - now - period}
end
redis.call('SET', KEYS[1], string.format('%.0f', next_arrival), 'PX', math.ceil((next_arrival - now) / 1000))
return {1, math.floor((now + period - next_arrival) / interval), next_arrival - now, 0}
"""


class RedisRateLimiter:
    """Implements `ports.rate_limits.RateLimiter` for any number of processes."""

    def __init__(
        self,
        redis_client: RedisClient,
        prefix: str,
        local: RateLimiter,
        *,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """redis_client: `close` closes it. prefix: first part of the key names. local: used during an outage."""
        self._redis_client = redis_client
        self._prefix = f"{prefix}-limits"
        self._local = local
        self._timer = timer
        self._script = redis_client.client.register_script(_CONSUME_SCRIPT)
        self._health = BackendHealth("rate_limits", timer=timer)
        self._next_probe_at = 0.0

    async def consume(self, name: str, key: str, rate: RateLimit) -> RateDecision:
        if not self._health.is_available:
            if self._timer() < self._next_probe_at:
                return await self._local.consume(name, key, rate)
            # other calls do not wait for the probe
            self._next_probe_at = self._timer() + PROBE_INTERVAL
        try:
            decision = await self._consume_in_redis(name, key, rate)
        except BackendError as error:
            self._health.record_failure(error)
            self._next_probe_at = self._timer() + PROBE_INTERVAL
            return await self._local.consume(name, key, rate)
        self._health.record_success()
        return decision

    async def close(self) -> None:
        """Close the connections."""
        await self._redis_client.close()

    async def _consume_in_redis(self, name: str, key: str, rate: RateLimit) -> RateDecision:
        # hashed, because a key may be an address or the id of a user
        digest = hashlib.sha256(key.encode()).hexdigest()[:32]
        period = round(rate.period * _MICROSECONDS)
        async with self._redis_client.deadline(FAST_TIMEOUT):
            allowed, remaining, reset_after, retry_after = await self._script(
                [f"{{{self._prefix}}}:{name}:{digest}"], [period // rate.calls, period]
            )
        return RateDecision(bool(allowed), int(remaining), reset_after / _MICROSECONDS, retry_after / _MICROSECONDS)
