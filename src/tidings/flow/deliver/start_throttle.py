"""The start throttle: limits the sends that start in one pass of the event loop, so that other work is not delayed.

A send takes a third of a millisecond of CPU before it first waits. With a fast push service, 200 sends would start in
each pass of the loop, and an urgent message waits for about a hundred passes between the queue and its own send.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: maximum number of sends that start in one pass of the event loop
MAX_STARTS_PER_TICK = 3
#: seconds between two starts of sends that are not urgent, while urgent work is in progress
URGENT_START_INTERVAL = 0.005


class StartThrottle:
    """Decides whether a send may start now. Not thread-safe: one event loop."""

    def __init__(self, on_start_allowed: Callable[[], None]) -> None:
        """on_start_allowed: called whenever a send may start that could not start before."""
        self._on_start_allowed = on_start_allowed
        self._started_this_tick = 0
        #: number of `urgent_work` contexts that are open
        self._urgent_count = 0
        #: whether a send that is not urgent started less than `URGENT_START_INTERVAL` ago, during urgent work
        self._is_paused = False

    def can_start(self, *, urgent: bool) -> bool:
        """Return whether a send may start now."""
        if self._urgent_count and not urgent and self._is_paused:
            return False
        return self._started_this_tick < MAX_STARTS_PER_TICK

    def record_start(self, *, urgent: bool) -> None:
        """Count a send that starts."""
        loop = asyncio.get_running_loop()
        if not self._started_this_tick:
            loop.call_soon(self._on_next_tick)
        self._started_this_tick += 1
        if self._urgent_count and not urgent and not self._is_paused:
            self._is_paused = True
            loop.call_later(URGENT_START_INTERVAL, self._resume)

    @contextmanager
    def urgent_work(self) -> Iterator[None]:
        """Return a context for urgent work, in which sends that are not urgent start one by one, 200 per second.

        The context must only cover database work, not a send: a push service may answer slowly.
        """
        self._urgent_count += 1
        try:
            yield
        finally:
            self._urgent_count -= 1
            if not self._urgent_count:
                self._on_start_allowed()

    def _on_next_tick(self) -> None:
        self._started_this_tick = 0
        self._on_start_allowed()

    def _resume(self) -> None:
        self._is_paused = False
        self._on_start_allowed()
