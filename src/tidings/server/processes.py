"""The three forms of a process, and how each ends: everything in one, HTTP alone, sending alone.

What only one form needs is imported there: a worker loads no API, and without a port nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
import uvloop

from tidings import logs
from tidings.insight.shared import SharedMetrics
from tidings.instance_lock import only_server
from tidings.runtime import Runtime
from tidings.server.garbage import settle
from tidings.server.listen import bound, listen
from tidings.server.stop import Stop
from tidings.settings import FALLBACK_SUBJECT, MIN_PUBLIC_SECRET, Role, Settings
from tidings.settings_sources import unknown_variables
from tidings.worker import working
from tidings.worker.keeping import keeping
from tidings.worker.worker import Worker

if TYPE_CHECKING:
    from tidings.server.http import HttpServer

#: told the settings, the port with them, once the process does what it is for
Announce = Callable[[Settings], None]

_log = structlog.get_logger(__name__)


def run(
    settings: Settings,
    announce: Announce,
    *,
    role: Role = Role.SERVE,
    shared: SharedMetrics | None = None,
    reuse_port: bool = False,
) -> int:
    """Run a process until SIGTERM or SIGINT and return the exit code.

    shared: where it counts together with others, None = it is the only one; reuse_port: let several listen on one port.
    Raises ConfigError when the address is taken, another server works on the database, or a setting does not fit.
    """
    settings.refuse_for(role)
    logs.configure(settings.log_level, settings.log_format)

    if role is Role.WORKER and settings.worker_nice:
        # before there are threads and sender processes, which take it over: a broadcast fills every processor it is
        # given, and the database and the API that share the machine must not wait for its time slices
        os.nice(settings.worker_nice)
    form = (
        partial(_work, settings, announce, shared)
        if role is Role.WORKER
        else partial(_answer, settings, announce, shared, role, reuse_port)
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_stoppable(form))


async def _stoppable(form: Callable[[Stop], Coroutine[Any, Any, int]]) -> int:
    """Run a form of a process. One that is told to stop while it starts gives up starting, which is an end in order."""
    stop = Stop()
    with stop.by_signals():
        try:
            return await form(stop)
        except asyncio.CancelledError:
            if not stop.given_up:
                raise
            _log.info("stopped_while_starting")
            return 0


async def _answer(
    settings: Settings, announce: Announce, shared: SharedMetrics | None, role: Role, reuse_port: bool, stop: Stop
) -> int:
    """Answer HTTP, and send as well if that is the role."""
    from tidings.api.app import create_app
    from tidings.server.http import HttpServer

    settings = settings.ensure_secrets()
    _warn(settings)
    async with AsyncExitStack() as stack:
        if settings.sqlite_path is not None:
            stack.enter_context(only_server(settings.sqlite_path))
        listener, settings = listen(settings, reuse_port=reuse_port)
        stack.callback(listener.close)
        demo = settings.demo and role is Role.SERVE
        if demo:
            from tidings.demo.services import services

            settings = await stack.enter_async_context(services(settings))
        runtime = await stack.enter_async_context(Runtime.open(settings, role=role))
        if demo:
            from tidings.demo.seed import seed

            await seed(runtime)
        worker = None
        if role.sends:
            worker = await stack.enter_async_context(working(runtime))
        else:
            await stack.enter_async_context(keeping(runtime))
        app = create_app(runtime, shared)
        server = HttpServer(app, listener, lambda: announce(settings), deadline=settings.drain_seconds)
        return await _until_stopped(settings, stop, worker, server)


async def _work(settings: Settings, announce: Announce, shared: SharedMetrics | None, stop: Stop) -> int:
    """Send, and answer about health alone where a port for that was named."""
    settings = settings.ensure_secrets()
    _warn(settings)
    async with AsyncExitStack() as stack:
        listener = None
        if settings.worker_port:
            listener = bound("TIDINGS_WORKER_PORT", settings.host, settings.worker_port)
            stack.callback(listener.close)
        runtime = await stack.enter_async_context(Runtime.open(settings, role=Role.WORKER))
        worker = await stack.enter_async_context(working(runtime))
        server = None
        if listener is None:
            announce(settings)
        else:
            from tidings.api.health_app import create_health_app
            from tidings.server.http import HttpServer

            app = create_health_app(runtime, shared)
            server = HttpServer(
                app, listener, lambda: announce(settings), deadline=settings.drain_seconds, websockets=False
            )
        return await _until_stopped(settings, stop, worker, server)


async def _until_stopped(settings: Settings, stop: Stop, worker: Worker | None, server: HttpServer | None) -> int:
    """Go on until a signal, or until the workers end, which nobody may outlive; then drain both side by side."""
    settle()
    stop.started()
    watch = asyncio.create_task(_watch(worker, stop), name="watch the worker")
    drain = asyncio.create_task(_drain(worker, stop, settings.drain_seconds), name="drain")
    if server is not None:
        await server.run_until(stop.asked, stop.hurry)
    await drain
    failed = watch.done() and not watch.cancelled() and watch.result()
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
    return 1 if failed else 0


async def _watch(worker: Worker | None, stop: Stop) -> bool:
    """Return True, and stop the process, when a loop of the worker ends without having been asked to."""
    if worker is None:
        return False
    problem: BaseException | None = None
    try:
        await worker.wait()
    except Exception as error:  # noqa: BLE001  # whatever ended the loop ends the process
        problem = error
    if stop.asked.is_set():
        return False
    _log.critical("the workers stopped because of an error; stopping", exc_info=problem)
    stop.ask()
    return True


async def _drain(worker: Worker | None, stop: Stop, seconds: float) -> None:
    await stop.asked.wait()
    if worker is not None:
        await worker.stop(stop.left(seconds), stop.hurry)


def _warn(settings: Settings) -> None:
    """Say at the start what `tidings doctor` would say about settings that are easily overlooked."""
    for name in unknown_variables(type(settings), os.environ):
        _log.warning(f"{name} is set, but no setting of this version has that name; is it misspelt?")
    if settings.weak_bootstrap_key:
        _log.warning(f"TIDINGS_BOOTSTRAP_KEY is shorter than {MIN_PUBLIC_SECRET} characters and can be guessed")
    if settings.vapid_subject == FALLBACK_SUBJECT and not settings.demo:
        _log.warning("TIDINGS_VAPID_SUBJECT is not set: push services cannot reach you; set it to mailto:you@…")
    if settings.sqlite_path is None and (own := settings.generated_secrets()):
        _log.warning(
            f"{' and '.join(own)} come from {settings.data_dir}: processes with another data folder need the same ones"
        )
