"""Which cache a process gets: its own, one that all share in a Redis, or none."""

from tidings.caches.local import LocalCache
from tidings.ports.cache import Cache


def open_cache(redis_url: str | None, prefix: str, name: str, *, alone: bool) -> Cache | None:
    """Return a cache, None where none would be safe: several processes that could not tell each other what they drop.

    redis_url: as `redis_link.connection_options`; prefix: first part of the names in Redis; name: of the cache;
    alone: whether no other process writes what is kept in it. Nothing is connected yet. Raises ConfigError.
    """
    if redis_url is None:
        return LocalCache() if alone else None
    # what speaks to Redis takes its time to load, and most installations do not need it
    from tidings.caches.redis import RedisCache
    from tidings.redis_link import RedisLink

    return RedisCache(RedisLink(redis_url, what="the cache", decode=False), f"{prefix}-{name}")
