"""The three roles of a server process and their shutdown: `serve`, `api` and `worker`.

Modules that only one role needs are imported in its function: a worker does not load the API, and without a port no
HTTP server.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
import uvloop

from tidings.config.instance_lock import hold_instance_lock
from tidings.config.settings import MIN_PUBLIC_SECRET, Role, Settings
from tidings.config.sources import find_unknown_variables
from tidings.container import AppContainer
from tidings.observability import logging
from tidings.observability.multiprocess_metrics import SharedMetrics
from tidings.server.shutdown import Shutdown
from tidings.server.sockets import bind, bind_from_settings, bind_room_port
from tidings.worker import start_worker
from tidings.worker.background_tasks import run_api_background_tasks
from tidings.worker.worker import Worker

if TYPE_CHECKING:
    from tidings.server.uvicorn_server import HttpServer

#: called once the process is ready, with the settings, which then contain the port that was bound
OnReady = Callable[[Settings], None]

_log = structlog.get_logger(__name__)


def run(
    settings: Settings,
    on_ready: OnReady,
    *,
    role: Role = Role.SERVE,
    shared: SharedMetrics | None = None,
    reuse_port: bool = False,
) -> int:
    """Run a process until SIGTERM or SIGINT and return its exit code.

    shared: metrics shared with other processes; None = this is the only one. reuse_port: whether several processes may
    listen on the port. Raises ConfigError if the address is in use, another server has opened the SQLite database, or a
    setting is invalid for the role.
    """
    settings.validate_for_role(role)
    logging.configure(settings.log_level, settings.log_format)

    if role is Role.WORKER and settings.worker_nice:
        # Before threads and sender processes start, because they inherit it. A broadcast uses every available CPU; the
        # database and the API on the same machine take precedence.
        os.nice(settings.worker_nice)
    role_main = (
        partial(_run_worker, settings, on_ready, shared)
        if role is Role.WORKER
        else partial(_run_api, settings, on_ready, shared, role, reuse_port)
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_with_shutdown(role_main))


async def _with_shutdown(role_main: Callable[[Shutdown], Coroutine[Any, Any, int]]) -> int:
    """Run a role. A shutdown that is requested during the start cancels the start, with exit code 0."""
    shutdown = Shutdown()
    with shutdown.handle_signals():
        try:
            return await role_main(shutdown)
        except asyncio.CancelledError:
            if not shutdown.is_start_aborted:
                raise
            _log.info("stopped_while_starting")
            return 0


async def _run_api(
    settings: Settings,
    on_ready: OnReady,
    shared: SharedMetrics | None,
    role: Role,
    reuse_port: bool,
    shutdown: Shutdown,
) -> int:
    """Serve HTTP, and run a worker if the role includes one."""
    from tidings.api.app import create_app
    from tidings.server.uvicorn_server import HttpServer

    settings = settings.ensure_secrets()
    _warn_about_settings(settings)
    async with AsyncExitStack() as stack:
        if settings.sqlite_path is not None:
            stack.enter_context(hold_instance_lock(settings.sqlite_path))
        listener, settings = bind_from_settings(settings, reuse_port=reuse_port)
        stack.callback(listener.close)
        room_listener = bind_room_port(settings)
        if room_listener is not None:
            stack.callback(room_listener.close)
        is_demo = settings.demo and role is Role.SERVE
        if is_demo:
            from tidings.demo.services import run_demo_services

            settings = await stack.enter_async_context(run_demo_services(settings))
        container = await stack.enter_async_context(AppContainer.open(settings, role=role))
        if is_demo:
            from tidings.demo.seed import seed

            await seed(container)
        worker = None
        if role.has_worker:
            worker = await stack.enter_async_context(start_worker(container))
        else:
            await stack.enter_async_context(run_api_background_tasks(container))
        await stack.enter_async_context(container.rooms.run())
        app = create_app(container, shared)
        servers = [HttpServer(app, listener, lambda: on_ready(settings), deadline=settings.drain_seconds)]
        if room_listener is not None:
            from tidings.api.room_app import create_room_app

            room_app = create_room_app(container)
            servers.append(HttpServer(room_app, room_listener, lambda: None, deadline=settings.drain_seconds))
        return await _run_until_shutdown(settings, shutdown, worker, servers)


async def _run_worker(settings: Settings, on_ready: OnReady, shared: SharedMetrics | None, shutdown: Shutdown) -> int:
    """Run a worker, with an HTTP server for health checks if `TIDINGS_WORKER_PORT` is set."""
    settings = settings.ensure_secrets()
    _warn_about_settings(settings)
    async with AsyncExitStack() as stack:
        listener = None
        if settings.worker_port:
            listener = bind("TIDINGS_WORKER_PORT", settings.host, settings.worker_port)
            stack.callback(listener.close)
        container = await stack.enter_async_context(AppContainer.open(settings, role=Role.WORKER))
        worker = await stack.enter_async_context(start_worker(container))
        servers = []
        if listener is None:
            on_ready(settings)
        else:
            from tidings.api.health.worker_app import create_health_app
            from tidings.server.uvicorn_server import HttpServer

            app = create_health_app(container, shared)
            servers.append(
                HttpServer(app, listener, lambda: on_ready(settings), deadline=settings.drain_seconds, websockets=False)
            )
        return await _run_until_shutdown(settings, shutdown, worker, servers)


async def _run_until_shutdown(
    settings: Settings, shutdown: Shutdown, worker: Worker | None, servers: Sequence[HttpServer]
) -> int:
    """Run until a shutdown is requested or the worker ends, then drain the worker and the HTTP servers concurrently."""
    _freeze_startup_heap()
    shutdown.mark_started()
    watch = asyncio.create_task(_watch_worker(worker, shutdown), name="watch the worker")
    drain = asyncio.create_task(_drain(worker, shutdown, settings.drain_seconds), name="drain")
    await asyncio.gather(*(server.run_until(shutdown.requested, shutdown.forced) for server in servers))
    await drain
    failed = watch.done() and not watch.cancelled() and watch.result()
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
    return 1 if failed else 0


async def _watch_worker(worker: Worker | None, shutdown: Shutdown) -> bool:
    """Request the shutdown and return True when a loop of the worker ends unexpectedly."""
    if worker is None:
        return False
    problem: BaseException | None = None
    try:
        await worker.wait()
    except Exception as error:  # noqa: BLE001  # whatever ended the loop must end the process
        problem = error
    if shutdown.requested.is_set():
        return False
    _log.critical("worker_loop_failed", exc_info=problem)
    shutdown.request()
    return True


async def _drain(worker: Worker | None, shutdown: Shutdown, seconds: float) -> None:
    await shutdown.requested.wait()
    if worker is not None:
        await worker.stop(shutdown.remaining(seconds), shutdown.forced)


def _freeze_startup_heap() -> None:
    """Exclude the objects that exist now from garbage collection; call this when the process is ready.

    They live as long as the process. Under load a full collection ran every few seconds and paused it for 100 ms.
    """
    gc.collect()
    gc.freeze()


def _warn_about_settings(settings: Settings) -> None:
    """Log the findings of `tidings doctor` about settings that are easily overlooked."""
    for name in find_unknown_variables(type(settings), os.environ):
        _log.warning(
            "unknown_setting", setting=name, hint="this version has no setting of that name; check the spelling"
        )
    if settings.has_weak_bootstrap_key:
        _log.warning("weak_bootstrap_key", setting="TIDINGS_BOOTSTRAP_KEY", min_length=MIN_PUBLIC_SECRET)
    if settings.sqlite_path is None and (generated := settings.list_generated_secrets()):
        _log.warning(
            "generated_settings_in_use",
            settings=generated,
            data_dir=str(settings.data_dir),
            hint="set the same values for every process with another data folder",
        )
