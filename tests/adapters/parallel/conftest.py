"""The API over PostgreSQL, called in this process: each call has a connection and a transaction of its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.asgi_client import ADMIN, USER_SECRET, Client, StoppedClock

from tidings.api.app import create_app
from tidings.config.settings import Settings
from tidings.container import AppContainer


@pytest.fixture
async def call(tmp_path: Path, upgraded_url: str) -> AsyncIterator[Client]:
    settings = Settings(
        data_dir=tmp_path,
        database=upgraded_url,
        database_pool=12,
        bootstrap_key=ADMIN,
        user_secret=USER_SECRET,
        secret_key="a wrapping key for tests, long enough",
    ).with_channel_values({"TIDINGS_PUSH_EXTRA_HOSTS": "127.0.0.1:9"})
    clock = StoppedClock()
    async with AppContainer.open(settings, clock=clock) as runtime:
        yield Client(create_app(runtime), runtime, clock)
