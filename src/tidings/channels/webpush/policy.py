"""What to do with a push service's answer: one table per service (facts: autopush, Apple, Microsoft, FCM documents).

*Delete* a dead target · *rebind*: stop sending, the browser must subscribe again · *halt*: alert, delete nothing ·
*retry* with jitter. Deleting on any 4xx, on network errors or on 429 is the known mistake of others.
"""

import re
from collections.abc import Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum

import msgspec

from tidings.channels.webpush.answer import Answer
from tidings.model.outcome import Deferred, Delivered, Gone, Outcome, Refused

#: seconds before the 2nd, 3rd and 4th try (MISSION M27)
WAITS = (2, 4, 8)
MAX_ATTEMPTS = len(WAITS) + 1
#: a told wait is kept within this; nobody means "at once" or "in ten years"
MIN_TOLD_WAIT = timedelta(seconds=2)
MAX_TOLD_WAIT = timedelta(hours=24)
#: added at random on top of every wait, so that a stopped crowd does not come back at one instant
JITTER_SHARE = 0.25


class Service(StrEnum):
    """Whose table applies."""

    FCM = "FCM"
    MOZILLA = "Mozilla"
    APPLE = "Apple"
    WINDOWS = "Windows"
    OTHER = "the push service"


class Change(StrEnum):
    """How to alter a request before it is repeated at once."""

    SMALLER = "smaller"
    NO_TOPIC = "no topic"


@dataclass(frozen=True, slots=True)
class Again:
    """Repeat the request at once with one change."""

    change: Change


class Attempt(msgspec.Struct, frozen=True):
    """What the policy must know about the try itself."""

    #: when the answer came
    now: datetime
    #: 1 for the first try of the delivery
    number: int
    #: 0 ≤ jitter < 1, random
    jitter: float
    #: changes that were tried already
    tried: Set[Change] = frozenset()


def service_of(host: str) -> Service:
    """Return the service behind a host name."""
    if host == "fcm.googleapis.com":
        return Service.FCM
    if host == "updates.push.services.mozilla.com":
        return Service.MOZILLA
    if host.endswith(".push.apple.com"):
        return Service.APPLE
    if host.endswith(".notify.windows.com"):
        return Service.WINDOWS
    return Service.OTHER


def decide(host: str, answer: Answer, attempt: Attempt) -> Outcome | Again:
    """Return what an answer means for the delivery and its target."""
    service = service_of(host)
    status = answer.status
    if status == 413:
        if Change.SMALLER in attempt.tried:
            return Refused(f"{service} finds the message too large even when shortened", status)
        return Again(Change.SMALLER)
    if status in (408, 429) or status >= 500 or (status == 406 and service is Service.WINDOWS):
        return _wait(f"{service} answered {status}{_detail(answer)}", answer, attempt)
    match service:
        case Service.FCM:
            return _fcm(answer)
        case Service.MOZILLA:
            return _mozilla(answer)
        case Service.APPLE:
            return _apple(answer, attempt)
        case Service.WINDOWS:
            return _windows(answer, attempt)
        case Service.OTHER:
            return _common(service, answer)


def retry(why: str, attempt: Attempt, status: int | None = None) -> Deferred | Refused:
    """Return the outcome of a transient failure: wait 2, 4, 8 seconds plus jitter, then give up."""
    if attempt.number >= MAX_ATTEMPTS:
        return Refused(f"gave up after {attempt.number} attempts: {why}", status)
    wait = timedelta(seconds=WAITS[max(1, attempt.number) - 1])
    return Deferred(attempt.now + _jittered(wait, attempt), why, status)


def told_wait(value: str | None, now: datetime) -> timedelta | None:
    """Return the wait a `Retry-After` asks for, in seconds or as a date (RFC 9110 §10.2.3), within 2 s … 24 h.

    None if there is none or it cannot be read.
    """
    if value is None:
        return None
    text = value.strip()
    if re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", text):
        # so long a number would overflow a timedelta; it is clamped anyway
        seconds = min(float(text), MAX_TOLD_WAIT.total_seconds())
        return max(MIN_TOLD_WAIT, timedelta(seconds=max(0.0, seconds)))
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return min(MAX_TOLD_WAIT, max(MIN_TOLD_WAIT, at - now))


