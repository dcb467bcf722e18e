"""`tidings serve` as a real process: start it, ask it over HTTP, kill it, start it again on the same data.

In a test: `async with TidingsServer(tmp_path) as server: answer = await server.call("GET", "/api/events")`.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import PyreqwestError

from tidings.credentials import sign_user_token
from tidings.errors import BackendError
from tidings.testing.sent import sent

T = TypeVar("T")

#: secrets of a server under test; each run may know them, no real server has them
ADMIN_KEY = "test-admin-key-that-no-real-server-has"
USER_SECRET = "test-user-secret-that-no-real-server-has"  # noqa: S105  # as the name says
SECRET_KEY = "test-secret-key-that-no-real-server-has"  # noqa: S105

_START_SECONDS = 60.0
_CALL_TIMEOUT = timedelta(seconds=60)
_PAUSE = 0.02
#: bytes of the log that an error quotes
_TAIL = 6000


class _Places(msgspec.Struct, frozen=True):
    url: str


class Progress(msgspec.Struct, frozen=True, rename="camel"):
    """How far a notification has come: `GET /api/notifications/{id}`."""

    id: str
    status: str
    recipients: int
    deliveries: int
    skipped: int
    #: deliveries per state
    by_state: Mapping[str, int]
    finished: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server answered."""

    status: int
    #: names in lower case
    headers: Mapping[str, str]
    body: bytes

    def read(self, kind: type[T]) -> T:
        """Return the JSON body as a type that msgspec knows. Raises msgspec.DecodeError when it is something else."""
        return msgspec.json.decode(self.body, type=kind)

    def lines(self, kind: type[T]) -> list[T]:
        """Return the documents of an NDJSON body. Raises msgspec.DecodeError."""
        return msgspec.json.Decoder(kind).decode_lines(self.body)


