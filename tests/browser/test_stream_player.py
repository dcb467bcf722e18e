"""`examples/stream` in Chromium: the page joins, joins again after a restart of the server, and its end is noticed."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, expect
from tests.support.cluster import ServerProcess
from tests.support.server import ADMIN_KEY, eventually

from tidings.testing.ports import free_port

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

Json = dict[str, Any]
EXAMPLE = Path(__file__).parents[2] / "examples" / "stream"


@pytest.fixture(scope="module")
def host_port() -> int:
    return free_port()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(host_port: int, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    settings = {
        "TIDINGS_CORS_ORIGINS": f"http://127.0.0.1:{host_port}",
        "TIDINGS_STREAM_HEARTBEAT": "0.5",
        "WEBSOCKET_PORT": "0",
    }
    data = tmp_path_factory.mktemp("stream") / "data"
    process = ServerProcess("serve", data, settings=settings, options=("--port", str(free_port())))
    async with process:
        for user in ("host", "ada", "bo"):
            await process.expect(201, "PUT", f"/api/users/{user}", {})
        yield process


@pytest_asyncio.fixture(loop_scope="module")
async def event(server: ServerProcess) -> str:
    body = {"title": "Jazz night", "startDate": "2030-01-01T20:00:00Z", "hostId": "host", "status": "ACTIVE"}
    return str((await server.expect(201, "POST", "/api/events", body)).read(Json)["id"])


@asynccontextmanager
async def run_host(server: ServerProcess, event: str, port: int) -> AsyncIterator[str]:
    """Run the example's host on a port, and yield its URL."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "host:app", "--app-dir", str(EXAMPLE), "--port", str(port)),
        env={**server.environment, "TIDINGS_URL": server.url, "TIDINGS_API_KEY": ADMIN_KEY, "STREAM_EVENT": event},
        stderr=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )

    async def is_listening() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    try:
        await eventually(is_listening)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()


async def state_of(server: ServerProcess, event: str) -> tuple[str, int]:
    stream = (await server.expect(200, "GET", f"/api/streams/{event}")).read(Json)
    return stream["state"], stream["epoch"]


async def test_row_35_the_player_joins_again_by_itself_and_its_end_is_noticed(
    chromium: BrowserContext, server: ServerProcess, event: str, host_port: int
) -> None:
    async with run_host(server, event, host_port) as url:
        first, second = await chromium.new_page(), await chromium.new_page()
        await first.goto(f"{url}/?visitor=ada")
        await second.goto(f"{url}/?visitor=bo")
        for page in (first, second):
            await expect(page.locator("#state")).to_have_text("live", timeout=20_000)
            await expect(page.locator("#viewers")).to_have_text("2", timeout=20_000)
        await server.stop()
        await expect(first.locator("#state")).to_have_text("connecting", timeout=20_000)
        await server.start()
        for page in (first, second):
            await expect(page.locator("#viewers")).to_have_text("2", timeout=30_000)
        # the grace period of 30 s began with the restart and is longer than any pause of the player: the epoch goes on
        assert await state_of(server, event) == ("live", 1)
        await server.expect(200, "PUT", f"/api/streams/{event}", {"graceSeconds": 1})
        await first.close()
        await second.close()

        async def has_ended() -> bool:
            return await state_of(server, event) == ("ended", 1)

        await eventually(has_ended, within=30)
