"""What an answer says about the host that gave it, whoever the message was for. Pure."""

from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from tidings.channels.webpush.answer import Answer, NoAnswer
from tidings.channels.webpush.policy import Service, service_of, told_wait
from tidings.model.outcome import Outcome


class Kind(StrEnum):
    """How a host is, judged by one exchange."""

    #: it works, even if it refused this message
    WELL = "well"
    #: no connection, no answer in time, or noise
    SILENT = "silent"
    #: 5xx, 408 or 429 without a word on how long; may be about this one device
    AILING = "ailing"
    #: too many requests, with a time to wait; may be about this one device
    FULL = "full"
    #: 5xx with a time to wait: the whole service is meant
    SHUT = "shut"


class Sign(msgspec.Struct, frozen=True):
    """One exchange as the breaker sees it."""

    kind: Kind
    #: the wait that was asked for; only with FULL and SHUT
    wait: timedelta | None = None


class Sent(msgspec.Struct, frozen=True):
    """What came of a push, and what it says about its host: None = nothing, the host was not asked."""

    outcome: Outcome
    sign: Sign | None = None


def sign_of(host: str, answer: Answer | NoAnswer, now: datetime) -> Sign:
    """Return what an exchange says about its host (RFC 9110 §10.2.3 for `Retry-After`, RFC 6585 §4 for 429)."""
    if isinstance(answer, NoAnswer):
        return Sign(Kind.SILENT)
    throttled = answer.status in (408, 429) or (answer.status == 406 and service_of(host) is Service.WINDOWS)
    if not throttled and answer.status < 500:
        return Sign(Kind.WELL)
    wait = told_wait(answer.headers.get("retry-after"), now)
    if wait is None:
        return Sign(Kind.AILING)
    return Sign(Kind.FULL if throttled else Kind.SHUT, wait)
