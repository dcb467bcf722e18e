"""Runs the mock mail service as a child process."""

import contextlib
from collections.abc import AsyncIterator

import msgspec

from tidings.mockmail.server import MockMailAddress, MockMailOptions
from tidings.mockpush.spawn import run_child


class _Ready(msgspec.Struct, frozen=True, rename="camel"):
    url: str
    smtp_url: str
    sms_url: str


@contextlib.asynccontextmanager
async def spawn(options: MockMailOptions | None = None) -> AsyncIterator[MockMailAddress]:
    """Run the service as a child process for the length of the block. It ends with this process.

    Raises TidingsError when it does not start within 120 s.
    """
    options = options or MockMailOptions()
    arguments = [
        f"--host={options.host}",
        f"--smtp-port={options.smtp_port}",
        f"--http-port={options.http_port}",
        f"--keep={options.keep}",
        "--json",
        "--until-stdin-closes",
    ]
    async with run_child("tidings.mockmail", arguments, _Ready) as (ready, _):
        yield MockMailAddress(ready.url, ready.smtp_url, ready.sms_url)
