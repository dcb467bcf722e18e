"""A process that is told to stop while it still starts gives up starting, which is an end in order."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("command", [["api", "--port", "0"], ["worker"]], ids=["api", "worker"])
async def test_it_ends_in_order(command: list[str], tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(says_nothing, "127.0.0.1", 0) as database:
        port = database.sockets[0].getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "tidings.cli", *command],
            env=os.environ
            | {
                "TIDINGS_DATA_DIR": str(tmp_path),
                "TIDINGS_DATABASE": f"postgresql://tidings@127.0.0.1:{port}/tidings",
                "TIDINGS_REDIS": "redis://127.0.0.1:1/0",
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        await asyncio.wait_for(asked.wait(), 60)
        process.send_signal(signal.SIGTERM)
        said, _ = await asyncio.wait_for(process.communicate(), 8)
    assert process.returncode == 0, said.decode()
    assert b"stopped_while_starting" in said
    assert b"Traceback" not in said
