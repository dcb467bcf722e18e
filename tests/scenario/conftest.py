"""Real processes for scenarios: one server and one mock push service per file; logs are shown with what fails."""

from collections.abc import AsyncIterator, Callable, Generator, Mapping
from pathlib import Path

import pytest
import pytest_asyncio

from tidings.testing.mock_push import SpawnedMockPush, spawn
from tidings.testing.server import TidingsServer

_running = pytest.StashKey[list[TidingsServer]]()


@pytest.fixture(scope="module")
def settings() -> Mapping[str, str]:
    """`TIDINGS_…` variables of the file's servers; a file that needs others overrides this."""
    return {}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def push() -> AsyncIterator[SpawnedMockPush]:
    async with spawn() as service:
        yield service


@pytest.fixture(scope="module")
def make_server(
    request: pytest.FixtureRequest, push: SpawnedMockPush, settings: Mapping[str, str]
) -> Generator[Callable[..., TidingsServer]]:
    """Make servers that may push to the mock service: data folder, options of the command line, more variables."""
    known = request.config.stash.setdefault(_running, [])

    def make(data_dir: Path, *options: str, **more: str) -> TidingsServer:
        allowed = {"TIDINGS_PUSH_EXTRA_HOSTS": push.origin.removeprefix("http://")}
        server = TidingsServer(data_dir, settings={**allowed, **settings, **more}, options=options)
        known.append(server)
        return server

    yield make
    known.clear()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    make_server: Callable[..., TidingsServer], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[TidingsServer]:
    async with make_server(tmp_path_factory.mktemp("server") / "data") as running:
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for server in item.config.stash.get(_running, []):
            report.sections.append((f"log of the server at {server.url}", server.log_tail()))
    return report
