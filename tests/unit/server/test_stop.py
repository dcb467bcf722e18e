"""The first signal asks for an end, the second for a quick one; what comes when all is done changes nothing."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from tidings.server.stop import Stop

#: asks itself, waits, and is asked again where only connections are left to close
SCRIPT = """
import asyncio, os, signal
from tidings.server.stop import Stop

async def main():
    stop = Stop()
    with stop.by_signals():
        stop.started()
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.asked.wait()
        assert not stop.hurry.is_set()
        os.kill(os.getpid(), {second})
        await stop.hurry.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(0)

asyncio.run(main())
os.kill(os.getpid(), signal.SIGTERM)
print("in order")
"""


def test_an_end_in_order_is_one_however_often_it_is_asked_for() -> None:
    for second in ("signal.SIGTERM", "signal.SIGINT"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(second=second)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "in order\n", "")


async def test_a_start_is_given_up_at_each_signal_and_what_began_is_not() -> None:
    stop, cancelled = Stop(), 0
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with stop.by_signals():
        for _ in range(2):
            # the second one because what is cleaned up after the first may wait for a server that hangs
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(asyncio.CancelledError):
                await asyncio.Event().wait()
            cancelled += 1
        given_up = [stop.given_up]
        stop.started()
        given_up.append(stop.given_up)
        stop.ask()
        await asyncio.sleep(0)
    assert (cancelled, given_up) == (2, [True, False])
    assert [signal.signal(number, handler) for number, handler in before.items()] == [signal.SIG_IGN] * 2


async def test_a_start_that_failed_by_itself_leaves_the_signals_as_they_are() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Stop().by_signals():
        pass
    assert signal.getsignal(signal.SIGTERM) is before
