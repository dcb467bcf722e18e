"""The table of commands, and how a command's end becomes an exit code."""

import os
import sqlite3
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version

from cyclopts import App, CycloptsError, Parameter

from tidings.errors import BackendError, ConfigError, Invalid, TidingsError

#: command → (where it lives, one line of help); lazily imported, so that `tidings --help` stays fast
COMMANDS = {
    "serve": ("tidings.cli.serve:serve", "Run the server: API, workers and pages in one process."),
    "api": ("tidings.cli.api:api", "Run one process that answers HTTP; others send."),
    "worker": ("tidings.cli.worker:worker", "Run one process that sends; others answer HTTP."),
    "db": ("tidings.cli.db:app", "Create, upgrade and look at the database."),
    "keys": ("tidings.cli.keys:app", "Create, list and revoke API keys."),
    "users": ("tidings.cli.users:app", "List, show and import users."),
    "send": ("tidings.cli.send:send", "Notify users from the command line."),
    "explain": ("tidings.cli.explain:explain", "Say why a user got a notification, or why not."),
    "queues": ("tidings.cli.queues:queues", "Show how each lane of the queue stands."),
    "dead-letters": ("tidings.cli.dead_letters:app", "List what was given up, send it again, or put it away."),
    "vapid": ("tidings.cli.vapid:app", "Show and rotate the keys that identify this server to push services."),
    "mock-push": ("tidings.cli.mock_push:mock_push", "Run a push service for development and tests."),
    "doctor": ("tidings.cli.doctor:doctor", "Check the installation and show every setting with its origin."),
    "bench": ("tidings.cli.bench:app", "Measure the whole path on this machine."),
    "openapi": ("tidings.cli.openapi:openapi", "Print the OpenAPI document of the HTTP API."),
}


def build() -> App:
    """Return the application with every command registered, none imported."""
    app = App(
        name="tidings",
        help="Tidings tells the right people what happened, and shows what became of every message.",
        version=lambda: version("tidings"),
        help_format="plaintext",
        result_action="return_value",
        # no --no-json and --empty-scope: what is not said is off
        default_parameter=Parameter(negative=()),
    )
    for name, (path, help_line) in COMMANDS.items():
        app.command(path, name=name, help=help_line)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run one command and return the exit code: what went wrong is one line on stderr, with the fix."""
    if arguments[:1] == ["mock-push"]:
        # It has a parser of its own, shared with `python -m tidings.testing.mock_push`.
        from tidings.cli.mock_push import forward

        return forward(arguments[1:])
    try:
        result = build()(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        message = str(error)
        see = " ".join(("tidings", *(error.command_chain or ()), "--help"))
        return _fail(f"{message if message.endswith('...') else message.removesuffix('.')}; see {see}", 2)
    except (ConfigError, Invalid) as error:
        return _fail(error.message, 2)
    except BackendError as error:
        return _fail(f"{error.message}; tidings doctor looks at what TIDINGS_DATABASE and TIDINGS_REDIS name", 1)
    except TidingsError as error:
        return _fail(error.message, 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone; pointing stdout elsewhere keeps the interpreter's last flush quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001  # the last resort: somebody at a terminal cannot use a traceback
        return _fail(_unforeseen(error), 1)
    return result if isinstance(result, int) else 0


def _unforeseen(error: Exception) -> str:
    """Return one sentence for an error that nobody raised on purpose; its traceback is printed at level debug only."""
    if os.environ.get("TIDINGS_LOG_LEVEL") == "debug":
        traceback.print_exception(error)
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    # SQLAlchemy keeps the driver's error beside the statement, which says nothing to whoever runs a command.
    driver = getattr(error, "orig", None)
    if isinstance(driver, sqlite3.Error) or isinstance(error, sqlite3.Error):
        return f"the database cannot be used: {driver or error}; tidings doctor looks for the cause"
    return f"{type(error).__name__}: {error}; TIDINGS_LOG_LEVEL=debug shows where it came from"


def _fail(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code
