"""Read off the server, with its own clock, when each job was taken, and hold that against the limit per window.

A window begins with the first job that is taken after the last window's end, and lasts for the limiter's duration.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis

#: instants of expiry are whole milliseconds
ROUNDED = timedelta(milliseconds=2)
_END = "end of the watch"
_LOCK = re.compile(r"SET bull:(?P<queue>.*):(?P<job>[^:]+):lock \S+ PX", re.IGNORECASE)


@dataclass(slots=True)
class Window:
    """Jobs that were taken under one count of the limiter."""

    #: in the server's time, seconds since 1970
    begin: float
    jobs: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Takings:
    """What was taken, in the order of the server."""

    windows: list[Window]
    #: taken without being counted
    uncounted: list[str]
    #: places in `windows` before which the server lost its count
    forgotten: set[int]

    def check(self, most: int, window: timedelta, broken: Iterable[str]) -> None:
        """Assert that no window has more than it may, and that nothing but broken jobs went uncounted."""
        assert set(self.uncounted) <= set(broken)
        for one in self.windows:
            assert len(one.jobs) <= most, f"{len(one.jobs)} jobs in one window"
        for place in range(1, len(self.windows)):
            if place not in self.forgotten:
                apart = timedelta(seconds=self.windows[place].begin - self.windows[place - 1].begin)
                assert apart >= window - ROUNDED, f"the next window began after {apart}"


class Watch:
    """Listens to every command of a server (`MONITOR`), those of its scripts too."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._monitor: Any = client.monitor()  # its methods have no types

    async def begin(self) -> None:
        await self._monitor.__aenter__()

    async def end(self) -> Takings:
        """Return what was taken since `begin`."""
        await self._client.echo(_END)
        seen: list[tuple[float, str, bool]] = []
        async for one in self._monitor.listen():
            if one["command"] == f"ECHO {_END}":
                break
            seen.append((one["time"], one["command"], one["client_type"] == "lua"))
        await self._monitor.__aexit__()
        return takings(seen)


def takings(seen: Iterable[tuple[float, str, bool]]) -> Takings:
    """Return what commands, as (server's time, words, whether a script called it), say about jobs that were taken."""
    windows: list[Window] = []
    uncounted: list[str] = []
    forgotten: set[int] = set()
    counted = False
    for at, words, by_script in seen:
        if words.upper().startswith("FLUSHALL"):
            forgotten.add(len(windows))
        if not by_script:
            counted = False
        elif words.startswith("INCR ") and words.endswith(":limiter"):
            counted = True
        elif words.startswith("PEXPIRE ") and ":limiter " in words:
            windows.append(Window(at))
        elif taken := _LOCK.match(words):
            (windows[-1].jobs if counted else uncounted).append(taken["job"])
            counted = False
    return Takings(windows, uncounted, forgotten)
