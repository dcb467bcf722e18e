"""A process that receives SIGTERM during its start aborts the start and exits cleanly."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("command", [["api", "--port", "0"], ["worker"]], ids=["api", "worker"])
async def test_a_process_stopped_during_its_start_exits_cleanly(command: list[str], tmp_path: Path) -> None:
    connected = asyncio.Event()

    async def accept_silently(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(accept_silently, "127.0.0.1", 0) as database:
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
        await asyncio.wait_for(connected.wait(), 60)
        process.send_signal(signal.SIGTERM)
        output, _ = await asyncio.wait_for(process.communicate(), 8)
    assert process.returncode == 0, output.decode()
    assert b"stopped_while_starting" in output
    assert b"Traceback" not in output
