"""The whole API over a real store in a file, driven in-process: no sockets, no sleeping, no fakes but the clock."""

import asyncio
import base64
import os
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from starlette.types import ASGIApp

from tidings.api.app import create_app
from tidings.credentials import sign_user_token
from tidings.model.user import User
from tidings.runtime import Runtime
from tidings.settings import Settings

ADMIN = "a bootstrap key for tests"
USER_SECRET = "a user secret for tests, long enough"


@dataclass
class StoppedClock:
    """Stands still until told."""

    time: datetime = datetime(2026, 11, 22, 12, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time


@dataclass(frozen=True)
class Reply:
    """An answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def lines(self) -> list[Any]:
        return [msgspec.json.decode(line) for line in self.body.splitlines()]


@dataclass
class Client:
    """Calls an ASGI application."""

    app: ASGIApp
    runtime: Runtime
    clock: StoppedClock
    address: str = "192.0.2.1"
    #: sent with each request unless overridden
    headers: dict[str, str] = field(default_factory=dict)

    async def __call__(
        self,
        method: str,
        url: str,
        *,
        json: object = None,
        body: bytes | list[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        key: str | None = ADMIN,
        user: str | None = None,
    ) -> Reply:
        """Send a request as the admin key, as a user, or (key=None) as nobody."""
        sent = {"host": "testserver"} | {name.lower(): value for name, value in (headers or {}).items()}
        credential = self.token(user) if user is not None else key
        if credential is not None:
            sent.setdefault("authorization", f"Bearer {credential}")
        if json is not None:
            body = msgspec.json.encode(json)
            sent.setdefault("content-type", "application/json")
        chunks = body if isinstance(body, list) else [body or b""]
        if isinstance(body, bytes):
            sent.setdefault("content-length", str(len(body)))
        elif isinstance(body, list):
            sent.setdefault("transfer-encoding", "chunked")
        return await self._call(method, url, sent, chunks)

    def token(self, user: str, ttl: timedelta = timedelta(minutes=5)) -> str:
        return sign_user_token(USER_SECRET, user, ttl, self.clock.now())

    async def _call(self, method: str, url: str, headers: Mapping[str, str], chunks: list[bytes]) -> Reply:
        path, _, query = url.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": (self.address, 1234),
            "server": ("testserver", 80),
        }
        waiting = [
            {"type": "http.request", "body": chunk, "more_body": number < len(chunks) - 1}
            for number, chunk in enumerate(chunks)
        ]
        sent: list[Any] = []

        async def receive() -> dict[str, object]:
            return waiting.pop(0) if waiting else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        start = sent[0]
        return Reply(
            start["status"],
            {name.decode().lower(): value.decode() for name, value in start["headers"]},
            b"".join(message.get("body", b"") for message in sent[1:]),
        )


def _settings(folder: Path) -> Settings:
    return Settings(
        data_dir=folder,
        bootstrap_key=ADMIN,
        user_secret=USER_SECRET,
        secret_key="a wrapping key for tests, long enough",
        push_extra_hosts=("127.0.0.1:9",),
        demo=True,
    )


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database with the users u1 and u2, made once and copied for each test."""
    folder = tmp_path_factory.mktemp("api")

    async def prepare() -> None:
        clock = StoppedClock()
        async with Runtime.open(_settings(folder), clock=clock) as runtime, runtime.store.begin() as tx:
            people = [User(user_id, locale="de-CH", timezone="Europe/Zurich") for user_id in ("u1", "u2")]
            await runtime.store.users.upsert(tx, people, clock.now())

    asyncio.run(prepare())
    return folder / "tidings.db"


@pytest.fixture
async def call(tmp_path: Path, prepared: Path) -> AsyncIterator[Client]:
    """A client of an application over a database with the users u1 and u2 and nothing else."""
    shutil.copy(prepared, tmp_path / "tidings.db")
    clock = StoppedClock()
    async with Runtime.open(_settings(tmp_path), clock=clock) as runtime:
        yield Client(create_app(runtime), runtime, clock)


@pytest.fixture
def browser() -> Callable[..., dict[str, Any]]:
    """Return a function: name → what that browser's `PushSubscription.toJSON()` gives."""

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
