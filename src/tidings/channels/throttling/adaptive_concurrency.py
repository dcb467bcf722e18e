"""AIMD limit: the share of a process's send slots that one push host may use, based on its latency. Pure.

Without a limit a slow host would occupy all slots. Its share shrinks while its responses are slow and grows while they
are fast.
"""

import msgspec

#: bounds of a host's share of the slots. It starts at the minimum and reaches the maximum after 65 fast responses.
#: The maximum is below 1 so that a hanging host cannot block the others
MIN_SHARE, MAX_SHARE = 0.1, 0.75
#: latency in seconds: below the first the share grows, above the second it shrinks
FAST_LATENCY, SLOW_LATENCY = 1.0, 2.0
_ADDITIVE_INCREASE = 0.01
_MULTIPLICATIVE_DECREASE = 0.9
#: weight of the latest response in the average
_EWMA_WEIGHT = 0.1
#: seconds without any response, while sends are in flight, after which nothing more is sent
NO_RESPONSE_TIMEOUT = 2.0


class AdaptiveLimit(msgspec.Struct, frozen=True):
    """The current share and average latency of a push host."""

    share: float = MIN_SHARE
    #: exponentially weighted average latency, in seconds
    average_latency: float = 0.0

    @property
    def is_slow(self) -> bool:
        """Whether the host is slow even at its minimum share."""
        return self.share <= MIN_SHARE and self.average_latency > SLOW_LATENCY


def on_latency(limit: AdaptiveLimit, latency: float) -> AdaptiveLimit:
    """Return the limit after a send that took `latency` seconds, with or without a response."""
    average = limit.average_latency + _EWMA_WEIGHT * (latency - limit.average_latency)
    if latency < FAST_LATENCY:
        share = min(MAX_SHARE, limit.share + _ADDITIVE_INCREASE)
    elif latency > SLOW_LATENCY:
        share = max(MIN_SHARE, limit.share * _MULTIPLICATIVE_DECREASE)
    else:
        share = limit.share
    return AdaptiveLimit(share, average)
