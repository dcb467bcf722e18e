"""`tidings queues`: show the status of each lane of the queue."""

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from tidings.cli.options import CliOptions
from tidings.cli.output import print_hint, print_json, print_table

if TYPE_CHECKING:
    from tidings.api.routes.queues import QueuesResponse


async def queues(
    *,
    watch: Annotated[bool, Parameter(help="Refresh the output until Ctrl-C.")] = False,
    every: Annotated[float, Parameter(help="Seconds between refreshes.", validator=Number(gte=0.2))] = 2.0,
    options: CliOptions = CliOptions(),
) -> None:
    """Show the status of each lane: waiting, active, delayed and failed jobs, and the rate.

    Without Redis the lanes are in the server's memory, and this command shows only what the database stores.
    """
    from tidings.api.routes.queues import load_queues
    from tidings.container import AppContainer

    async with AppContainer.open(options.require_existing_database()) as runtime:
        while True:
            status = await load_queues(runtime)
            if options.json:
                # with --watch one line per refresh, for programs that read a stream
                print_json(status.json_object(), indent=0 if watch else 2)
                sys.stdout.flush()
            else:
                _print_status(status, is_repeated=watch)
            if not watch:
                return
            await asyncio.sleep(every)


def _print_status(status: "QueuesResponse", *, is_repeated: bool) -> None:
    if is_repeated and sys.stdout.isatty():
        # move the cursor to the top and clear the screen
        print("\x1b[H\x1b[J", end="")
    queues = [(lane.lane.value, lane) for lane in status.lanes] + ([("intake", status.intake)] if status.intake else [])
    rows = [
        (
            name,
            counts.waiting,
            counts.active,
            counts.delayed,
            counts.failed,
            counts.completed,
            counts.oldest_age_seconds,
            counts.rate_per_second,
        )
        for name, counts in queues
    ]
    columns = ("lane", "waiting", "active", "delayed", "failed", "completed", "oldest, s", "per second")
    print_table(columns, rows, empty="")
    if status.outbox_age_seconds:
        print_hint(f"The oldest outbox entry has not been relayed to the queue for {status.outbox_age_seconds:g} s.")
    if status.more_delayed:
        print_hint("The count of delayed work is incomplete; there is more.")
    if status.status == "away":
        print_hint(f"The queue does not respond: {status.away}. Workers continue from the database.")
    elif status.status == "elsewhere":
        print_hint("Without Redis the lanes are in the server's memory; use GET /api/queues")
