"""Rules that turn a push service's response into an outcome, per service (autopush, Apple, Microsoft, FCM documents).

Possible outcomes: the message was accepted; the target is deleted; the target is rebound (the browser must subscribe
again); the message is retried with jitter; it failed permanently, with an operator alert if the cause is on our side.
A target is deleted only for responses that say so, never for other 4xx responses, 429 or network errors. It is rebound
only if the text says that it belongs to another VAPID key. A response about this server's token never concerns the
target: the request is repeated with a fresh token, then retried without spending an attempt.
"""

import re
from collections.abc import Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum

import msgspec

from tidings.channels.webpush.push_exchange import PushResponse
from tidings.model.outcome import MAX_ATTEMPTS, Accepted, InvalidTarget, Outcome, PermanentFailure, RetryLater

#: seconds before the 2nd, 3rd and 4th attempt
RETRY_DELAYS = (2, 4, 8)
#: bounds for the wait that a push service requests with `Retry-After`
MIN_RETRY_AFTER = timedelta(seconds=2)
MAX_RETRY_AFTER = timedelta(hours=24)
#: maximum random addition to a wait, so that deferred deliveries do not all return at once
JITTER_SHARE = 0.25


class PushServiceKind(StrEnum):
    """The push service, which decides the rules that apply."""

    FCM = "FCM"
    MOZILLA = "Mozilla"
    APPLE = "Apple"
    WINDOWS = "Windows"
    OTHER = "the push service"


class Modification(StrEnum):
    """How to modify a request before it is repeated immediately."""

    SMALLER = "smaller"
    NO_TOPIC = "no topic"
    FRESH_TOKEN = "fresh token"  # noqa: S105  # not a password


@dataclass(frozen=True, slots=True)
class RetryModified:
    """Repeat the request immediately with one modification."""

    modification: Modification


class AttemptContext(msgspec.Struct, frozen=True):
    """The properties of an attempt that the rules depend on."""

    #: when the response arrived
    now: datetime
    #: 1 for the first attempt of the delivery
    number: int
    #: 0 ≤ jitter < 1, random
    jitter: float
    #: modifications that were tried already
    tried_modifications: Set[Modification] = frozenset()


def identify_service(host: str) -> PushServiceKind:
    """Return the push service of a host name."""
    if host == "fcm.googleapis.com":
        return PushServiceKind.FCM
    if host == "updates.push.services.mozilla.com":
        return PushServiceKind.MOZILLA
    if host.endswith(".push.apple.com"):
        return PushServiceKind.APPLE
    if host.endswith(".notify.windows.com"):
        return PushServiceKind.WINDOWS
    return PushServiceKind.OTHER


def decide_outcome(host: str, response: PushResponse, attempt: AttemptContext) -> Outcome | RetryModified:
    """Return the outcome of a response, or the modification to try next."""
    service = identify_service(host)
    status = response.status
    if status == 413:
        return RetryModified(Modification.SMALLER)
    if is_token_refused(response):
        if Modification.FRESH_TOKEN not in attempt.tried_modifications:
            return RetryModified(Modification.FRESH_TOKEN)
        why = f"{service} refuses this server's token ({status}{_redacted_detail(response)})"
        wait = _add_jitter(timedelta(seconds=RETRY_DELAYS[0]), attempt)
        return RetryLater(attempt.now + wait, why, status, counts_as_attempt=False)
    if _is_bound_to_another_key(response):
        return _rebind(service, response)
    if status in (408, 429) or status >= 500 or (status == 406 and service is PushServiceKind.WINDOWS):
        return _defer(f"{service} answered {status}{_redacted_detail(response)}", response, attempt)
    match service:
        case PushServiceKind.MOZILLA:
            return _decide_mozilla(response)
        case PushServiceKind.APPLE:
            return _decide_apple(response, attempt)
        case PushServiceKind.WINDOWS:
            return _decide_windows(response, attempt)
        case PushServiceKind.FCM | PushServiceKind.OTHER:
            return _decide_common(service, response)


