"""End-to-end fixtures: one server and one mock push service per file; failed tests show the server logs."""

from collections.abc import AsyncIterator, Callable, Generator, Mapping
from pathlib import Path

import pytest
import pytest_asyncio
from tests.support.server import TidingsServer

from tidings.mockpush import SpawnedMockPush, spawn

_running = pytest.StashKey[list[TidingsServer]]()


@pytest.fixture(scope="module")
def settings() -> Mapping[str, str]:
    """`TIDINGS_…` variables of the file's servers. Files that need others override this fixture."""
    return {}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def push() -> AsyncIterator[SpawnedMockPush]:
    async with spawn() as service:
        yield service


@pytest.fixture(scope="module")
def make_server(
    request: pytest.FixtureRequest, push: SpawnedMockPush, settings: Mapping[str, str]
) -> Generator[Callable[..., TidingsServer]]:
    """Return a factory for servers that may push to the mock service.

    Its arguments are the data folder, command-line options and more variables.
    """
    running = request.config.stash.setdefault(_running, [])

    def make(data_dir: Path, *options: str, **more: str) -> TidingsServer:
        allowed = {"TIDINGS_PUSH_EXTRA_HOSTS": push.origin.removeprefix("http://")}
        server = TidingsServer(data_dir, settings={**allowed, **settings, **more}, options=options)
        running.append(server)
        return server

    yield make
    running.clear()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    make_server: Callable[..., TidingsServer], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[TidingsServer]:
    async with make_server(tmp_path_factory.mktemp("server") / "data") as started:
        yield started


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for server in item.config.stash.get(_running, []):
            report.sections.append((f"log of the server at {server.url}", server.log_tail()))
    return report
