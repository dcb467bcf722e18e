"""A sender process: encrypts and posts what comes over the pipe on its standard input. Started by `processes`.

It lives as long as the pipe: when the parent ends, however it ends, the pipe closes and the process is gone.
"""

import asyncio
import random
import signal
import socket
import sys

import msgspec

from tidings.channels.webpush.endpoints import EndpointPolicy
from tidings.channels.webpush.event_loop import run
from tidings.channels.webpush.frames import Keys, Pipe, Ready, Result, Results, Setup, ToProcess, Work, flatten
from tidings.channels.webpush.request import PushRequest
from tidings.channels.webpush.sender import Sender
from tidings.channels.webpush.transport import Transport
from tidings.channels.webpush.vapid import Signer
from tidings.ports.clock import SystemClock

_decode = msgspec.msgpack.Decoder(ToProcess).decode


class _Process:
    def __init__(self) -> None:
        self.pipe = Pipe(self._take)
        self._sender: Sender | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._results: list[Result] = []

    def _take(self, raw: bytes) -> None:
        match _decode(raw):
            case Setup() as setup:
                self._sender = _make_sender(setup)
                self.pipe.write(Ready())
            case Keys(keys):
                self._ready_sender().set_keys(keys)
            case Work(requests):
                sender = self._ready_sender()
                for number, request in requests:
                    task = asyncio.create_task(self._send(sender, number, request))
                    self._running.add(task)
                    task.add_done_callback(self._end)

    def _ready_sender(self) -> Sender:
        assert self._sender is not None, "the first frame is always Setup"
        return self._sender

    async def _send(self, sender: Sender, number: int, request: PushRequest) -> None:
        result = flatten(number, await sender.send(request))
        if not self._results:
            # one frame for all that end in this turn of the loop
            asyncio.get_running_loop().call_soon(self._flush)
        self._results.append(result)

    def _flush(self) -> None:
        results, self._results = self._results, []
        self.pipe.write(Results(results))

    def _end(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # a bug: the parent repeats what was in flight and starts another process
            asyncio.get_running_loop().call_exception_handler({"message": "a send failed", "exception": error})
            self.pipe.close()


def _make_sender(setup: Setup) -> Sender:
    return Sender(
        signer=Signer(setup.keys, setup.subject),
        policy=EndpointPolicy.parse(setup.extra_hosts),
        transport=Transport(ca_pem=setup.ca_pem),
        clock=SystemClock(),
        jitter=random.random,
    )


async def _main() -> None:
    process = _Process()
    loop = asyncio.get_running_loop()
    with socket.socket(fileno=sys.stdin.fileno()) as own_end:
        own_end.setblocking(False)
        await loop.create_connection(lambda: process.pipe, sock=own_end)
        await process.pipe.lost


if __name__ == "__main__":
    # Ctrl-C and a service manager signal the whole group; the parent decides when its senders end, by the pipe
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    run(_main())
