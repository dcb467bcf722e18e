"""Calls an ASGI application in this process, with a clock that a test advances."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from starlette.types import ASGIApp

from tidings.container import AppContainer
from tidings.credentials import sign_user_token

ADMIN = "a bootstrap key for tests"
USER_SECRET = "a user secret for tests, long enough"


@dataclass
class StoppedClock:
    """A clock that a test advances."""

    time: datetime = datetime(2026, 11, 22, 12, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time


@dataclass(frozen=True)
class Reply:
    """A response."""

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
    runtime: AppContainer
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
        """Send a request with the admin key, as a user, or (key=None) without credentials."""
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
            # from version 2.4 on, the server raises on `send` when the client has disconnected
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
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
