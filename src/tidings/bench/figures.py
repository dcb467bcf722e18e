"""What benchmarks print: latency as the figures that are compared, records under their JSON names."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds."""

    p50: float
    p99: float
    max: float

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> "Latency":
        """Return the figures of some calls; 0 for none."""
        most = round(max(milliseconds, default=0.0), 2)
        if len(milliseconds) < 2:
            return cls(most, most, most)
        cuts = statistics.quantiles(milliseconds, n=100, method="inclusive")
        return cls(round(cuts[49], 2), round(cuts[98], 2), most)


def camel(values: Mapping[str, object]) -> dict[str, object]:
    """Return a record's fields under their JSON names: `cpu_ms` is `cpuMs`."""
    named: dict[str, object] = {}
    for name, value in values.items():
        first, *rest = name.split("_")
        named[first + "".join(word.title() for word in rest)] = camel(value) if isinstance(value, Mapping) else value
    return named
