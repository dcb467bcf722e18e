"""`tidings queues`: how each lane stands."""

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from tidings.cli.options import Options
from tidings.cli.output import hint, print_json, print_table

if TYPE_CHECKING:
    from tidings.api.queues import QueuesShown


async def queues(
    *,
    watch: Annotated[bool, Parameter(help="Show it again and again, until Ctrl-C.")] = False,
    every: Annotated[float, Parameter(help="Seconds between two looks.", validator=Number(gte=0.2))] = 2.0,
    options: Options = Options(),
) -> None:
    """Show how each lane stands: what waits, is worked on, is delayed, has failed, and how fast it goes.

    Without Redis the lanes are in the server's memory, and only what the database knows can be shown from here.
    """
    from tidings.api.queues import queues_shown
    from tidings.runtime import Runtime

    async with Runtime.open(options.existing()) as runtime:
        while True:
            found = await queues_shown(runtime)
            if options.json:
                # one line for each look, for programs that read along
                print_json(found.json_object(), indent=0 if watch else 2)
                sys.stdout.flush()
            else:
                _show(found, again=watch)
            if not watch:
                return
            await asyncio.sleep(every)


def _show(found: "QueuesShown", *, again: bool) -> None:
    if again and sys.stdout.isatty():
        # to the top, and clear from there
        print("\x1b[H\x1b[J", end="")
    named = [(lane.lane.value, lane) for lane in found.lanes] + ([("intake", found.intake)] if found.intake else [])
    rows = [
        (
            name,
            one.waiting,
            one.active,
            one.delayed,
            one.failed,
            one.completed,
            one.oldest_age_seconds,
            one.rate_per_second,
        )
        for name, one in named
    ]
    columns = ("lane", "waiting", "active", "delayed", "failed", "completed", "oldest, s", "per second")
    print_table(columns, rows, empty="")
    if found.outbox_age_seconds:
        hint(f"Accepted work has been waiting for the queue for {found.outbox_age_seconds:g} s.")
    if found.more_delayed:
        hint("More work is delayed than was counted.")
    if found.status == "away":
        hint(f"The queue does not answer: {found.away}. Workers go on from the database.")
    elif found.status == "elsewhere":
        hint("Without Redis the lanes are in the server's memory; ask it: GET /api/queues")