def is_token_refused(response: PushResponse) -> bool:
    """Return whether a response is about this server's VAPID token, and so says nothing about the device.

    That is each 401 (RFC 8292 §4.2), and each 400 or 403 whose text speaks of the token, its claims or its signature.
    A text that says that the subscription belongs to another key is about the device.
    """
    if response.status not in (400, 401, 403) or _is_bound_to_another_key(response):
        return False
    if response.status == 401 or _parse_json_body(response).get("errno") == _MOZILLA_TOKEN_ERRNO:
        return True
    pattern = _SPEAKS_OF_TOKEN if response.status == 403 else _NAMES_TOKEN
    return pattern.search(_error_text(response)) is not None


#: autopush: "Invalid authentication"
_MOZILLA_TOKEN_ERRNO = 109
_NAMES_TOKEN = re.compile(r"jwt|vapid")
_SPEAKS_OF_TOKEN = re.compile(
    r"jwt|vapid|bearer|\btokens?\b|\bclaims?\b|\baud\b|\baudience|\bexp\b|\bexpir|\bclock|\bsignature|\bsub\b"
    r"|authori[sz]ation ?header|authenticat|credential|provider ?token|public ?key"
)
#: "VAPID public key mismatch" (autopush), "do not correspond to the credentials" (FCM), VapidPkHashMismatch (Apple)
_SAYS_ANOTHER_KEY = re.compile(
    r"(key|pk|hash|credentials?|sender|sender ?id)\W*mismatch"
    r"|mismatch(ed|ing)?\W*(vapid\W*)?(public\W*)?(key|sender|credential)"
    r"|not correspond|unauthorized ?registration"
    r"|(another|different|other|wrong) ((vapid|public|application|server) )*(key|sender|credential)"
    r"|key[^.]{0,60}(does not|do not|doesn't|don't|did not) match"
)
_ABOUT_CLAIMS = re.compile(r"\baud\b|\baudience|\bexp\b|\bexpir|\bclaim")


def _is_bound_to_another_key(response: PushResponse) -> bool:
    """Return whether the text says that the subscription was created with another VAPID key than ours."""
    if response.status not in (400, 401, 403):
        return False
    text = _error_text(response)
    return _SAYS_ANOTHER_KEY.search(text) is not None and _ABOUT_CLAIMS.search(text) is None


def _error_text(response: PushResponse) -> str:
    """Return everything that a response says about its error, in lower case."""
    headers = (response.headers.get("x-wns-error-description", ""), response.headers.get("www-authenticate", ""))
    text = " ".join((response.body, *headers)).lower().replace("_", " ")
    # these tokens are names of a device
    return re.sub(r"(registration|device) ?tokens?", "", text)


def retry_or_give_up(why: str, attempt: AttemptContext, status: int | None = None) -> RetryLater | PermanentFailure:
    """Return the outcome of a transient failure: retry after 2, 4 and 8 seconds plus jitter, then fail permanently."""
    if attempt.number >= MAX_ATTEMPTS:
        return PermanentFailure(f"gave up after {attempt.number} attempts: {why}", status)
    wait = timedelta(seconds=RETRY_DELAYS[max(1, attempt.number) - 1])
    return RetryLater(attempt.now + _add_jitter(wait, attempt), why, status)


def retry_unprocessed(why: str, attempt: AttemptContext) -> RetryLater:
    """Return the outcome of a request that the push service certainly did not process: a retry that costs nothing."""
    wait = timedelta(seconds=RETRY_DELAYS[0])
    return RetryLater(attempt.now + _add_jitter(wait, attempt), why, counts_as_attempt=False)


def parse_retry_after(value: str | None, now: datetime) -> timedelta | None:
    """Return the wait that a `Retry-After` header requests, limited to 2 s … 24 h.

    The header has seconds or a date (RFC 9110 §10.2.3). Returns None if it is missing or malformed.
    """
    if value is None:
        return None
    text = value.strip()
    if re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", text):
        # a very long number would overflow timedelta
        seconds = min(float(text), MAX_RETRY_AFTER.total_seconds())
        return max(MIN_RETRY_AFTER, timedelta(seconds=max(0.0, seconds)))
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return min(MAX_RETRY_AFTER, max(MIN_RETRY_AFTER, at - now))


def _defer(why: str, response: PushResponse, attempt: AttemptContext) -> Outcome:
    wait = parse_retry_after(response.headers.get("retry-after"), attempt.now)
    if wait is None:
        return retry_or_give_up(why, attempt, response.status)
    # jitter is only added: a retry must not come before the requested time
    return RetryLater(attempt.now + _add_jitter(wait, attempt), why, response.status, counts_as_attempt=False)


