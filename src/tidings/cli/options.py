"""Options shared by all commands."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter

from tidings.config.settings import Settings
from tidings.errors import NotFound
from tidings.observability import logging
from tidings.ports.command_host import CommandOptions

#: a command that a message names and that has the option --data-dir
_COMMAND = re.compile(
    r"\btidings (?:(?:db|keys|users|vapid|dead-letters) [a-z]+|(?:serve|api|worker|send|explain|queues|doctor)\b)"
)


@Parameter(name="*")
@dataclass(frozen=True)
class CliOptions(CommandOptions):
    """The data folder and the output format."""

    def load_settings(self, **flags: object) -> Settings:
        """Return the settings with flags applied (None = not given) and configure logging to stderr."""
        settings = Settings.load(folder=None, environ=None, data_dir=self.data_dir, **flags)
        logging.configure("warning", settings.log_format)
        return settings

    def require_existing_database(self) -> Settings:
        """Return the settings, for commands that need a database but must not create one.

        Raises NotFound if there is no database, so that a misspelt --data-dir creates no folder.
        """
        settings = self.load_settings()
        path = settings.sqlite_path
        if path is not None and not (path.exists() and path.stat().st_size):
            raise NotFound(f"there is no database at {path}; start the server once (tidings serve), or see --data-dir")
        return settings

    def complete_commands(self, text: str) -> str:
        """Return a text with the data folder of this call added to the commands that it names."""
        return complete_commands(text, self.data_dir)


def complete_commands(text: str, data_dir: Path | None) -> str:
    """Return a text in which each command of Tidings has `--data-dir`, so that it can be copied and run anywhere.

    data_dir: None = the call did not name one, and the commands apply to the same folder without it.
    """
    if data_dir is None:
        return text
    option = f" --data-dir {shlex.quote(str(data_dir.absolute()))}"
    return _COMMAND.sub(lambda found: found[0] + option, text)


def find_data_folder(arguments: Sequence[str]) -> Path | None:
    """Return the value of --data-dir among the arguments of a call, None if it is not given."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if name == "--data-dir" and (value or following):
            return Path(value if equals else following)
    return None
