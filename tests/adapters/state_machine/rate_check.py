"""Check of the queue's rate limit against the commands of the Redis server, by the server's own clock.

A window starts with the first job received after the previous window, and lasts for the limiter's duration.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis

#: expiry times are whole milliseconds
ROUNDING_ERROR = timedelta(milliseconds=2)
_END_MARKER = "end of monitoring"
_LOCK_COMMAND = re.compile(r"SET bull:(?P<queue>.*):(?P<job>[^:]+):lock \S+ PX", re.IGNORECASE)


@dataclass(slots=True)
class LimiterWindow:
    """The jobs received within one limiter window."""

    #: Unix time of the server, in seconds
    started_at: float
    jobs: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class HandoutLog:
    """The jobs received, in the order of the server."""

    windows: list[LimiterWindow]
    #: jobs received without being counted by the limiter
    uncounted: list[str]
    #: indexes in `windows` before which the server lost its counter
    reset_positions: set[int]

    def check(self, max_jobs: int, window: timedelta, broken: Iterable[str]) -> None:
        """Assert that no window exceeds the limit, and that only broken jobs are uncounted."""
        assert set(self.uncounted) <= set(broken)
        for limiter_window in self.windows:
            assert len(limiter_window.jobs) <= max_jobs, f"{len(limiter_window.jobs)} jobs in one window"
        for index in range(1, len(self.windows)):
            if index not in self.reset_positions:
                gap = timedelta(seconds=self.windows[index].started_at - self.windows[index - 1].started_at)
                assert gap >= window - ROUNDING_ERROR, f"the next window started after {gap}"


class CommandMonitor:
    """Records every command of a server (`MONITOR`), including those of scripts."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._monitor: Any = client.monitor()  # untyped methods

    async def start(self) -> None:
        await self._monitor.__aenter__()

    async def stop(self) -> HandoutLog:
        """Return the jobs received since `start`."""
        await self._client.echo(_END_MARKER)
        commands: list[tuple[float, str, bool]] = []
        async for entry in self._monitor.listen():
            if entry["command"] == f"ECHO {_END_MARKER}":
                break
            commands.append((entry["time"], entry["command"], entry["client_type"] == "lua"))
        await self._monitor.__aexit__()
        return parse_handouts(commands)


def parse_handouts(commands: Iterable[tuple[float, str, bool]]) -> HandoutLog:
    """Extract the received jobs from commands: (server time, command text, whether a script called it)."""
    windows: list[LimiterWindow] = []
    uncounted: list[str] = []
    reset_positions: set[int] = set()
    is_counted = False
    for at, text, by_script in commands:
        if text.upper().startswith("FLUSHALL"):
            reset_positions.add(len(windows))
        if not by_script:
            is_counted = False
        elif text.startswith("INCR ") and text.endswith(":limiter"):
            is_counted = True
        elif text.startswith("PEXPIRE ") and ":limiter " in text:
            windows.append(LimiterWindow(at))
        elif locked := _LOCK_COMMAND.match(text):
            (windows[-1].jobs if is_counted else uncounted).append(locked["job"])
            is_counted = False
    return HandoutLog(windows, uncounted, reset_positions)
