"""An event loop in a thread of its own: callers without a loop wait there for what is asynchronous.

asyncpg has no blocking twin, and a second driver only for them would be one more to keep working.
"""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class Apart:
    """Runs coroutines for any number of threads. The thread starts with the first one and does not survive a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Return what the coroutine returns, or raise what it raises. Not for calls from inside the loop itself."""
        waiting = asyncio.run_coroutine_threadsafe(work, self._started())
        try:
            return waiting.result()
        except BaseException:
            # whoever waits may be interrupted, by Ctrl-C say
            waiting.cancel()
            raise

    def close(self) -> None:
        """End the thread. What still runs is cut off; nothing happens when nothing was started."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="tidings-database", daemon=True)
                self._thread.start()
            return self._loop
