"""How long calls took, as the two figures that are compared."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds."""

    p50: float
    p99: float

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> "Latency":
        """Return the figures of some calls; 0 for none."""
        if len(milliseconds) < 2:
            only = round(milliseconds[0], 2) if milliseconds else 0.0
            return cls(only, only)
        cuts = statistics.quantiles(milliseconds, n=100, method="inclusive")
        return cls(round(cuts[49], 2), round(cuts[98], 2))
