"""Starting the mock push service as a process, for tests and benchmarks that must not share a core's time with it."""

import asyncio
import contextlib
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec

from tidings.errors import TidingsError
from tidings.testing.mock_push.client import MockPushClient
from tidings.testing.mock_push.server import MockPushOptions

_START_SECONDS = 20.0
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

    It ends with the block, and also when this process dies: its standard input is a pipe from here.
    Arguments: options; tls — context that trusts the service's certificate, for the control calls.
    Raises TidingsError when it does not start within 20 s.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tidings.testing.mock_push",
        *command_line(options or MockPushOptions()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        origin = await _origin_of(process)
        yield SpawnedMockPush(origin, process.pid, MockPushClient(origin, tls=tls))
    finally:
        await _end(process)


def command_line(options: MockPushOptions) -> list[str]:
    """Return the arguments that make `python -m tidings.testing.mock_push` run with these options."""
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


async def _origin_of(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_START_SECONDS):
            line = await process.stdout.readline()
        return msgspec.json.decode(line, type=_Ready).origin
    except (TimeoutError, msgspec.DecodeError):
        raise TidingsError("the mock push service did not start; its own message is on standard error") from None


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
