"""SMTP sink of `tidings bench email`: a child process that accepts every message and keeps only its Message-ID.

It speaks as much of RFC 5321 as the e-mail channel uses, with PIPELINING (RFC 2920), and may delay each reply as a
relay in another network would. It is controlled by lines on its standard input and answers each with a line of JSON.
"""

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, cast

import msgspec

from tidings.errors import TidingsError

_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 10.0
_GREETING: Final = b"220 sink.invalid ESMTP\r\n"
_EXTENSIONS: Final = b"250-sink.invalid\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n"
_OK: Final = b"250 2.0.0 Ok\r\n"
_END_OF_CONTENT: Final = b"\r\n.\r\n"
_ID_HEADER: Final = b"\r\nMessage-ID: "


class SinkStats(msgspec.Struct, frozen=True):
    """What the sink accepted since the last reset."""

    accepted: int = 0
    #: different values of Message-ID
    distinct: int = 0
    #: connections since the start
    connections: int = 0
    #: when the last message was accepted, in seconds since 1970; None = none yet
    last_at: float | None = None


class _Ready(msgspec.Struct, frozen=True):
    port: int


class _Receipts:
    """The messages that all connections accepted."""

    def __init__(self) -> None:
        self.accepted = 0
        self.connections = 0
        self.message_ids: set[bytes] = set()
        self.last_at: float | None = None
        self._changed = asyncio.Event()

    def add(self, content: bytes) -> None:
        start = content.find(_ID_HEADER) + len(_ID_HEADER)
        self.message_ids.add(content[start : content.find(b"\r\n", start)])
        self.accepted += 1
        self.last_at = time.time()
        self._changed.set()

    def reset(self) -> None:
        self.accepted, self.last_at = 0, None
        self.message_ids.clear()

    def stats(self) -> SinkStats:
        return SinkStats(self.accepted, len(self.message_ids), self.connections, self.last_at)

    async def wait_for(self, distinct: int, timeout: float) -> None:  # noqa: ASYNC109  # given by the other process
        """Wait until so many different messages are accepted, at most `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while len(self.message_ids) < distinct:
                    self._changed.clear()
                    await self._changed.wait()


class _Session(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, receipts: _Receipts, delay: float) -> None:
        self._receipts = receipts
        #: seconds from a command, or from the reply before it, to its reply
        self._delay = delay
        self._next_reply_at = 0.0
        self._received = bytearray()
        self._is_content = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport is not a subclass
        self._receipts.connections += 1
        self._reply(_GREETING)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while self._take_content() if self._is_content else self._take_command():
            pass

    def _take_content(self) -> bool:
        """Take a complete message from the received bytes. Returns False if its end is missing."""
        end = self._received.find(_END_OF_CONTENT)
        if end < 0:
            return False
        self._receipts.add(b"\r\n" + bytes(self._received[:end]))
        del self._received[: end + len(_END_OF_CONTENT)]
        self._is_content = False
        self._reply(b"250 2.0.0 Ok: queued\r\n")
        return True

    def _take_command(self) -> bool:
        """Take a complete command from the received bytes. Returns False if there is none."""
        end = self._received.find(b"\r\n")
        if end < 0:
            return False
        verb = bytes(self._received[: min(end, 4)]).upper()
        del self._received[: end + 2]
        match verb:
            case b"EHLO":
                self._reply(_EXTENSIONS)
            case b"DATA":
                self._is_content = True
                self._reply(b"354 End with a dot\r\n")
            case b"MAIL" | b"RCPT" | b"RSET" | b"NOOP":
                self._reply(_OK)
            case b"QUIT":
                self._transport.close()
                return False
            case _:
                self._reply(b"502 5.5.1 not implemented\r\n")
        return True

    def _reply(self, reply: bytes) -> None:
        """Write a reply, after the delay and after the replies before it."""
        if not self._delay:
            self._transport.write(reply)
            return
        loop = asyncio.get_running_loop()
        self._next_reply_at = max(loop.time(), self._next_reply_at) + self._delay
        loop.call_at(self._next_reply_at, self._write, reply)

    def _write(self, reply: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(reply)


@dataclass(frozen=True, slots=True)
class SpawnedSink:
    """A running sink."""

    port: int
    pid: int
    process: asyncio.subprocess.Process

    async def stats(self) -> SinkStats:
        """Return what it accepted since the last reset."""
        return await self._call("stats")

    async def reset(self) -> None:
        """Forget what it accepted."""
        await self._call("reset")

    async def wait_for(self, distinct: int, *, seconds: float) -> SinkStats:
        """Wait until it accepted so many different messages, at most for `seconds`. Returns what it accepted."""
        return await self._call(f"wait {distinct} {seconds}")

    async def _call(self, command: str) -> SinkStats:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\n".encode())
        try:
            return msgspec.json.decode(await self.process.stdout.readline(), type=SinkStats)
        except msgspec.DecodeError:
            raise TidingsError("the SMTP sink ended; see its message on standard error") from None


@contextlib.asynccontextmanager
async def spawn(*, reply_delay_ms: float = 0.0) -> AsyncIterator[SpawnedSink]:
    """Run a sink as a child process for the length of the block. It also ends when this process dies.

    Arguments: reply_delay_ms — milliseconds from each command to its reply.
    Raises TidingsError when it does not start within 60 s.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tidings.bench.smtp_sink", f"--reply-delay-ms={reply_delay_ms}"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        # as the server processes: see `server_process.py`
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        try:
            async with asyncio.timeout(_START_SECONDS):
                ready = msgspec.json.decode(await process.stdout.readline(), type=_Ready)
        except (TimeoutError, msgspec.DecodeError):
            raise TidingsError("the SMTP sink did not start; see its message on standard error") from None
        yield SpawnedSink(ready.port, process.pid, process)
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def _serve(delay: float) -> None:
    """Run the sink until standard input ends."""
    receipts = _Receipts()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Session(receipts, delay), "127.0.0.1", 0)
    print(msgspec.json.encode(_Ready(server.sockets[0].getsockname()[1])).decode(), flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while words := (await reader.readline()).decode().split():
        match words:
            case ["wait", distinct, seconds]:
                await receipts.wait_for(int(distinct), float(seconds))
            case ["reset"]:
                receipts.reset()
        print(msgspec.json.encode(receipts.stats()).decode(), flush=True)
    server.close()


def main() -> None:
    """Run the process."""
    import uvloop

    parser = argparse.ArgumentParser()
    parser.add_argument("--reply-delay-ms", type=float, default=0.0)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(options.reply_delay_ms / 1000))


if __name__ == "__main__":
    main()
