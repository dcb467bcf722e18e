"""The sizes that push services accept: tried in steps after a 413, and remembered per host."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from cachetools import LRUCache

#: bytes that encryption adds: header, padding delimiter and tag (RFC 8188 §2)
ENCRYPTION_OVERHEAD = 103
#: sizes of request bodies that are tried, in bytes, the largest first
BODY_SIZES = (4096, 3072, 2048, 1536, 1024, 768, 512)
#: how long a limit is remembered; then a full message is tried again
REMEMBER_FOR = timedelta(days=1)
#: hosts remembered; their number is unbounded because of wildcard hosts
_MAX_HOSTS = 512


def select_smaller_size(size: int) -> int | None:
    """Return the largest payload, in bytes, of the steps below a refused payload. None after the last step."""
    return next(
        (body - ENCRYPTION_OVERHEAD for body in BODY_SIZES if body - ENCRYPTION_OVERHEAD < size),
        None,
    )


@dataclass(frozen=True, slots=True)
class _Limit:
    max_payload: int
    known_since: datetime


class SizeLimits:
    """The largest payload of each host that ever answered 413."""

    def __init__(self) -> None:
        self._limits: LRUCache[str, _Limit] = LRUCache(_MAX_HOSTS)

    def get(self, host: str, now: datetime) -> int | None:
        """Return the largest payload for a host, in bytes; None = no limit is known."""
        limit = self._limits.get(host) if self._limits else None
        if limit is None or not limit.known_since <= now < limit.known_since + REMEMBER_FOR:
            return None
        return limit.max_payload

    def store(self, host: str, max_payload: int, now: datetime) -> None:
        """Store the largest payload for a host, in bytes."""
        self._limits[host] = _Limit(max_payload, now)
