"""SIGTERM and SIGINT: the first asks for an orderly end, a second one for an end at once."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """What was asked for, and when."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        #: whoever waits for something does not wait any longer
        self.hurry = asyncio.Event()
        self._since = 0.0
        self._starting: asyncio.Task[object] | None = None

    def ask(self) -> None:
        """Ask for an end; asking twice is asking for it at once."""
        if self.asked.is_set():
            self.hurry.set()
        else:
            self._since = asyncio.get_running_loop().time()
            self.asked.set()
        if self._starting is not None:
            self._starting.cancel()

    @property
    def given_up(self) -> bool:
        """Whether an end was asked for before the process had started."""
        return self.asked.is_set() and self._starting is not None

    def started(self) -> None:
        """From now on whoever is asked to end does so by itself."""
        self._starting = None

    def left(self, seconds: float) -> float:
        """Return how much of the time that an end may take is left."""
        return max(0.0, self._since + seconds - asyncio.get_running_loop().time())

    @contextmanager
    def by_signals(self) -> Iterator[None]:
        """Listen to the signals for the length of the block; until `started` they cancel the task that it is in."""
        self._starting = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self.ask)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
                if self.asked.is_set():
                    # what was asked for has been done: nobody needs to hurry us, and an end in order must not look
                    # like a death
                    signal.signal(number, signal.SIG_IGN)
