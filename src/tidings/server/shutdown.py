"""Shutdown by SIGTERM or SIGINT: the first signal requests a graceful shutdown, a second one forces it."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Shutdown:
    """Whether a shutdown is requested or forced, and the time that remains."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        #: work in progress is no longer waited for
        self.forced = asyncio.Event()
        self._requested_at = 0.0
        self._startup_task: asyncio.Task[object] | None = None

    def request(self) -> None:
        """Request a shutdown; a second request forces it."""
        if self.requested.is_set():
            self.forced.set()
        else:
            self._requested_at = asyncio.get_running_loop().time()
            self.requested.set()
        if self._startup_task is not None:
            self._startup_task.cancel()

    @property
    def is_start_aborted(self) -> bool:
        """Whether the shutdown was requested before the process had started."""
        return self.requested.is_set() and self._startup_task is not None

    def mark_started(self) -> None:
        """End the start phase: a later request no longer cancels the starting task."""
        self._startup_task = None

    def remaining(self, seconds: float) -> float:
        """Return how many of `seconds` remain since the shutdown was requested."""
        return max(0.0, self._requested_at + seconds - asyncio.get_running_loop().time())

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Handle the signals for the duration of the block; until `mark_started` they also cancel the current task."""
        self._startup_task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for signal_number in _SIGNALS:
            loop.add_signal_handler(signal_number, self.request)
        try:
            yield
        finally:
            for signal_number in _SIGNALS:
                loop.remove_signal_handler(signal_number)
                if self.requested.is_set():
                    # the shutdown is complete: a late signal must not turn it into an abnormal exit status
                    signal.signal(signal_number, signal.SIG_IGN)