class TidingsServer:
    """One server and its data folder. The folder outlives the process, so `restart` finds what `kill` left."""

    def __init__(
        self,
        data_dir: Path,
        *,
        settings: Mapping[str, str] | None = None,
        options: tuple[str, ...] = (),
        log: Path | None = None,
    ) -> None:
        """Take where the data lives and how the server runs; nothing starts yet.

        Arguments: settings — `TIDINGS_…` variables, other ones of this process's environment do not reach the server;
        options — more of the command line, e.g. `("--workers", "2")`; log — file that standard error is added to,
        default: beside the data folder.
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
        if self.running:
            await self.kill()
        if error is not None:
            error.add_note(f"{self.log} ends with:\n{self.log_tail()}")

    # --- the process

    @property
    def running(self) -> bool:
        """Whether the process has been started and has not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """Id of the running process."""
        assert self._process is not None, "the server has not been started"
        return self._process.pid

    @property
    def environment(self) -> dict[str, str]:
        """The variables the server runs with; other `tidings` commands on the same data need them too."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
        own = {
            "TIDINGS_DATA_DIR": str(self.data_dir),
            "TIDINGS_BOOTSTRAP_KEY": ADMIN_KEY,
            "TIDINGS_USER_SECRET": USER_SECRET,
            "TIDINGS_SECRET_KEY": SECRET_KEY,
            "TIDINGS_VAPID_SUBJECT": "mailto:ops@example.com",
        }
        return inherited | own | self._settings

    async def start(self) -> None:
        """Start and return once requests are answered. Raises BackendError, quoting the log, if that fails."""
        assert not self.running, "the server is running already"
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tidings.cli", "serve", "--port", "0", "--json", *self._options),
                env=self.environment,
                # a `.env` or `tidings.toml` of whoever runs the test must not reach the server
                cwd=self.data_dir,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        self.url = await self._announced(self._process)
        self._client = (
            ClientBuilder().base_url(f"{self.url}/").no_proxy().follow_redirects(False).timeout(_CALL_TIMEOUT).build()
        )
        ready = await self.call("GET", "/health/ready")
        if ready.status != 200:
            raise BackendError(f"the server is not ready: {ready.body!r}\n{self.log_tail()}")

    async def stop(self, within: float = 40.0) -> int:
        """Ask it to stop (SIGTERM) and return the exit code. Raises TimeoutError after `within` seconds."""
        return await self._end(signal.SIGTERM, within)

    async def kill(self) -> None:
        """End it as a power cut would (SIGKILL)."""
        await self._end(signal.SIGKILL, 10.0)

    async def restart(self) -> None:
        """Start again on the same data, on another port. Kills the process that still runs."""
        if self.running:
            await self.kill()
        await self.start()

    def log_tail(self) -> str:
        """Return the end of what the server logged."""
        if not self.log.exists():
            return "(nothing)"
        return self.log.read_bytes()[-_TAIL:].decode("utf-8", "replace") or "(nothing)"

    async def _announced(self, process: asyncio.subprocess.Process) -> str:
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_START_SECONDS):
                line = await process.stdout.readline()
            return msgspec.json.decode(line, type=_Places).url
        except (TimeoutError, msgspec.DecodeError):
            await self._end(signal.SIGKILL, 10.0)
            raise BackendError(f"the server did not start; its log ends with:\n{self.log_tail()}") from None

    async def _end(self, number: signal.Signals, within: float) -> int:
        assert self._process is not None, "the server has not been started"
        with suppress(ProcessLookupError):
            # not `Process.send_signal`: it collects a process that has just ended, before asyncio can
            os.kill(self._process.pid, number)
        async with asyncio.timeout(within):
            code = await self._process.wait()
        if self._client is not None:
            await self._client.close()
            self._client = None
        return code

    # --- what it is asked

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = ADMIN_KEY,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request and return the answer, whatever its status.

        Arguments: path — with a leading `/`; body — bytes as they are, else sent as JSON, None = no body; token —
        API key or user token, None = none; headers — instead of or besides the usual ones.
        Raises BackendError when there is no answer.
        """
        assert self._client is not None, "the server is not running"
        request = self._client.request(method, path.removeprefix("/"))
        wanted = {"authorization": f"Bearer {token}"} if token is not None else {}
        if body is not None:
            wanted["content-type"] = "application/json"
            request = request.body_bytes(body if isinstance(body, bytes) else msgspec.json.encode(body))
        wanted |= {name.lower(): value for name, value in (headers or {}).items()}
        try:
            response = await sent(request.headers(wanted).build())
            content = (await response.bytes()).to_bytes()
        except PyreqwestError as error:
            raise BackendError(f"{method} {path} was not answered: {type(error).__name__}") from error
        return Answer(response.status, {name.lower(): value for name, value in response.headers.items()}, content)

    async def expect(
        self,
        status: int,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = ADMIN_KEY,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Like `call`, but raises AssertionError, quoting the answer, when the status is another one."""
        answer = await self.call(method, path, body, token=token, headers=headers)
        assert answer.status == status, f"{method} {path}: {answer.status} {answer.body[:2000].decode()}"
        return answer

    def user_token(self, user_id: str) -> str:
        """Return a token that acts as this user for an hour, signed as a host product would."""
        return sign_user_token(USER_SECRET, user_id, timedelta(hours=1), datetime.now(UTC))

    async def progress(self, notification_id: str) -> Progress:
        """Return how far a notification has come."""
        return (await self.expect(200, "GET", f"/api/notifications/{notification_id}")).read(Progress)

    async def finished(self, notification_id: str, *, within: float = 30.0) -> Progress:
        """Return the counts once every delivery has a final state. Raises TimeoutError after `within` seconds."""

        async def done() -> Progress | None:
            progress = await self.progress(notification_id)
            return progress if progress.finished else None

        return await eventually(done, within=within, pause=0.1)


async def eventually(check: Callable[[], Awaitable[T | None]], *, within: float = 10.0, pause: float = _PAUSE) -> T:
    """Ask until there is an answer: return the first one that is neither None nor False.

    Arguments: within — seconds; pause — seconds between two questions. Raises TimeoutError naming the check.
    """
    loop = asyncio.get_running_loop()
    ends = loop.time() + within
    while True:
        answer = await check()
        if answer is not None and answer is not False:
            return answer
        if loop.time() > ends:
            raise TimeoutError(f"{getattr(check, '__name__', 'the check')} still says {answer!r} after {within:g} s")
        await asyncio.sleep(pause)
