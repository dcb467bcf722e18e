"""The first signal asks for an end, the second for a quick one; what comes when all is done changes nothing."""

import subprocess
import sys

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
