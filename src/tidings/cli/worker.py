"""`tidings worker`: sending alone, one of several processes."""

import os
from typing import Annotated

from cyclopts import Parameter

from tidings.cli.options import Options
from tidings.cli.start import start, tell_program
from tidings.settings import Role, Settings


def worker(
    *,
    workers: Annotated[int | None, Parameter(help="Sender processes, 0 = none of its own (TIDINGS_WORKERS).")] = None,
    worker_port: Annotated[
        int | None, Parameter(name="--port", help="Port for /health and /metrics, 0 = none (TIDINGS_WORKER_PORT).")
    ] = None,
    host: Annotated[str | None, Parameter(help="Address of that port (TIDINGS_HOST).")] = None,
    options: Options = Options(),
) -> int:
    """Send what was accepted until it is stopped. Needs PostgreSQL."""
    log_format = "json" if options.json else None
    settings = options.settings(workers=workers, worker_port=worker_port, host=host, log_format=log_format)
    return start(settings, Role.WORKER, _tell_program if options.json else _tell_person)


def _tell_program(settings: Settings) -> None:
    tell_program({"pid": os.getpid(), "url": settings.worker_url})


def _tell_person(settings: Settings) -> None:
    where = f", its health is at {settings.worker_url}/health/worker" if settings.worker_url else ""
    print(f"This worker sends{where}. Stop with Ctrl-C.", flush=True)
