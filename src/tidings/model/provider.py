"""The state of a provider: one account or server over which a channel sends."""

from collections.abc import Sequence
from enum import StrEnum

import msgspec


class ProviderState(StrEnum):
    """Whether a provider receives messages."""

    #: it receives its share of the messages
    ACTIVE = "active"
    #: it works, and receives messages only when others fail
    STANDBY = "standby"
    #: it asked for fewer messages and receives them at a lower rate
    THROTTLED = "throttled"
    #: it was taken out, works again, and receives a growing share
    RECOVERING = "recovering"
    #: it is taken out after failures, except for one probe at a time
    OUT = "out"


class ProviderStatus(msgspec.Struct, frozen=True, rename="camel"):
    """One provider as one process sees it."""

    channel: str
    name: str
    state: ProviderState
    #: state of its circuit breaker: closed, open, half_open
    circuit: str
    #: configured share of the messages; None = the recipient decides, as with push services
    weight: int | None
    #: the share that it receives now
    effective_weight: float | None
    #: messages per second, over the last seconds
    rate: float
    #: the most messages per second that it receives; None = no limit
    rate_limit: float | None
    #: requests of the last minute, and how many of them failed
    requests: int
    errors: int
    #: since the start of the process: requests, failed requests, and how often it was taken out
    requests_total: int
    errors_total: int
    outages_total: int


#: the worst first
_SEVERITY = (
    ProviderState.OUT,
    ProviderState.THROTTLED,
    ProviderState.RECOVERING,
    ProviderState.STANDBY,
    ProviderState.ACTIVE,
)
_CIRCUITS = ("open", "half_open", "closed")


def merge_statuses(name: str, statuses: Sequence[ProviderStatus]) -> ProviderStatus:
    """Return the status of what several statuses are about: one provider in several processes, or hosts of one service.

    statuses: at least one. State and circuit are the worst; rates, requests and errors are added; weights are averaged.
    """
    weights = [status.effective_weight for status in statuses if status.effective_weight is not None]
    limits = [status.rate_limit for status in statuses if status.rate_limit is not None]
    return ProviderStatus(
        channel=statuses[0].channel,
        name=name,
        state=min((status.state for status in statuses), key=_SEVERITY.index),
        circuit=min((status.circuit for status in statuses), key=_CIRCUITS.index),
        weight=statuses[0].weight,
        effective_weight=round(sum(weights) / len(weights), 1) if weights else None,
        rate=round(sum(status.rate for status in statuses), 2),
        # a process without a limit sends as fast as it can
        rate_limit=round(sum(limits), 2) if len(limits) == len(statuses) else None,
        requests=sum(status.requests for status in statuses),
        errors=sum(status.errors for status in statuses),
        requests_total=sum(status.requests_total for status in statuses),
        errors_total=sum(status.errors_total for status in statuses),
        outages_total=sum(status.outages_total for status in statuses),
    )
