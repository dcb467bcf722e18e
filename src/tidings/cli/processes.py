"""`tidings serve`, `tidings api`, `tidings worker`: the commands that start long-running processes."""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tidings.cli.options import CliOptions, complete_commands
from tidings.cli.output import print_json
from tidings.config.settings import Role, Settings

Host = Annotated[str | None, Parameter(help="Address to listen on (TIDINGS_HOST).")]
Port = Annotated[int | None, Parameter(help="Port, 0 = any free one (TIDINGS_PORT).")]
SenderProcesses = Annotated[int | None, Parameter(help="Sender processes, 0 = none (TIDINGS_WORKERS).")]

_LABELS = {"url": "API", "docs": "API docs", "demo": "Demo", "data": "Data", "apiKey": "API key"}


def serve(
    *,
    demo: Annotated[
        bool | None, Parameter(help="Add the demo site, 5 000 simulated users and a mock push service.")
    ] = None,
    host: Host = None,
    port: Port = None,
    workers: SenderProcesses = None,
    options: CliOptions = CliOptions(),
) -> int:
    """Run API, worker and web pages in one process until it is stopped."""
    settings = options.load_settings(
        demo=demo, host=host, port=port, workers=workers, log_format=_log_format_flag(options)
    )
    on_ready = _print_serve_json if options.json else _print_serve_text
    return _run_process(settings, Role.SERVE, on_ready)


def api(
    *,
    host: Host = None,
    port: Port = None,
    reuse_port: Annotated[bool, Parameter(help="Let several API processes listen on the same port.")] = False,
    options: CliOptions = CliOptions(),
) -> int:
    """Run an API process until it is stopped; `tidings worker` processes send what it accepts. Needs PostgreSQL."""
    settings = options.load_settings(host=host, port=port, log_format=_log_format_flag(options))
    on_ready = _print_api_json if options.json else _print_api_text
    return _run_process(settings, Role.API, on_ready, reuse_port=reuse_port)


def worker(
    *,
    workers: SenderProcesses = None,
    worker_port: Annotated[
        int | None, Parameter(name="--port", help="Port for /health and /metrics, 0 = none (TIDINGS_WORKER_PORT).")
    ] = None,
    host: Annotated[str | None, Parameter(help="Address of that port (TIDINGS_HOST).")] = None,
    options: CliOptions = CliOptions(),
) -> int:
    """Run a worker process until it is stopped: it sends accepted notifications. Needs PostgreSQL."""
    settings = options.load_settings(
        workers=workers, worker_port=worker_port, host=host, log_format=_log_format_flag(options)
    )
    on_ready = _print_worker_json if options.json else _print_worker_text
    return _run_process(settings, Role.WORKER, on_ready)


def _run_process(
    settings: Settings, role: Role, on_ready: Callable[[Settings], None], *, reuse_port: bool = False
) -> int:
    """Run a process until it is stopped and return the exit code. Raises ConfigError naming the setting and the fix."""
    settings.validate_for_role(role)
    shared = None
    if settings.sqlite_path is None:
        # With PostgreSQL several processes may run side by side, and /metrics shows the sum of all. prometheus_client
        # chooses its storage when metrics are created, which importing `server` does: this must come first.
        from tidings.observability.multiprocess_metrics import SharedMetrics

        shared = SharedMetrics(settings.data_dir / "metrics")
    from tidings import server

    return server.run(settings, on_ready, role=role, shared=shared, reuse_port=reuse_port)


def _log_format_flag(options: CliOptions) -> str | None:
    return "json" if options.json else None


def _print_ready_json(addresses: Mapping[str, object]) -> None:
    """Print the ready message: one line of JSON with the process's addresses."""
    print_json(addresses, indent=0)
    sys.stdout.flush()


def _print_serve_json(settings: Settings) -> None:
    _print_ready_json(_serve_addresses(settings))


def _print_serve_text(settings: Settings) -> None:
    addresses = _serve_addresses(settings)
    print("\nTidings is running.\n")
    for name, value in addresses.items():
        print(f"  {_LABELS[name]:<10} {value}")
    if settings.demo:
        from tidings.demo.events import EVENT_ID

        print("\nMove the demo event to notify 5 000 people, then look at the demo page:\n")
        print(f"  curl -X PATCH {addresses['url']}/api/events/{EVENT_ID} \\")
        print(f"    -H 'Authorization: Bearer {settings.bootstrap_key}' \\")
        print("    -H 'Content-Type: application/json' \\")
        print('    -d \'{"startDate": "2030-06-21T20:30:00+02:00", "endDate": "2030-06-21T23:30:00+02:00"}\'')
    elif not settings.bootstrap_key:
        print(f"\n{_key_hint(settings)}")
    print("\nStop with Ctrl-C.", flush=True)


def _key_hint(settings: Settings) -> str:
    """Return how to create a key for this installation, as a command that can be copied to another terminal."""
    hint = complete_commands("Create an API key with: tidings keys create --scope admin", _named_data_dir(settings))
    if settings.sqlite_path is None:
        # its URL may contain a password, so it is not printed
        hint += "\nThe command needs the same TIDINGS_DATABASE."
    return hint


def _named_data_dir(settings: Settings) -> Path | None:
    """Return the data folder if a flag, the environment or a file named it; another terminal may not have the same."""
    origins = {source.name: source.origin for source in settings.sources()}
    return None if origins["TIDINGS_DATA_DIR"] == "default" else settings.data_dir


def _serve_addresses(settings: Settings) -> dict[str, str]:
    url = settings.listening_url
    addresses = {"url": url, "docs": f"{url}/docs", "data": str(settings.data_dir.resolve())}
    if settings.demo:
        addresses |= {"demo": f"{url}/demo/", "apiKey": settings.bootstrap_key}
    return addresses


def _print_api_json(settings: Settings) -> None:
    _print_ready_json({"url": settings.listening_url, "docs": f"{settings.listening_url}/docs"})


def _print_api_text(settings: Settings) -> None:
    print(f"The API is ready at {settings.listening_url} (docs at {settings.listening_url}/docs).")
    print(complete_commands("Start workers with: tidings worker", _named_data_dir(settings)))
    if not settings.bootstrap_key:
        print(_key_hint(settings))
    print("Stop with Ctrl-C.", flush=True)


def _print_worker_json(settings: Settings) -> None:
    _print_ready_json({"pid": os.getpid(), "url": settings.worker_url})


def _print_worker_text(settings: Settings) -> None:
    health = f" Health: {settings.worker_url}/health/worker." if settings.worker_url else ""
    print(f"The worker is ready.{health} Stop with Ctrl-C.", flush=True)
