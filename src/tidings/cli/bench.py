"""`tidings bench`: measure the whole path on this machine."""

from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from tidings.cli.output import print_json, print_table

app = App(name="bench", help="Measure the whole path on this machine.")


@app.command
async def push(
    *,
    recipients: Annotated[int, Parameter(help="Users with a device each.", validator=Number(gte=1))] = 5000,
    workers: Annotated[
        int | None, Parameter(help="Sender processes beside the server; default: cores - 1.", validator=Number(gte=0))
    ] = None,
    json: Annotated[bool, Parameter(help="Print JSON.")] = False,
) -> None:
    """Change an event and measure until the last outcome is recorded, in a folder and processes of its own."""
    from tidings.bench.push import run

    figures = (await run(recipients=recipients, workers=workers)).json_object()
    if json:
        print_json(figures)
    else:
        rows = [(name, value) for name, value in figures.items() if not isinstance(value, dict)]
        nested = [
            (f"{name}.{key}", one)
            for name, value in figures.items()
            if isinstance(value, dict)
            for key, one in value.items()
        ]
        print_table(("figure", "value"), [*rows, *nested], empty="")