def _add_jitter(wait: timedelta, attempt: AttemptContext) -> timedelta:
    return wait * (1 + JITTER_SHARE * attempt.jitter)


def _decide_common(service: PushServiceKind, response: PushResponse) -> Outcome:
    """Apply the rules that are the same for all services (RFC 8030 §5, §7.3)."""
    status = response.status
    if 200 <= status < 300:
        return Accepted(f"accepted by {service}", status)
    if status in (404, 410):
        return InvalidTarget(f"{service} says the subscription has ended{_redacted_detail(response)}", status)
    if 300 <= status < 400:
        return PermanentFailure(f"{service} sent a redirect, which is not followed", status, operator_alert=True)
    # the cause is unknown, and may lie in the device
    why = f"{service} answered {status}{_redacted_detail(response)}"
    return PermanentFailure(why, status, operator_alert=True, is_target_suspect=True)


def _rebind(service: PushServiceKind, response: PushResponse) -> InvalidTarget:
    return InvalidTarget(f"{service}: the subscription belongs to another VAPID key", response.status, "rebind")


_MOZILLA_GONE_ERRNOS = {404: frozenset({102}), 410: frozenset({103, 105, 106})}


def _decide_mozilla(response: PushResponse) -> Outcome:
    errno = _parse_json_body(response).get("errno")
    gone_errnos = _MOZILLA_GONE_ERRNOS.get(response.status)
    # without an errno the status alone decides (RFC 8030 §7.3); with an unknown errno, the target is kept
    if gone_errnos is not None and errno is not None and errno not in gone_errnos:
        detail = _redacted_detail(response)
        why = f"Mozilla answered {response.status}, but not because the subscription ended{detail}"
        return PermanentFailure(why, response.status, operator_alert=True, is_target_suspect=True)
    return _decide_common(PushServiceKind.MOZILLA, response)


#: errors in what this server sent, which say nothing about the device
_APPLE_HEADER_REASONS = frozenset({"BadTtl", "BadUrgency", "BadWebPushTopic", "BadPath", "MethodNotAllowed"})


def _decide_apple(response: PushResponse, attempt: AttemptContext) -> Outcome | RetryModified:
    reason = _parse_json_body(response).get("reason")
    if reason == "BadWebPushTopic" and Modification.NO_TOPIC not in attempt.tried_modifications:
        return RetryModified(Modification.NO_TOPIC)
    if reason in _APPLE_HEADER_REASONS:
        why = f"Apple rejects a header of this server: {reason}"
        return PermanentFailure(why, response.status, operator_alert=True)
    return _decide_common(PushServiceKind.APPLE, response)


def _decide_windows(response: PushResponse, attempt: AttemptContext) -> Outcome:
    if not 200 <= response.status < 300:
        return _decide_common(PushServiceKind.WINDOWS, response)
    match response.headers.get("x-wns-status", "").lower():
        case "received":
            return _decide_common(PushServiceKind.WINDOWS, response)
        case "channelthrottled":
            return _defer("Windows dropped the message: the device is throttled", response, attempt)
        case "dropped":
            return PermanentFailure("Windows dropped the message", response.status)
        case _:
            return PermanentFailure(
                "Windows did not confirm that it received the message", response.status, operator_alert=True
            )


def _parse_json_body(response: PushResponse) -> dict[str, object]:
    try:
        value = msgspec.json.decode(response.body)
    except msgspec.DecodeError:
        return {}
    return value if isinstance(value, dict) else {}


#: URLs, and strings as long as tokens or keys: endpoints are capabilities and must not be logged
_SECRET_LIKE = re.compile(r"\w+://\S+|[A-Za-z0-9_\-+/=.]{25,}")


def _redacted_detail(response: PushResponse) -> str:
    """Return a short excerpt of the error text in a response, without anything that may be a secret."""
    detail = (
        response.headers.get("x-wns-error-description") or _parse_json_body(response).get("reason") or response.body
    )
    text = " ".join(_SECRET_LIKE.sub("…", str(detail)[:500]).split())
    printable = "".join(char for char in text if char.isprintable())[:120]
    return f": {printable}" if printable else ""
