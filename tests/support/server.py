"""`tidings serve` as a real process: start, call over HTTP, kill, and restart on the same data.

In a test: `async with TidingsServer(tmp_path) as server: response = await server.call("GET", "/api/events")`.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import PyreqwestError

from tidings.bench.server_process import send
from tidings.credentials import sign_user_token
from tidings.errors import BackendError
from tidings.testing.polling import eventually as eventually

T = TypeVar("T")

#: secrets of a server under test, never of a real one
ADMIN_KEY = "test-admin-key-that-no-real-server-has"
USER_SECRET = "test-user-secret-that-no-real-server-has"
SECRET_KEY = "test-secret-key-that-no-real-server-has"
#: a test counts the messages of the channels that it configures
ONLY_CONFIGURED_CHANNELS = {"TIDINGS_INAPP__ENABLED": "false"}

_START_TIMEOUT = 180.0
_CALL_TIMEOUT = timedelta(seconds=60)
#: bytes of the log that an error quotes
_LOG_TAIL_BYTES = 6000


class _ReadyMessage(msgspec.Struct, frozen=True):
    url: str


class NotificationProgress(msgspec.Struct, frozen=True, rename="camel"):
    """The progress of a notification: `GET /api/notifications/{id}`."""

    id: str
    status: str
    recipients: int
    deliveries: int
    skipped: int
    #: deliveries per state
    by_state: Mapping[str, int]
    finished: bool


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A response of the server."""

    status: int
    #: names in lower case
    headers: Mapping[str, str]
    body: bytes

    def read(self, kind: type[T]) -> T:
        """Decode the JSON body as `kind`. Raises msgspec.DecodeError."""
        return msgspec.json.decode(self.body, type=kind)

    def lines(self, kind: type[T]) -> list[T]:
        """Decode the lines of an NDJSON body as `kind`. Raises msgspec.DecodeError."""
        return msgspec.json.Decoder(kind).decode_lines(self.body)


