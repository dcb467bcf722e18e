"""`tidings bench`: measure the whole path on this machine."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from tidings.cli.output import print_json, print_table

app = App(name="bench", help="Measure the whole path on this machine.")


@app.command
async def push(
    *,
    recipients: Annotated[int, Parameter(help="Users with a ticket and one simulated device each.")] = 5000,
    workers: Annotated[int, Parameter(help="Sender processes beside the server, 0 = none.")] = 0,
    singles: Annotated[int, Parameter(help="Single notifications measured on the idle system first.")] = 100,
    folder: Annotated[Path | None, Parameter(help="Where the temporary database goes.")] = None,
    json: Annotated[bool, Parameter(help="Print JSON.")] = False,
) -> int:
    """Send one event update to many recipients: HTTP request → last outcome recorded."""
    from tidings.bench.push import run
    from tidings.errors import Invalid

    if not 1 <= recipients <= 5_000_000:
        raise Invalid.field("--recipients", "must be 1 to 5 000 000")
    if singles < 0 or not 0 <= workers <= 64:
        raise Invalid.field("--singles, --workers", "must be 0 or more, workers at most 64")
    figures = await run(recipients=recipients, workers=workers, singles=singles, folder=folder)
    if json:
        print_json(figures.json_object())
    else:
        rows = [(name, value) for name, value in figures.json_object().items()]
        print_table(("figure", "value"), rows, empty="nothing was measured")
    return 0
