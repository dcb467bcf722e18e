"""Which presence a process gets: its own, or the shared one of a Redis."""

from tidings.ports.clock import Clock
from tidings.ports.presence import Presence
from tidings.presence.fallback import FallbackPresence
from tidings.presence.local import LocalPresence
from tidings.presence.redis import RedisPresence
from tidings.redis_link import RedisLink


def open_presence(redis_url: str | None, prefix: str, clock: Clock) -> Presence:
    """Return the presence for a process. Nothing is connected yet.

    redis_url: as `redis_link.connection_options`; None = in memory. prefix: first part of the keys' names.
    clock: tells the time when what was missed is told to a Redis that is back. Raises ConfigError.
    """
    if redis_url is None:
        return LocalPresence()
    return FallbackPresence(RedisPresence(RedisLink(redis_url, what="the presence"), prefix), clock)
