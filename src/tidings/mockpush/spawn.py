"""Runs the mock push service as a child process, so that it does not use the CPU time of the test's own process."""

import asyncio
import contextlib
import ssl
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from tidings.errors import TidingsError
from tidings.mockpush.client import MockPushClient
from tidings.mockpush.server import MockPushOptions

T = TypeVar("T")

_START_SECONDS = 120.0
_STOP_SECONDS = 10.0


class _Ready(msgspec.Struct, frozen=True):
    origin: str


@dataclass(frozen=True, slots=True)
class SpawnedMockPush:
    """A running service."""

    origin: str
    pid: int
    control: MockPushClient


@contextlib.asynccontextmanager
async def spawn(
    options: MockPushOptions | None = None, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[SpawnedMockPush]:
    """Run the service as a child process for the length of the block.

    It stops at the end of the block, and also when this process dies, because its standard input is a pipe.
    Arguments: options; tls — context that trusts the service's certificate, for the control API.
    Raises TidingsError when it does not start within 120 s.
    """
    async with run_child("tidings.mockpush", command_line(options or MockPushOptions()), _Ready) as (ready, pid):
        yield SpawnedMockPush(ready.origin, pid, MockPushClient(ready.origin, tls=tls))


@contextlib.asynccontextmanager
async def run_child(module: str, arguments: Sequence[str], kind: type[T]) -> AsyncIterator[tuple[T, int]]:
    """Run a module as a child process for the length of the block. Yields its ready message and its process id.

    The ready message is one line of JSON on standard output. Standard input is a pipe, whose end stops the process.
    Raises TidingsError when it does not start within 120 s.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield await _read_ready_message(process, module, kind), process.pid
    finally:
        await _stop(process)


def command_line(options: MockPushOptions) -> list[str]:
    """Return the arguments that make `python -m tidings.mockpush` run with these options."""
    arguments = [
        f"--host={options.host}",
        f"--port={options.port}",
        f"--seed={options.seed.decode()}",
        f"--verify-share={options.verify_share}",
        f"--keep={options.keep}",
        f"--timed={options.timed}",
        f"--drip-seconds={options.drip_seconds}",
        "--until-stdin-closes",
    ]
    arguments += [f"--vapid-key={key}" for key in options.vapid_keys]
    arguments += [f"--also-origin={origin}" for origin in options.origins]
    if options.tls_cert is not None:
        arguments.append(f"--tls-cert={options.tls_cert}")
    if options.tls_key is not None:
        arguments.append(f"--tls-key={options.tls_key}")
    return arguments


async def _read_ready_message(process: asyncio.subprocess.Process, module: str, kind: type[T]) -> T:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_START_SECONDS):
            line = await process.stdout.readline()
        return msgspec.json.decode(line, type=kind)
    except (TimeoutError, msgspec.DecodeError):
        raise TidingsError(f"{module} did not start; see its message on standard error") from None


async def _stop(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
