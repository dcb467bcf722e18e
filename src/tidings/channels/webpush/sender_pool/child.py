"""A sender process: encrypts and posts the requests that arrive on the socket at its standard input.

Started by `pool`. It ends when the socket closes, which also happens when the parent is killed.
"""

import asyncio
import random
import signal
import socket
import sys
from collections.abc import Coroutine

import msgspec

from tidings.channels.webpush.endpoint_allowlist import EndpointPolicy
from tidings.channels.webpush.push_exchange import PushRequest
from tidings.channels.webpush.sender import PushSender
from tidings.channels.webpush.sender_pool.protocol import (
    FramedConnection,
    Init,
    ParentFrame,
    Ready,
    ReplaceKeys,
    RequestBatch,
    ResultBatch,
    WireResult,
    to_wire,
)
from tidings.channels.webpush.transport import Transport
from tidings.channels.webpush.vapid import VapidSigner
from tidings.ports.clock import SystemClock

_decode = msgspec.msgpack.Decoder(ParentFrame).decode


class _SenderChild:
    def __init__(self) -> None:
        self.connection = FramedConnection(self._on_frame)
        self._sender: PushSender | None = None
        self._send_tasks: set[asyncio.Task[None]] = set()
        self._results: list[WireResult] = []

    def _on_frame(self, raw: bytes) -> None:
        match _decode(raw):
            case Init() as init:
                self._sender = _create_sender(init)
                self.connection.write(Ready())
            case ReplaceKeys(keys):
                self._require_sender().set_keys(keys)
            case RequestBatch(requests):
                sender = self._require_sender()
                for number, request in requests:
                    task = asyncio.create_task(self._send(sender, number, request))
                    self._send_tasks.add(task)
                    task.add_done_callback(self._on_send_done)

    def _require_sender(self) -> PushSender:
        assert self._sender is not None, "the first frame is always Init"
        return self._sender

    async def _send(self, sender: PushSender, number: int, request: PushRequest) -> None:
        result = to_wire(number, await sender.send(request))
        if not self._results:
            # one frame for all results of this pass of the event loop
            asyncio.get_running_loop().call_soon(self._flush)
        self._results.append(result)

    def _flush(self) -> None:
        results, self._results = self._results, []
        self.connection.write(ResultBatch(results))

    def _on_send_done(self, task: asyncio.Task[None]) -> None:
        self._send_tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # a bug: the parent retries the sends in flight and starts another process
            asyncio.get_running_loop().call_exception_handler({"message": "a send failed", "exception": error})
            self.connection.close()


def _create_sender(init: Init) -> PushSender:
    return PushSender(
        signer=VapidSigner(init.keys, init.subject),
        policy=EndpointPolicy.parse(init.extra_hosts),
        transport=Transport(ca_pem=init.ca_pem),
        clock=SystemClock(),
        jitter=random.random,
    )


async def _main() -> None:
    child = _SenderChild()
    loop = asyncio.get_running_loop()
    with socket.socket(fileno=sys.stdin.fileno()) as parent_socket:
        parent_socket.setblocking(False)
        await loop.create_connection(lambda: child.connection, sock=parent_socket)
        await child.connection.disconnected


def _run(main: Coroutine[None, None, None]) -> None:
    """Run the coroutine, on uvloop where it is available."""
    if sys.platform == "win32":
        asyncio.run(main)
    else:
        import uvloop

        uvloop.run(main)


if __name__ == "__main__":
    # Ctrl-C and service managers signal the whole process group, but the parent decides when its senders end
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _run(_main())
