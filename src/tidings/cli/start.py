"""Starts the long-lived processes. What must come before anything else is imported comes here."""

import sys
from collections.abc import Callable, Mapping

from tidings.cli.output import print_json
from tidings.settings import Role, Settings


def start(settings: Settings, role: Role, announce: Callable[[Settings], None], *, reuse_port: bool = False) -> int:
    """Run a process until it is stopped and return the exit code. Raises ConfigError naming the setting and the fix."""
    settings.refuse_for(role)
    shared = None
    if settings.sqlite_path is None:
        # Others may run beside it, and whoever is asked for the metrics shows those of all. Metrics learn where they
        # are kept when they are made, which importing the server does.
        from tidings.insight.shared import SharedMetrics

        shared = SharedMetrics(settings.data_dir / "metrics")
    from tidings import server

    return server.run(settings, announce, role=role, shared=shared, reuse_port=reuse_port)


def tell_program(places: Mapping[str, object]) -> None:
    """Print one line of JSON that says that the process does what it is for, and where."""
    print_json(places, indent=0)
    sys.stdout.flush()
