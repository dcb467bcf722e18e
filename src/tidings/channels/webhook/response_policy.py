"""Rules that turn the response of a webhook endpoint into an outcome (Standard Webhooks 1.0). Pure.

2xx is the only success. 410 ends the endpoint. 429, 502 and 504 slow the deliveries to the endpoint down. Everything
else, also a redirect, is a failure that is retried: the endpoint identifies repeats by the message id.
"""

from datetime import datetime, timedelta
from urllib.parse import urlsplit

from tidings.channels.http.exchange import Exchange, HttpResponse
from tidings.channels.http.retry_policy import RetryPolicy, parse_retry_after
from tidings.channels.http.ssrf_guard import is_local_host
from tidings.model.outcome import Accepted, InvalidTarget, PermanentFailure, RetryLater

#: attempts at once, and 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h and 24 h after the first
DEFAULT_RETRY_POLICY = RetryPolicy(
    (
        timedelta(seconds=5),
        timedelta(minutes=4, seconds=55),
        timedelta(minutes=25),
        timedelta(hours=1, minutes=30),
        timedelta(hours=3),
        timedelta(hours=5),
        timedelta(hours=4),
        timedelta(hours=6),
        timedelta(hours=4),
    ),
    jitter_share=0.1,
)
#: an endpoint that only fails for so long is disabled
DISABLE_AFTER = timedelta(days=5)
#: statuses that ask for fewer requests
SLOW_DOWN = frozenset({429, 502, 504})
#: the wait after such a status without `Retry-After`
DEFAULT_SLOW_DOWN = timedelta(minutes=1)

WebhookOutcome = Accepted | RetryLater | PermanentFailure | InvalidTarget


def decide_outcome(
    exchange: Exchange, message_id: str, attempt: int, now: datetime, jitter: float, policy: RetryPolicy
) -> WebhookOutcome:
    """Return the outcome of an attempt. attempt: 1 = first; jitter: random, 0 ≤ jitter < 1."""
    if not isinstance(exchange, HttpResponse):
        return policy.retry_or_give_up(exchange.why, attempt, now, jitter)
    status = exchange.status
    if 200 <= status < 300:
        return Accepted("accepted by the endpoint", status, provider="webhook", message_id=message_id)
    if status == 410:
        return InvalidTarget("the endpoint answered 410: it wants no more messages", status, action="disable")
    why = f"the endpoint answered {status}"
    if 300 <= status < 400:
        why += f", a redirect{_describe_location(exchange.headers.get('location'))}, which is not followed"
    outcome = policy.retry_or_give_up(why, attempt, now, jitter, status)
    if (wait := find_slow_down(exchange, now)) is not None and isinstance(outcome, RetryLater):
        # jitter is only added: a retry must not come before the requested time
        earliest = now + wait * (1 + policy.jitter_share * jitter)
        return RetryLater(max(outcome.until, earliest), why, status)
    return outcome


def _describe_location(location: str | None) -> str:
    """Return where a redirect leads, without its path and query, which may contain secrets."""
    try:
        host = urlsplit(location or "").hostname
    except ValueError:
        host = None
    if host is None:
        return ""
    return f" to {host}, which is not a public address" if is_local_host(host) else f" to {host}"


def find_slow_down(exchange: Exchange, now: datetime) -> timedelta | None:
    """Return how long the endpoint is to receive nothing, None if it did not ask for that."""
    if not isinstance(exchange, HttpResponse) or 200 <= exchange.status < 300:
        return None
    requested = parse_retry_after(exchange.headers.get("retry-after"), now)
    if exchange.status in SLOW_DOWN:
        return requested or DEFAULT_SLOW_DOWN
    return requested if exchange.status == 503 else None
