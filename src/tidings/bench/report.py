"""Output of the benchmarks: latency percentiles, JSON field names and a progress bar."""

import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Latency:
    """Median, 99th percentile and maximum of a series of latencies, in milliseconds."""

    p50: float
    p99: float
    max: float

    @classmethod
    def from_milliseconds(cls, milliseconds: Sequence[float]) -> "Latency":
        """Return the percentiles of a series; 0 for an empty one."""
        maximum = round(max(milliseconds, default=0.0), 2)
        if len(milliseconds) < 2:
            return cls(maximum, maximum, maximum)
        percentiles = statistics.quantiles(milliseconds, n=100, method="inclusive")
        return cls(round(percentiles[49], 2), round(percentiles[98], 2), maximum)


def to_camel_case(values: Mapping[str, object]) -> dict[str, object]:
    """Return a record's fields under their JSON names: `cpu_ms` becomes `cpuMs`."""
    converted: dict[str, object] = {}
    for name, value in values.items():
        first, *rest = name.split("_")
        converted[first + "".join(word.title() for word in rest)] = (
            to_camel_case(value) if isinstance(value, Mapping) else value
        )
    return converted


@contextmanager
def show_progress(title: str, total: int) -> Iterator[Callable[[int], None] | None]:
    """Show a progress bar on standard error for the length of the block.

    Yields a function that takes the number of completed items, or None if standard error is not a terminal.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(file=sys.stderr), transient=True) as bars:
        bar = bars.add_task(title, total=total)
        yield lambda done: bars.update(bar, completed=done)
