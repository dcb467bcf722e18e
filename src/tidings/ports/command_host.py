"""What the command line gives to the commands of a channel."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

from cyclopts import Parameter

if TYPE_CHECKING:
    from tidings.channels.plugin import ChannelContext


@Parameter(name="*")
@dataclass(frozen=True)
class CommandOptions:
    """The options of every command: the output format and the data folder."""

    #: Print JSON instead of a table.
    json: Annotated[bool, Parameter(help="Print JSON.")] = False
    data_dir: Annotated[Path | None, Parameter(help="Folder of the database and secrets (TIDINGS_DATA_DIR).")] = None


class CommandHost(Protocol):
    """Opens the installation of a call, and prints results."""

    def open(self, options: CommandOptions) -> "AbstractAsyncContextManager[ChannelContext]":
        """Open the existing database and the configured channels. Raises NotFound if there is no database."""
        ...

    def print_json(self, value: object) -> None:
        """Print one JSON document."""
        ...

    def print_table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
        """Print a table, or the sentence `empty` if there are no rows."""
        ...
