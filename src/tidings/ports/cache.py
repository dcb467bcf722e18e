"""A bounded cache with a time to live per entry. Invalidation by key or pattern reaches every process."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Hits and misses since the start of this process."""

    hits: int
    misses: int


class Cache(Protocol):
    """Byte values by key. Losing the cache or its server only costs time: no call raises BackendError."""

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, bytes]:
        """Return the cached values that have not expired."""
        ...

    async def set_many(self, values: Mapping[str, bytes], *, ttl: timedelta) -> None: ...

    async def drop(self, keys: Collection[str]) -> None:
        """Invalidate keys in every process."""
        ...

    async def drop_matching(self, pattern: str) -> None:
        """Invalidate every key that matches a glob with `*`, in every process."""
        ...

    @property
    def stats(self) -> CacheStats: ...

    async def close(self) -> None: ...
