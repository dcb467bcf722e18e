"""A bounded cache with a time to live per entry, invalidated by key and by pattern everywhere (MISSION M21)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a cache was good for since the start of this process."""

    hits: int
    misses: int

    @property
    def hit_rate(self) -> float:
        """Share of look-ups that were answered, 0 when there were none."""
        return self.hits / total if (total := self.hits + self.misses) else 0.0


class Cache(Protocol):
    """Values by key, as bytes. Losing it, or its server, costs time and nothing else: no call raises BackendError."""

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, bytes]:
        """Return what is known and still fresh."""
        ...

    async def set_many(self, values: Mapping[str, bytes], *, ttl: timedelta) -> None: ...

    async def drop(self, keys: Collection[str]) -> None:
        """Forget keys, in every process."""
        ...

    async def drop_matching(self, pattern: str) -> None:
        """Forget every key that matches a glob with `*`, in every process."""
        ...

    @property
    def stats(self) -> CacheStats: ...

    async def close(self) -> None: ...
