"""One process that does it all: HTTP, workers and pages over one runtime, from start to an orderly end."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager

import structlog
import uvicorn
import uvloop

from tidings import logs
from tidings.api.app import create_app
from tidings.demo.seed import seed
from tidings.demo.services import services as demo_services
from tidings.errors import ConfigError
from tidings.instance_lock import only_server
from tidings.runtime import Runtime
from tidings.settings import FALLBACK_SUBJECT, MIN_PUBLIC_SECRET, Settings
from tidings.settings_sources import unknown_variables
from tidings.worker import working
from tidings.worker.worker import Worker

#: how long requests in progress may take to end after a stop was asked for, in seconds
REQUESTS_DEADLINE = 3

#: told what runs where, once requests are answered
Announce = Callable[[Settings], None]

_log = structlog.get_logger(__name__)


def run(settings: Settings, announce: Announce) -> int:
    """Serve until SIGTERM or SIGINT and return the exit code.

    Raises ConfigError when the address is taken, another server works on the database, or a setting does not fit.
    """
    logs.configure(settings.log_level, settings.log_format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(settings, announce))


async def serve(settings: Settings, announce: Announce) -> int:
    """Serve until SIGTERM or SIGINT; see `run`."""
    settings = settings.ensure_secrets()
    _warn(settings)
    async with AsyncExitStack() as stack:
        if settings.sqlite_path is not None:
            stack.enter_context(only_server(settings.sqlite_path))
        listener, settings = _listen(settings)
        stack.callback(listener.close)
        if settings.demo:
            settings = await stack.enter_async_context(demo_services(settings))
        elif settings.vapid_subject == FALLBACK_SUBJECT:
            _log.warning("TIDINGS_VAPID_SUBJECT is not set: push services cannot reach you; set it to mailto:you@…")
        runtime = await stack.enter_async_context(Runtime.open(settings))
        if settings.demo:
            await seed(runtime)
        worker = await stack.enter_async_context(working(runtime))
        return await _serve(runtime, worker, listener, lambda: announce(settings))


def _warn(settings: Settings) -> None:
    """Say at the start what `tidings doctor` would say about settings that are easily overlooked."""
    for name in unknown_variables(type(settings), os.environ):
        _log.warning(f"{name} is set, but no setting of this version has that name; is it misspelt?")
    if settings.weak_bootstrap_key:
        _log.warning(f"TIDINGS_BOOTSTRAP_KEY is shorter than {MIN_PUBLIC_SECRET} characters and can be guessed")


async def _serve(runtime: Runtime, worker: Worker, listener: socket.socket, ready: Callable[[], None]) -> int:
    """Answer requests until a signal or the end of the workers, which nobody may outlive."""
    server = _Server(_http(runtime), ready)
    with server.stopped_by_signals():
        watch = asyncio.create_task(worker.wait(), name="watch the worker")
        watch.add_done_callback(lambda _task: server.stop())
        await server.serve(sockets=[listener])
        if not watch.done():
            watch.cancel()
            return 0
    if (failure := watch.exception()) is not None:
        _log.critical("the workers stopped because of an error; stopping", exc_info=failure)
    return 1


class _Server(uvicorn.Server):
    """uvicorn, with the signals and the moment of readiness in our hands."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: uvicorn would raise them again at its end, before the workers have stopped."""
        yield

    @contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT; a second one does not wait for requests in progress."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


def _http(runtime: Runtime) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(runtime),
        loop="none",  # the loop runs already
        http="httptools",
        lifespan="off",  # the runtime is opened and closed here
        log_config=None,
        access_log=False,
        server_header=False,
        # Forwarded headers can be written by anybody; without a list of proxies nobody is believed.
        proxy_headers=False,
        # Compressing costs up to 300 KB a connection, for messages of a few hundred bytes.
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=REQUESTS_DEADLINE,
    )


def _listen(settings: Settings) -> tuple[socket.socket, Settings]:
    """Bind first, so that a taken port is told before anything is touched and port 0 becomes a real one."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        name, fix = (
            ("TIDINGS_PORT", "choose another with --port or TIDINGS_PORT")
            if settings.port
            else ("TIDINGS_HOST", "correct it")
        )
        if isinstance(error, socket.gaierror):
            name, fix = "TIDINGS_HOST", "name an address of this machine"
        raise ConfigError(
            name, f"cannot listen on {settings.host} port {settings.port}: {error.strerror}; {fix}"
        ) from error
    listener.set_inheritable(False)
    return listener, settings.bound_to(listener.getsockname()[1])