class TidingsServer:
    """One server and its data folder. The folder outlives the process, so `restart` uses the same data."""

    def __init__(
        self,
        data_dir: Path,
        *,
        settings: Mapping[str, str] | None = None,
        options: tuple[str, ...] = (),
        log: Path | None = None,
    ) -> None:
        """Store the data folder and how the server runs. Starts nothing.

        Arguments: settings — `TIDINGS_…` variables; those of this process's environment are not passed on;
        options — further arguments, such as `("--workers", "2")`; log — file to which standard error is appended,
        by default next to the data folder.
        """
        self.data_dir = data_dir
        self.log = log or data_dir.with_name(data_dir.name + ".log")
        self.url = ""
        self._settings = dict(settings or {})
        self._options = options
        self._process: asyncio.subprocess.Process | None = None
        self._client: Client | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_running:
            await self.kill()
        if error is not None:
            error.add_note(f"{self.log} ends with:\n{self.log_tail()}")

    # --- the process

    @property
    def is_running(self) -> bool:
        """Whether the process has started and not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """Id of the running process."""
        assert self._process is not None, "the server has not been started"
        return self._process.pid

    @property
    def environment(self) -> dict[str, str]:
        """The server's environment. Other `tidings` commands on the same data need it too."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
        own = {
            "TIDINGS_DATA_DIR": str(self.data_dir),
            "TIDINGS_BOOTSTRAP_KEY": ADMIN_KEY,
            "TIDINGS_USER_SECRET": USER_SECRET,
            "TIDINGS_SECRET_KEY": SECRET_KEY,
            "TIDINGS_VAPID_SUBJECT": "mailto:ops@example.com",
            **ONLY_CONFIGURED_CHANNELS,
        }
        return inherited | own | self._settings

    async def start(self) -> None:
        """Start and return once the server is ready. Raises BackendError with the end of the log if that fails."""
        await self._launch("serve", "--port", "0")
        ready = await self.call("GET", "/health/ready")
        if ready.status != 200:
            raise BackendError(f"the server is not ready: {ready.body!r}\n{self.log_tail()}")

    async def _launch(self, *command: str) -> None:
        """Start a `tidings` command and return once it has printed its address."""
        assert not self.is_running, "the server is already running"
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tidings.cli", *command, "--json", *self._options),
                env=self.environment,
                # a developer's `.env` or `tidings.toml` must not reach the server
                cwd=self.data_dir,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        self.url = await self._read_url(self._process)
        self._client = (
            ClientBuilder().base_url(f"{self.url}/").no_proxy().follow_redirects(False).timeout(_CALL_TIMEOUT).build()
        )

    async def stop(self, within: float = 40.0) -> int:
        """Send SIGTERM and return the exit code. Raises TimeoutError after `within` seconds."""
        return await self._terminate(signal.SIGTERM, within)

    async def kill(self) -> None:
        """End the process with SIGKILL."""
        await self._terminate(signal.SIGKILL, 10.0)

    async def restart(self) -> None:
        """Start again on the same data and another port. Kills a running process first."""
        if self.is_running:
            await self.kill()
        await self.start()

    def log_tail(self) -> str:
        """Return the end of the log."""
        if not self.log.exists():
            return "(empty)"
        return self.log.read_bytes()[-_LOG_TAIL_BYTES:].decode("utf-8", "replace") or "(empty)"

    async def _read_url(self, process: asyncio.subprocess.Process) -> str:
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                line = await process.stdout.readline()
            return msgspec.json.decode(line, type=_ReadyMessage).url
        except (TimeoutError, msgspec.DecodeError):
            await self._terminate(signal.SIGKILL, 10.0)
            raise BackendError(f"the server did not start; its log ends with:\n{self.log_tail()}") from None

    async def _terminate(self, number: signal.Signals, within: float) -> int:
        assert self._process is not None, "the server has not been started"
        with suppress(ProcessLookupError):
            # not `Process.send_signal`: it reaps a process that has just ended before asyncio can
            os.kill(self._process.pid, number)
        async with asyncio.timeout(within):
            code = await self._process.wait()
        if self._client is not None:
            await self._client.close()
            self._client = None
        return code

    # --- requests

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = ADMIN_KEY,
        headers: Mapping[str, str] | None = None,
    ) -> HttpResponse:
        """Send one request and return the response with any status.

        Arguments: path — with a leading `/`; body — bytes are sent unchanged, else JSON, None = no body; token —
        API key or user token, None = none; headers — override or extend the default ones.
        Raises BackendError when there is no response.
        """
        assert self._client is not None, "the server is not running"
        request = self._client.request(method, path.removeprefix("/"))
        all_headers = {"authorization": f"Bearer {token}"} if token is not None else {}
        if body is not None:
            all_headers["content-type"] = "application/json"
            request = request.body_bytes(body if isinstance(body, bytes) else msgspec.json.encode(body))
        all_headers |= {name.lower(): value for name, value in (headers or {}).items()}
        try:
            response = await send(request.headers(all_headers).build())
            content = (await response.bytes()).to_bytes()
        except PyreqwestError as error:
            raise BackendError(f"{method} {path} was not answered: {type(error).__name__}") from error
        return HttpResponse(response.status, {name.lower(): value for name, value in response.headers.items()}, content)

    async def expect(
        self,
        status: int,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = ADMIN_KEY,
        headers: Mapping[str, str] | None = None,
    ) -> HttpResponse:
        """Like `call`, but raises AssertionError with the response when the status differs."""
        response = await self.call(method, path, body, token=token, headers=headers)
        assert response.status == status, f"{method} {path}: {response.status} {response.body[:2000].decode()}"
        return response

    def user_token(self, user_id: str) -> str:
        """Return a user token that is valid for an hour, signed as a host product signs it."""
        return sign_user_token(USER_SECRET, user_id, timedelta(hours=1), datetime.now(UTC))

    async def get_progress(self, notification_id: str) -> NotificationProgress:
        """Return the progress of a notification."""
        return (await self.expect(200, "GET", f"/api/notifications/{notification_id}")).read(NotificationProgress)

    async def wait_until_finished(self, notification_id: str, *, within: float = 120.0) -> NotificationProgress:
        """Return the counts once every delivery has a final state. Raises TimeoutError after `within` seconds."""

        async def done() -> NotificationProgress | None:
            progress = await self.get_progress(notification_id)
            return progress if progress.finished else None

        return await eventually(done, within=within, pause=0.1)
