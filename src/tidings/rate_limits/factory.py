"""Factory for the rate limiter of a process: in memory, or shared through Redis."""

from tidings.ports.clock import Clock
from tidings.ports.rate_limits import RateLimiter
from tidings.rate_limits.memory_rate_limiter import MemoryRateLimiter


def create_rate_limiter(redis_url: str | None, prefix: str, clock: Clock) -> RateLimiter:
    """Return a rate limiter; it connects at its first use. Raises ConfigError.

    redis_url: as for `redis_client.connection_options`; None = each process counts by itself. prefix: first part of the
    key names in Redis.
    """
    local = MemoryRateLimiter(clock)
    if redis_url is None:
        return local
    # imported here: the Redis client is slow to load, and most installations do not need it
    from tidings.rate_limits.redis_rate_limiter import RedisRateLimiter
    from tidings.redis_client import RedisClient

    return RedisRateLimiter(RedisClient(redis_url, backend="rate_limits"), prefix, local)
