"""An event loop in a background thread, for blocking callers of asynchronous code.

asyncpg has no blocking API, and a second PostgreSQL driver for these callers would have to be maintained too.
"""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class LoopThread:
    """Runs coroutines for any number of threads. The loop starts with the first one and does not survive a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine and return its result or raise its error. Must not be called from inside the loop."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._ensure_started())
        try:
            return future.result()
        except BaseException:
            # the calling thread was interrupted, for example by Ctrl-C
            future.cancel()
            raise

    def close(self) -> None:
        """Stop the loop and its thread. Running coroutines are abandoned. Does nothing if the loop was not started."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def _ensure_started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="tidings-database", daemon=True)
                self._thread.start()
            return self._loop
