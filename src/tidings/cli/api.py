"""`tidings api`: HTTP alone, one of several processes."""

from typing import Annotated

from cyclopts import Parameter

from tidings.cli.options import Options
from tidings.cli.start import start, tell_program
from tidings.settings import Role, Settings


def api(
    *,
    host: Annotated[str | None, Parameter(help="Address to listen on (TIDINGS_HOST).")] = None,
    port: Annotated[int | None, Parameter(help="Port, 0 = any free one (TIDINGS_PORT).")] = None,
    reuse_port: Annotated[bool, Parameter(help="Let several of these processes listen on one port.")] = False,
    options: Options = Options(),
) -> int:
    """Answer HTTP until it is stopped; `tidings worker` sends what it accepts. Needs PostgreSQL."""
    settings = options.settings(host=host, port=port, log_format="json" if options.json else None)
    tell = _tell_program if options.json else _tell_person
    return start(settings, Role.API, tell, reuse_port=reuse_port)


def _tell_program(settings: Settings) -> None:
    tell_program({"url": settings.listening_url, "docs": f"{settings.listening_url}/docs"})


def _tell_person(settings: Settings) -> None:
    print(f"Tidings answers at {settings.listening_url} (docs at {settings.listening_url}/docs).")
    print("Workers send what it accepts: tidings worker. Stop with Ctrl-C.", flush=True)
