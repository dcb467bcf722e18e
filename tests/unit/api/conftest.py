"""The whole API over a real SQLite store, called in-process. Only the clock is a fake."""

import asyncio
import base64
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.support.asgi_client import ADMIN, USER_SECRET, Client, StoppedClock

from tidings.api.app import create_app
from tidings.config.settings import Settings
from tidings.container import AppContainer
from tidings.model.user import User


def _settings(folder: Path) -> Settings:
    return Settings(
        data_dir=folder,
        bootstrap_key=ADMIN,
        user_secret=USER_SECRET,
        secret_key="a wrapping key for tests, long enough",
        demo=True,
    ).with_channel_values({"TIDINGS_PUSH_EXTRA_HOSTS": "127.0.0.1:9"})


@pytest.fixture(scope="session")
def database_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database with the users u1 and u2, created once and copied for each test."""
    folder = tmp_path_factory.mktemp("api")

    async def prepare() -> None:
        clock = StoppedClock()
        async with AppContainer.open(_settings(folder), clock=clock) as runtime, runtime.store.transaction() as tx:
            people = [User(user_id, locale="de-CH", timezone="Europe/Zurich") for user_id in ("u1", "u2")]
            await runtime.store.users.upsert(tx, people, clock.now())

    asyncio.run(prepare())
    return folder / "tidings.db"


@pytest.fixture
async def call(tmp_path: Path, database_template: Path) -> AsyncIterator[Client]:
    """A client of an application whose database has only the users u1 and u2."""
    shutil.copy(database_template, tmp_path / "tidings.db")
    clock = StoppedClock()
    async with AppContainer.open(_settings(tmp_path), clock=clock) as runtime:
        yield Client(create_app(runtime), runtime, clock)


@pytest.fixture
def browser() -> Callable[..., dict[str, Any]]:
    """Return a function: browser name → the result of its `PushSubscription.toJSON()`."""

    def subscription(name: str = "a") -> dict[str, Any]:
        point = ec.generate_private_key(ec.SECP256R1()).public_key()
        p256dh = point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return {
            "endpoint": f"http://127.0.0.1:9/push/{name}",
            "expirationTime": None,
            "keys": {
                "p256dh": base64.urlsafe_b64encode(p256dh).rstrip(b"=").decode(),
                "auth": base64.urlsafe_b64encode(os.urandom(16)).rstrip(b"=").decode(),
            },
        }

    return subscription
