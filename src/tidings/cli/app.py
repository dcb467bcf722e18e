"""The table of commands, and the translation of errors into messages and exit codes."""

import os
import sqlite3
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import entry_points, version

from cyclopts import App, CycloptsError, Parameter

from tidings.errors import BackendError, ConfigError, TidingsError, ValidationFailed

#: command → (import path, one line of help); imported lazily, so that `tidings --help` stays fast
COMMANDS = {
    "serve": ("tidings.cli.processes:serve", "Run API, worker and web pages in one process."),
    "api": ("tidings.cli.processes:api", "Run an API process; worker processes send."),
    "worker": ("tidings.cli.processes:worker", "Run a worker process; API processes accept."),
    "db": ("tidings.cli.db:app", "Create, upgrade and inspect the database."),
    "keys": ("tidings.cli.keys:app", "Create, list and revoke API keys."),
    "users": ("tidings.cli.users:app", "List, show and import users."),
    "send": ("tidings.cli.send:send", "Notify users from the command line."),
    "explain": ("tidings.cli.explain:explain", "Explain why a user received a notification, or why not."),
    "queues": ("tidings.cli.queues:queues", "Show the status of each lane of the queue."),
    "rooms": ("tidings.cli.rooms:app", "List the live rooms of streams."),
    "dead-letters": ("tidings.cli.dead_letters:app", "List, replay and discard dead letters."),
    "audiences": ("tidings.cli.audiences:app", "List, show and estimate saved audiences."),
    "recurring": ("tidings.cli.recurring:app", "List and run recurring notifications."),
    "digests": ("tidings.cli.digests:app", "List digests."),
    "suppressions": ("tidings.cli.suppressions:app", "List, add and lift suppressed addresses."),
    "providers": ("tidings.cli.providers:providers", "Show the state of each provider."),
    "vapid": (
        "tidings.cli.channel_commands:webpush",
        "Show and rotate the keys that identify this server to push services.",
    ),
    "mock-push": ("tidings.cli.mock_push:mock_push", "Run a mock push service for development and tests."),
    "mock-mail": ("tidings.cli.mock_mail:mock_mail", "Run a mailbox that takes every e-mail and SMS and shows them."),
    "doctor": ("tidings.cli.doctor:doctor", "Check the installation and show every setting with its origin."),
    "bench": ("tidings.cli.bench:app", "Run benchmarks on this machine."),
    "openapi": ("tidings.cli.openapi:openapi", "Print the OpenAPI document of the HTTP API."),
}


def build_app() -> App:
    """Return the application with every command registered and none imported, those of other distributions included."""
    app = App(
        name="tidings",
        help="Tidings notifies the right people and shows what happened to every message.",
        version=lambda: version("tidings"),
        help_format="plaintext",
        result_action="return_value",
        # no --no-json and --empty-scope: an option that is not given is off
        default_parameter=Parameter(negative=()),
    )
    for name, (path, help_line) in COMMANDS.items():
        app.command(path, name=name, help=help_line)
    for entry in entry_points(group="tidings.channels"):
        if entry.name not in COMMANDS and entry.dist is not None and entry.dist.name != "tidings":
            path, help_line = f"tidings.cli.channel_commands:{entry.name}", f"Commands of the channel {entry.name}."
            app.command(path, name=entry.name, help=help_line)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run one command and return the exit code. An error is printed as one line on stderr, with the fix."""
    # the mock services have their own parsers, shared with `python -m tidings.mockpush` and `tidings.mockmail`
    if arguments[:1] == ["mock-push"]:
        from tidings.cli import mock_push

        return mock_push.forward(arguments[1:])
    if arguments[:1] == ["mock-mail"]:
        from tidings.cli import mock_mail

        return mock_mail.forward(arguments[1:])
    try:
        result = build_app()(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        message = str(error)
        help_command = " ".join(("tidings", *(error.command_chain or ()), "--help"))
        return _fail(f"{message if message.endswith('...') else message.removesuffix('.')}; see {help_command}", 2)
    except (ConfigError, ValidationFailed) as error:
        return _fail(_complete(error.message, arguments), 2)
    except BackendError as error:
        fix = "run tidings doctor to check TIDINGS_DATABASE and TIDINGS_REDIS"
        return _fail(_complete(f"{error.message}; {fix}", arguments), 1)
    except TidingsError as error:
        return _fail(_complete(error.message, arguments), 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has exited. Without a valid stdout the interpreter's last flush would print an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001  # last resort: a user at a terminal cannot use a traceback
        return _fail(_complete(_describe_unexpected(error), arguments), 1)
    return result if isinstance(result, int) else 0


def _complete(message: str, arguments: Sequence[str]) -> str:
    """Return a message whose commands name the data folder of this call."""
    # imported here, because `options` loads the settings, which `--help` does not need
    from tidings.cli.options import complete_commands, find_data_folder

    return complete_commands(message, find_data_folder(arguments))


def _describe_unexpected(error: Exception) -> str:
    """Return one sentence for an unexpected error; its traceback is printed at log level debug only."""
    if os.environ.get("TIDINGS_LOG_LEVEL") == "debug":
        traceback.print_exception(error)
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    # SQLAlchemy's own message contains the statement; the driver's error is what an operator can act on.
    driver_error = getattr(error, "orig", None)
    if isinstance(driver_error, sqlite3.Error) or isinstance(error, sqlite3.Error):
        return f"the database cannot be used: {driver_error or error}; run tidings doctor to find the cause"
    return f"{type(error).__name__}: {error}; set TIDINGS_LOG_LEVEL=debug for a traceback"


def _fail(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code
