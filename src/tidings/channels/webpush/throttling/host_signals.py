"""Host signals: what a response reveals about the push host, independent of the message. Pure."""

from datetime import datetime, timedelta

import msgspec

from tidings.channels.throttling.signals import Signal, SignalKind
from tidings.channels.webpush.push_exchange import NoResponse, PushResponse
from tidings.channels.webpush.response_policy import (
    PushServiceKind,
    identify_service,
    is_token_refused,
    parse_retry_after,
)
from tidings.model.outcome import Outcome


class HostSignal(Signal, frozen=True):
    """The signal of one response, with the difference of the clocks."""

    #: this machine's clock minus that of the push service; None = not measured
    clock_offset: timedelta | None = None


class SendResult(msgspec.Struct, frozen=True):
    """The outcome of a push and its host signal, None if no request was sent."""

    outcome: Outcome
    signal: HostSignal | None = None


def classify_host(host: str, response: PushResponse | NoResponse, now: datetime) -> HostSignal:
    """Return the host signal of a response (RFC 9110 §10.2.3 for `Retry-After`, RFC 6585 §4 for 429)."""
    if isinstance(response, NoResponse):
        return HostSignal(SignalKind.TIMEOUT)
    if is_token_refused(response):
        return HostSignal(SignalKind.REFUSED)
    throttled = response.status in (408, 429) or (
        response.status == 406 and identify_service(host) is PushServiceKind.WINDOWS
    )
    if not throttled and response.status < 500:
        return HostSignal(SignalKind.HEALTHY)
    wait = parse_retry_after(response.headers.get("retry-after"), now)
    if wait is None:
        return HostSignal(SignalKind.SERVER_ERROR)
    return HostSignal(SignalKind.THROTTLED if throttled else SignalKind.UNAVAILABLE, wait)
