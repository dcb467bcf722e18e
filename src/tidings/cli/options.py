"""Options that every command takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tidings import logs
from tidings.errors import NotFound
from tidings.settings import Settings


@Parameter(name="*")
@dataclass(frozen=True)
class Options:
    """Where the data is, and how to print."""

    #: Print JSON instead of a table.
    json: Annotated[bool, Parameter(help="Print JSON.")] = False
    data_dir: Annotated[Path | None, Parameter(help="Folder of the database and secrets (TIDINGS_DATA_DIR).")] = None

    def settings(self, **flags: object) -> Settings:
        """Return the settings with flags applied; None = not given. What a command logs goes to stderr."""
        settings = Settings.load(folder=None, environ=None, data_dir=self.data_dir, **flags)
        logs.configure("warning", settings.log_format)
        return settings

    def existing(self) -> Settings:
        """Return the settings of a database that is there, for commands that only look.

        Raises NotFound where there is none: a misspelt folder must not come into being by being looked at.
        """
        settings = self.settings()
        path = settings.sqlite_path
        if path is not None and not (path.exists() and path.stat().st_size):
            raise NotFound(f"there is no database at {path}; start the server once (tidings serve), or see --data-dir")
        return settings
