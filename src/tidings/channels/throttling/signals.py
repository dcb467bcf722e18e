"""Signals: what one answer says about the server that gave it, independent of the message. Pure."""

from datetime import timedelta
from enum import StrEnum

import msgspec


class SignalKind(StrEnum):
    """The state of a server as shown by one answer."""

    #: it works, even if it rejected this message
    HEALTHY = "healthy"
    #: no connection, no answer in time, or an invalid answer
    TIMEOUT = "timeout"
    #: a failure of its own, such as 5xx; may concern only this target
    SERVER_ERROR = "server_error"
    #: too many messages; may concern only this target
    THROTTLED = "throttled"
    #: a failure of its own with a requested wait: concerns all targets
    UNAVAILABLE = "unavailable"
    #: it refuses this client: token, login, sender or account. Concerns all targets
    REFUSED = "refused"


class Signal(msgspec.Struct, frozen=True):
    """The input of the circuit breaker from one answer."""

    kind: SignalKind
    #: the requested wait; always set for UNAVAILABLE
    retry_after: timedelta | None = None
