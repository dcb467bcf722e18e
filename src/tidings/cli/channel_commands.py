"""The commands that channels bring."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import entry_points

from cyclopts import App

from tidings.channels.plugin import ENTRY_POINT_GROUP, ChannelContext, HasCommands, load_channel_plugin
from tidings.cli.options import CliOptions
from tidings.cli.output import print_json, print_table
from tidings.errors import NotFound
from tidings.ports.command_host import CommandOptions


class Terminal:
    """Implements `tidings.ports.command_host.CommandHost`."""

    @asynccontextmanager
    async def open(self, options: CommandOptions) -> AsyncIterator[ChannelContext]:
        """Open the existing database and the configured channels. Raises NotFound if there is no database."""
        # imported here: it takes a second to load, which `--help` does not need
        from tidings.container import AppContainer

        settings = CliOptions(options.json, options.data_dir).require_existing_database()
        async with AppContainer.open(settings) as runtime:
            yield runtime.channel_context

    def print_json(self, value: object) -> None:
        """Print one JSON document."""
        print_json(value)

    def print_table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
        """Print a table, or the sentence `empty` if there are no rows."""
        print_table(columns, rows, empty=empty)


def __getattr__(channel: str) -> App:
    """Return the commands of an installed channel. The table of commands refers to them as `channel_commands:NAME`."""
    entry = next((entry for entry in entry_points(group=ENTRY_POINT_GROUP) if entry.name == channel), None)
    if entry is None:
        raise AttributeError(channel)
    plugin = load_channel_plugin(entry)
    if not isinstance(plugin, HasCommands):
        raise NotFound(f"the channel {channel} has no commands")
    return plugin.create_commands(Terminal())
