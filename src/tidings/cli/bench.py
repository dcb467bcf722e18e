"""`tidings bench`: measure the whole path on this machine."""

from collections.abc import Mapping
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

    _show((await run(recipients=recipients, workers=workers)).json_object(), json=json)


@app.command
def accept(
    *,
    requests: Annotated[int, Parameter(help="Single notifications.", validator=Number(gte=1))] = 5000,
    clients: Annotated[int, Parameter(help="Callers at once.", validator=Number(gte=1, lte=1000))] = 64,
    recipients: Annotated[
        int, Parameter(help="Users told in bulk, in each form.", validator=Number(gte=100))
    ] = 100_000,
    json: Annotated[bool, Parameter(help="Print JSON.")] = False,
) -> None:
    """Measure how fast notifications are accepted, one by one and in bulk.

    A new SQLite file, or the empty database that TIDINGS_DATABASE (and TIDINGS_REDIS) names.
    """
    import asyncio

    import uvloop

    from tidings.bench.accept import run

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(run(requests=requests, clients=clients, recipients=recipients))
    _show(figures.json_object(), json=json)


def _show(figures: Mapping[str, object], *, json: bool) -> None:
    if json:
        print_json(figures)
    else:
        print_table(("figure", "value"), _flat(figures), empty="")


def _flat(figures: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """Return plain figures first, then those of each group under `group.name`."""
    plain = [(prefix + name, value) for name, value in figures.items() if not isinstance(value, Mapping)]
    for name, value in figures.items():
        if isinstance(value, Mapping):
            plain += _flat(value, f"{prefix}{name}.")
    return plain
