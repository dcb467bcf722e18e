"""`tidings rooms`: list live rooms, and follow their changes."""

import asyncio
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from tidings.cli.options import CliOptions
from tidings.cli.output import print_hint, print_json, print_table

if TYPE_CHECKING:
    from tidings.container import AppContainer
    from tidings.model.stream import StreamEpoch

app = App(name="rooms", help="List the live rooms of streams.")

Limit = Annotated[int, Parameter(help="Rooms to show.", validator=Number(gte=1, lte=10_000))]


@app.command(name="list")
async def list_rooms(*, limit: Limit = 100, options: CliOptions = CliOptions()) -> None:
    """List the streams that have not ended: event, epoch, start, and viewers.

    Viewers are known with Redis only. Without it they are in the memory of the server; use GET /api/streams/clients.
    """
    from tidings.container import AppContainer

    async with AppContainer.open(options.require_existing_database()) as runtime:
        await _show(runtime, limit, is_json=options.json)


@app.command
async def watch(
    *,
    limit: Limit = 100,
    every: Annotated[float, Parameter(help="Seconds between refreshes.", validator=Number(gte=0.2))] = 2.0,
    options: CliOptions = CliOptions(),
) -> None:
    """Show the list again and again until Ctrl-C. With --json one line per refresh."""
    from tidings.container import AppContainer

    async with AppContainer.open(options.require_existing_database()) as runtime:
        while True:
            if not options.json and sys.stdout.isatty():
                # move the cursor to the top and clear the screen
                print("\x1b[H\x1b[J", end="")
            await _show(runtime, limit, is_json=options.json, indent=0)
            sys.stdout.flush()
            await asyncio.sleep(every)


async def _show(runtime: "AppContainer", limit: int, *, is_json: bool, indent: int = 2) -> None:
    from tidings.packs.streams import repository

    async with runtime.store.read_snapshot() as tx:
        epochs = await repository.list_open_epochs(tx, "", limit)
    rows = await _add_viewers(runtime, epochs)
    if is_json:
        names = ("eventId", "epoch", "startedAt", "users", "connections")
        print_json([dict(zip(names, row, strict=True)) for row in rows], indent=indent)
        return
    print_table(("event", "epoch", "live since", "users", "connections"), rows, empty="No stream is live.")
    if runtime.settings.redis is None and rows:
        print_hint("Without Redis the viewers are in the server's memory; use GET /api/streams/{eventId}/clients")


async def _add_viewers(runtime: "AppContainer", epochs: "Sequence[StreamEpoch]") -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for epoch in epochs:
        view = None if runtime.settings.redis is None else await runtime.rooms.presence.get_room(epoch.event_id)
        users, connections = (None, None) if view is None else (view.users, view.connections)
        started_at = epoch.started_at.isoformat(timespec="seconds")
        rows.append((epoch.event_id, epoch.epoch, started_at, users, connections))
    return rows
