"""The first signal requests a shutdown, the second forces it. Later signals have no effect."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from tidings.server.shutdown import Shutdown

#: requests its own shutdown, waits, and receives a second signal while only connections are open
SCRIPT = """
import asyncio, os, signal
from tidings.server.shutdown import Shutdown

async def main():
    shutdown = Shutdown()
    with shutdown.handle_signals():
        shutdown.mark_started()
        os.kill(os.getpid(), signal.SIGTERM)
        await shutdown.requested.wait()
        assert not shutdown.forced.is_set()
        os.kill(os.getpid(), {second})
        await shutdown.forced.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(0)

asyncio.run(main())
os.kill(os.getpid(), signal.SIGTERM)
print("in order")
"""


def test_a_graceful_shutdown_succeeds_with_any_number_of_signals() -> None:
    for second in ("signal.SIGTERM", "signal.SIGINT"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(second=second)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "in order\n", "")


async def test_a_start_is_aborted_by_a_signal() -> None:
    stop, cancelled = Shutdown(), 0
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with stop.handle_signals():
        for _ in range(2):
            # the second signal, because the clean-up after the first may wait for a hanging server
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(asyncio.CancelledError):
                await asyncio.Event().wait()
            cancelled += 1
        given_up = [stop.is_start_aborted]
        stop.mark_started()
        given_up.append(stop.is_start_aborted)
        stop.request()
        await asyncio.sleep(0)
    assert (cancelled, given_up) == (2, [True, False])
    assert [signal.signal(number, handler) for number, handler in before.items()] == [signal.SIG_IGN] * 2


async def test_a_failed_start_restores_the_signal_handlers() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Shutdown().handle_signals():
        pass
    assert signal.getsignal(signal.SIGTERM) is before
