"""Factory for a cache of a process: in memory, shared through Redis, or none."""

from tidings.caches.memory_cache import MemoryCache
from tidings.ports.cache import Cache


def create_cache(redis_url: str | None, prefix: str, name: str, *, is_exclusive: bool) -> Cache | None:
    """Return a cache; it connects at its first use. Raises ConfigError.

    Returns None where no cache is safe: several processes without Redis cannot invalidate each other's entries.

    redis_url: as for `redis_client.connection_options`; None = no Redis.
    prefix, name: form the first part of the key names in Redis.
    is_exclusive: whether no other process writes the cached data.
    """
    if redis_url is None:
        return MemoryCache() if is_exclusive else None
    # imported here: the Redis client is slow to load, and most installations do not need it
    from tidings.caches.redis_cache import RedisCache
    from tidings.redis_client import RedisClient

    return RedisCache(RedisClient(redis_url, backend="cache", decode=False), f"{prefix}-{name}")
