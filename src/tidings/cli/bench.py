"""`tidings bench`: measure the whole path, or a part of it, on this machine."""

import asyncio
import signal
from collections.abc import Coroutine, Mapping
from typing import Annotated, Protocol, TypeVar

from cyclopts import App, Parameter
from cyclopts.validators import Number

from tidings.cli.output import print_json, print_table

app = App(
    name="bench",
    help="""Measure the whole path, or a part of it, on this machine.

    Processes and data of its own, on loopback: a new SQLite file, or the empty database that TIDINGS_DATABASE (and
    TIDINGS_REDIS) names.""",
)

Json = Annotated[bool, Parameter(help="Print JSON.")]
Workers = Annotated[
    int | None,
    Parameter(
        help="Sender processes beside the server (default: cores - 1); on PostgreSQL tidings worker processes (cores).",
        validator=Number(gte=0, lte=64),
    ),
]


class Figures(Protocol):
    """What every benchmark returns."""

    def json_object(self) -> dict[str, object]: ...


FiguresT = TypeVar("FiguresT", bound=Figures)


@app.command
def push(
    *,
    recipients: Annotated[
        int, Parameter(help="Users with a device each.", validator=Number(gte=1, lte=5_000_000))
    ] = 5000,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Change an event and measure until the last outcome is recorded."""
    from tidings.bench.push import run

    _show(_measured(run(recipients=recipients, workers=workers)), json=json)


@app.command
def accept(
    *,
    requests: Annotated[int, Parameter(help="Single notifications.", validator=Number(gte=1, lte=1_000_000))] = 5000,
    clients: Annotated[int, Parameter(help="Callers at once.", validator=Number(gte=1, lte=1000))] = 64,
    recipients: Annotated[
        int, Parameter(help="Users told in bulk, in each form.", validator=Number(gte=100, lte=10_000_000))
    ] = 100_000,
    json: Json = False,
) -> None:
    """Measure how fast notifications are accepted, one by one and in bulk."""
    from tidings.bench.accept import run

    _show(_measured(run(requests=requests, clients=clients, recipients=recipients)), json=json)


@app.command
def lanes(
    *,
    broadcast: Annotated[
        int, Parameter(help="Users told by the broadcast.", validator=Number(gte=100, lte=5_000_000))
    ] = 200_000,
    urgent: Annotated[int, Parameter(help="Urgent notifications.", validator=Number(gte=1, lte=50_000))] = 200,
    per_second: Annotated[float, Parameter(help="Urgent ones a second.", validator=Number(gt=0, lte=1000))] = 5.0,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Send urgent notifications while a broadcast goes out and measure how long each takes."""
    from tidings.bench.lanes import run

    figures = _measured(run(broadcast=broadcast, urgent=urgent, per_second=per_second, workers=workers))
    _show(figures, json=json)


@app.command
def queue(
    *,
    tasks: Annotated[int, Parameter(help="Tasks of each kind.", validator=Number(gte=1, lte=5_000_000))] = 20_000,
    json: Json = False,
) -> None:
    """Measure the queue alone: in memory, or on the Redis that TIDINGS_REDIS names."""
    from tidings.bench.queue import run

    _show(_measured(run(tasks=tasks)), json=json)


@app.command
def idle(
    *,
    seconds: Annotated[float, Parameter(help="How long to watch.", validator=Number(gte=0.1, lte=3600))] = 20.0,
    workers: Annotated[
        int | None,
        Parameter(
            help="Sender processes beside the server (default: 0); on PostgreSQL tidings worker processes (1).",
            validator=Number(gte=0, lte=64),
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Measure what the processes cost while there is nothing to do."""
    from tidings.bench.idle import run

    _show(_measured(run(seconds=seconds, workers=workers)), json=json)


def _measured(work: Coroutine[object, object, FiguresT]) -> FiguresT:
    """Run a benchmark; at Ctrl-C, SIGTERM and SIGHUP it ends its processes and erases its data first."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(_stoppable(work))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None


async def _stoppable(work: Coroutine[object, object, FiguresT]) -> FiguresT:
    """Cancel the work at the first signal; it is ending at those that follow.

    Its processes are in sessions of their own, and hear nothing of a terminal that is closed.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None, "called in a task"

    def stop() -> None:
        if not task.cancelling():
            task.cancel()

    for told in (signal.SIGTERM, signal.SIGHUP):
        # nohup has it ignored
        if signal.getsignal(told) is not signal.SIG_IGN:
            loop.add_signal_handler(told, stop)
    return await work


def _show(figures: Figures, *, json: bool) -> None:
    if json:
        print_json(figures.json_object())
    else:
        print_table(("figure", "value"), _flat(figures.json_object()), empty="")


def _flat(figures: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """Return plain figures first, then those of each group under `group.name`."""
    plain = [(prefix + name, value) for name, value in figures.items() if not isinstance(value, Mapping)]
    for name, value in figures.items():
        if isinstance(value, Mapping):
            plain += _flat(value, f"{prefix}{name}.")
    return plain
