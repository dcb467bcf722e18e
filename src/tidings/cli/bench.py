"""`tidings bench`: benchmarks of the whole flow and of its parts on this machine."""

import asyncio
import signal
from collections.abc import Coroutine, Mapping
from typing import Annotated, Protocol, TypeVar

from cyclopts import App, Parameter
from cyclopts.validators import Number

from tidings.cli.output import print_json, print_table

app = App(
    name="bench",
    help="""Run benchmarks of the whole flow, or of a part of it, on this machine.

    Each benchmark starts its own processes on loopback. It uses a new SQLite file, or the empty database that
    TIDINGS_DATABASE (and TIDINGS_REDIS) names.""",
)

Json = Annotated[bool, Parameter(help="Print JSON.")]
Workers = Annotated[
    int | None,
    Parameter(
        help="Sender processes of the server (default: cores - 1); on PostgreSQL worker processes (default: cores).",
        validator=Number(gte=0, lte=64),
    ),
]


class BenchmarkResult(Protocol):
    """What every benchmark returns."""

    def json_object(self) -> dict[str, object]: ...


ResultT = TypeVar("ResultT", bound=BenchmarkResult)


@app.command
def push(
    *,
    recipients: Annotated[
        int, Parameter(help="Users, each with one device.", validator=Number(gte=1, lte=5_000_000))
    ] = 5000,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Measure an event update until the last outcome is recorded."""
    from tidings.bench.push import run

    _print_result(_run_benchmark(run(recipients=recipients, workers=workers)), json=json)


@app.command
def email(
    *,
    recipients: Annotated[
        int, Parameter(help="Users, each with one address.", validator=Number(gte=1, lte=1_000_000))
    ] = 5000,
    connections: Annotated[
        int, Parameter(help="Connections to the SMTP sink, per process.", validator=Number(gte=1, lte=500))
    ] = 10,
    reply_delay_ms: Annotated[
        float,
        Parameter(help="Milliseconds from each command to the reply of the sink.", validator=Number(gte=0, lte=5000)),
    ] = 0.0,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Measure e-mail into an SMTP sink: one message to all users, and one with its own text to each."""
    from tidings.bench.email import run

    work = run(recipients=recipients, connections=connections, reply_delay_ms=reply_delay_ms, workers=workers)
    _print_result(_run_benchmark(work), json=json)


@app.command
def digest(
    *,
    digests: Annotated[int, Parameter(help="Digests, of a user each.", validator=Number(gte=1, lte=1_000_000))] = 5000,
    items: Annotated[int, Parameter(help="Notifications in each digest.", validator=Number(gte=1, lte=100))] = 3,
    json: Json = False,
) -> None:
    """Measure how many digests close per second."""
    from tidings.bench.digest import run

    _print_result(_run_benchmark(run(digests=digests, items=items)), json=json)


@app.command
def inapp(
    *,
    recipients: Annotated[int, Parameter(help="Users with a feed.", validator=Number(gte=1, lte=1_000_000))] = 5000,
    items: Annotated[
        int, Parameter(help="Items in all feeds before the measurement.", validator=Number(gte=0, lte=10_000_000))
    ] = 20_000,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Measure how fast items are written to feeds, and how fast a page of a feed is read."""
    from tidings.bench.inapp import run

    _print_result(_run_benchmark(run(recipients=recipients, items=items, workers=workers)), json=json)


@app.command
def accept(
    *,
    requests: Annotated[int, Parameter(help="Single notifications.", validator=Number(gte=1, lte=1_000_000))] = 5000,
    clients: Annotated[int, Parameter(help="Concurrent callers.", validator=Number(gte=1, lte=1000))] = 64,
    recipients: Annotated[
        int, Parameter(help="Recipients of the bulk requests of each form.", validator=Number(gte=100, lte=10_000_000))
    ] = 100_000,
    json: Json = False,
) -> None:
    """Measure how fast notifications are accepted, singly and in bulk."""
    from tidings.bench.accept import run

    _print_result(_run_benchmark(run(requests=requests, clients=clients, recipients=recipients)), json=json)


@app.command
def lanes(
    *,
    broadcast: Annotated[
        int, Parameter(help="Recipients of the broadcast.", validator=Number(gte=100, lte=5_000_000))
    ] = 200_000,
    urgent: Annotated[int, Parameter(help="Urgent notifications.", validator=Number(gte=1, lte=50_000))] = 200,
    per_second: Annotated[
        float, Parameter(help="Urgent notifications per second.", validator=Number(gt=0, lte=1000))
    ] = 5.0,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Measure the latency of urgent notifications during a broadcast."""
    from tidings.bench.lanes import run

    result = _run_benchmark(run(broadcast=broadcast, urgent=urgent, per_second=per_second, workers=workers))
    _print_result(result, json=json)


@app.command
def release(
    *,
    messages: Annotated[
        int, Parameter(help="Messages that quiet hours hold.", validator=Number(gte=100, lte=5_000_000))
    ] = 100_000,
    urgent: Annotated[int, Parameter(help="Urgent notifications.", validator=Number(gte=1, lte=50_000))] = 200,
    per_second: Annotated[
        float, Parameter(help="Urgent notifications per second.", validator=Number(gt=0, lte=1000))
    ] = 5.0,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Measure the end of the quiet hours of many users, with urgent notifications meanwhile."""
    from tidings.bench.release import run

    result = _run_benchmark(run(messages=messages, urgent=urgent, per_second=per_second, workers=workers))
    _print_result(result, json=json)


@app.command
def plan(
    *,
    recipients: Annotated[
        int, Parameter(help="Users, each with one device.", validator=Number(gte=1, lte=5_000_000))
    ] = 20_000,
    json: Json = False,
) -> None:
    """Measure planning: the rules alone, with the pages read, and with the plans stored."""
    from tidings.bench.plan import run

    _print_result(_run_benchmark(run(recipients=recipients)), json=json)


@app.command
def queue(
    *,
    tasks: Annotated[int, Parameter(help="Tasks of each kind.", validator=Number(gte=1, lte=5_000_000))] = 20_000,
    json: Json = False,
) -> None:
    """Measure the queue alone: in memory, or in the Redis that TIDINGS_REDIS names."""
    from tidings.bench.queue import run

    _print_result(_run_benchmark(run(tasks=tasks)), json=json)


@app.command
def rooms(
    *,
    connections: Annotated[int, Parameter(help="Idle viewers.", validator=Number(gte=1, lte=100_000))] = 2000,
    pairs: Annotated[
        int, Parameter(help="Viewers who join and leave at once.", validator=Number(gte=1, lte=1_000_000))
    ] = 2000,
    seconds: Annotated[
        float, Parameter(help="Length of the idle measurement in seconds.", validator=Number(gte=0.1, lte=3600))
    ] = 20.0,
    json: Json = False,
) -> None:
    """Measure live rooms: memory and CPU of viewers, joins and departures, and all viewers coming back at once."""
    from tidings.bench.rooms import run

    _print_result(_run_benchmark(run(connections=connections, pairs=pairs, seconds=seconds)), json=json)


@app.command
def idle(
    *,
    seconds: Annotated[
        float, Parameter(help="Length of the measurement in seconds.", validator=Number(gte=0.1, lte=3600))
    ] = 20.0,
    workers: Annotated[
        int | None,
        Parameter(
            help="Sender processes of the server (default: 0); on PostgreSQL worker processes (default: 1).",
            validator=Number(gte=0, lte=64),
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Measure the CPU time and memory of idle processes."""
    from tidings.bench.idle import run

    _print_result(_run_benchmark(run(seconds=seconds, workers=workers)), json=json)


def _run_benchmark(work: Coroutine[object, object, ResultT]) -> ResultT:
    """Run a benchmark. On Ctrl-C, SIGTERM and SIGHUP it stops its processes and deletes its data before it exits."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(_cancel_on_signal(work))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None


async def _cancel_on_signal(work: Coroutine[object, object, ResultT]) -> ResultT:
    """Run `work` and cancel it at the first signal; further signals are ignored while it cleans up.

    The benchmark's processes run in their own sessions, so a closed terminal does not send them SIGHUP.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None, "called in a task"

    def stop() -> None:
        if not task.cancelling():
            task.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        # nohup sets SIGHUP to be ignored
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, stop)
    return await work


def _print_result(result: BenchmarkResult, *, json: bool) -> None:
    if json:
        print_json(result.json_object())
    else:
        print_table(("figure", "value"), _flatten(result.json_object()), empty="")


def _flatten(figures: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """Return the plain figures, then those of each group as `group.name`."""
    plain = [(prefix + name, value) for name, value in figures.items() if not isinstance(value, Mapping)]
    for name, value in figures.items():
        if isinstance(value, Mapping):
            plain += _flatten(value, f"{prefix}{name}.")
    return plain
