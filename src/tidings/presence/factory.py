"""Factory for the presence of a process: in memory, or shared through Redis."""

from tidings.ports.presence import Presence
from tidings.presence.memory_presence import MemoryPresence


def create_presence(redis_url: str | None, prefix: str) -> Presence:
    """Return the presence for a process. It connects at its first use. Raises ConfigError.

    redis_url: as for `redis_client.connection_options`; None = in memory. prefix: first part of the key names.
    """
    if redis_url is None:
        return MemoryPresence()
    # imported here, because the Redis client loads slowly and most installations do not use it
    from tidings.presence.failover_presence import FailoverPresence
    from tidings.presence.redis_presence import RedisPresence
    from tidings.redis_client import RedisClient

    return FailoverPresence(RedisPresence(RedisClient(redis_url, backend="presence"), prefix))