def _wait(why: str, answer: Answer, attempt: Attempt) -> Outcome:
    told = told_wait(answer.headers.get("retry-after"), attempt.now)
    if told is None:
        return retry(why, attempt, answer.status)
    # jitter only ever adds: never earlier than told
    return Deferred(attempt.now + _jittered(told, attempt), why, answer.status, spends_attempt=False)


def _jittered(wait: timedelta, attempt: Attempt) -> timedelta:
    return wait * (1 + JITTER_SHARE * attempt.jitter)


def _common(service: Service, answer: Answer) -> Outcome:
    """Answers that mean the same everywhere (RFC 8030 §5, §7.3)."""
    status = answer.status
    if 200 <= status < 300:
        return Delivered(f"accepted by {service}", status)
    if status in (404, 410):
        return Gone(f"{service} says the subscription has ended{_detail(answer)}", status)
    if 300 <= status < 400:
        return Refused(f"{service} redirected, which is never followed", status, alert=True)
    return Refused(f"{service} answered {status}{_detail(answer)}", status, alert=True)


def _rebind(service: Service, answer: Answer) -> Gone:
    return Gone(f"{service}: the subscription belongs to another VAPID key", answer.status, "rebind")


def _fcm(answer: Answer) -> Outcome:
    body = answer.body.lower()
    if answer.status == 403 and "not correspond" in body:
        return _rebind(Service.FCM, answer)
    if answer.status == 400 and "unauthorizedregistration" in body.replace(" ", "").replace("_", ""):
        return _rebind(Service.FCM, answer)
    return _common(Service.FCM, answer)


_MOZILLA_DEAD = {404: frozenset({102}), 410: frozenset({103, 105, 106})}


def _mozilla(answer: Answer) -> Outcome:
    errno = _json(answer).get("errno")
    if answer.status == 401 and errno == 109:
        return _rebind(Service.MOZILLA, answer)
    dead = _MOZILLA_DEAD.get(answer.status)
    # without any errno the status alone speaks (RFC 8030 §7.3); with a strange one, nothing is deleted
    if dead is not None and errno is not None and errno not in dead:
        why = f"Mozilla answered {answer.status} for another reason than a dead subscription{_detail(answer)}"
        return Refused(why, answer.status, alert=True)
    return _common(Service.MOZILLA, answer)


def _apple(answer: Answer, attempt: Attempt) -> Outcome | Again:
    reason = _json(answer).get("reason")
    if reason == "VapidPkHashMismatch":
        return _rebind(Service.APPLE, answer)
    if reason == "BadWebPushTopic" and Change.NO_TOPIC not in attempt.tried:
        return Again(Change.NO_TOPIC)
    return _common(Service.APPLE, answer)


def _windows(answer: Answer, attempt: Attempt) -> Outcome:
    if answer.status == 403:
        return _rebind(Service.WINDOWS, answer)
    if not 200 <= answer.status < 300:
        return _common(Service.WINDOWS, answer)
    match answer.headers.get("x-wns-status", "").lower():
        case "received":
            return _common(Service.WINDOWS, answer)
        case "channelthrottled":
            return _wait("Windows dropped the message: too many for this device", answer, attempt)
        case "dropped":
            return Refused("Windows dropped the message", answer.status)
        case _:
            return Refused("Windows did not say that it received the message", answer.status, alert=True)


def _json(answer: Answer) -> dict[str, object]:
    try:
        value = msgspec.json.decode(answer.body)
    except msgspec.DecodeError:
        return {}
    return value if isinstance(value, dict) else {}


#: URLs, and runs as long as tokens or keys: endpoints are capabilities and never reach a log
_SECRET_LIKE = re.compile(r"\w+://\S+|[A-Za-z0-9_\-+/=.]{25,}")


def _detail(answer: Answer) -> str:
    """Return a short, harmless excerpt of what the service said."""
    told = answer.headers.get("x-wns-error-description") or _json(answer).get("reason") or answer.body
    text = " ".join(_SECRET_LIKE.sub("…", str(told)[:500]).split())
    printable = "".join(letter for letter in text if letter.isprintable())[:120]
    return f": {printable}" if printable else ""
