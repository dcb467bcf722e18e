"""When a mock service that runs as a process ends: at SIGTERM, SIGINT, or the end of its parent process."""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def stop_on_signal(*, until_stdin_closes: bool) -> Iterator[asyncio.Event]:
    """Yield an event that is set at SIGTERM or SIGINT. Called in a running event loop.

    until_stdin_closes: the end of standard input sets it too. With a pipe from the parent, the process never outlives
    its parent.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    if until_stdin_closes:
        _watch_stdin(loop, stop)
    try:
        yield stop
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def _watch_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    def wait() -> None:
        while os.read(0, 4096):
            pass
        with contextlib.suppress(RuntimeError):  # the loop is already closed
            loop.call_soon_threadsafe(stop.set)

    # A thread, because an event loop cannot watch some kinds of standard input (a file, /dev/null).
    threading.Thread(target=wait, name="stdin-watch", daemon=True).start()
