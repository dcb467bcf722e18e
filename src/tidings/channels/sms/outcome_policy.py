"""Rules that turn what a provider did into an outcome, and that say what its answer is about. Pure.

`providers/failover.py` decides from that whether another provider is asked.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from tidings.channels.http.exchange import HttpResponse, NoResponse, NotSent
from tidings.channels.http.retry_policy import RetryPolicy, parse_retry_after
from tidings.channels.providers.failover import Concern, ProviderResponse
from tidings.channels.sms.provider import AcceptedMessage, RefusedMessage, SmsProvider, UncertainResponse
from tidings.channels.sms.provider import Concern as SmsConcern
from tidings.channels.throttling.signals import Signal, SignalKind
from tidings.model.outcome import Accepted, InvalidTarget, Outcome, PermanentFailure, RetryLater, Uncertain

DEFAULT_RETRY_POLICY = RetryPolicy((timedelta(seconds=5), timedelta(seconds=30), timedelta(minutes=2)))
#: until a provider that could not be reached is asked again; nothing was sent, so this spends no attempt
UNREACHABLE_DELAY = timedelta(seconds=30)
#: the wait after 429 without `Retry-After`
DEFAULT_RATE_WAIT = timedelta(seconds=5)

_HEALTHY = Signal(SignalKind.HEALTHY)


@dataclass(frozen=True, slots=True)
class AttemptContext:
    """The properties of an attempt that the rules depend on."""

    #: when the response arrived
    now: datetime
    #: 1 for the first attempt of the delivery
    number: int
    #: 0 ≤ jitter < 1, random
    jitter: float


def decide_outcome(
    provider: SmsProvider, exchange: HttpResponse | NotSent | NoResponse, attempt: AttemptContext, policy: RetryPolicy
) -> ProviderResponse:
    """Return the outcome of an attempt with one provider, and what it is about."""
    match exchange:
        case NotSent(why=why):
            until = attempt.now + UNREACHABLE_DELAY * (1 + policy.jitter_share * attempt.jitter)
            retry = RetryLater(until, why, counts_as_attempt=False)
            return ProviderResponse(retry, Concern.PROVIDER, Signal(SignalKind.TIMEOUT))
        case NoResponse(why=why):
            return _build_uncertain(provider, why, None)
        case HttpResponse():
            return _decide_response(provider, exchange, attempt, policy)


def _decide_response(
    provider: SmsProvider, response: HttpResponse, attempt: AttemptContext, policy: RetryPolicy
) -> ProviderResponse:
    match provider.read_response(response):
        case AcceptedMessage(message_id=message_id, status=status, parts=parts):
            accepted = Accepted(f"accepted by {provider.name}", status, provider.name, message_id, parts)
            return ProviderResponse(accepted, Concern.ACCEPTED, _HEALTHY)
        case UncertainResponse(why=why, status=status):
            return _build_uncertain(provider, why, status)
        case RefusedMessage() as refused:
            return _decide_refusal(provider.sender, refused, response, attempt, policy)


def _decide_refusal(
    sender: str, refused: RefusedMessage, response: HttpResponse, attempt: AttemptContext, policy: RetryPolicy
) -> ProviderResponse:
    why, status = refused.why, refused.status
    match refused.concern:
        case SmsConcern.OPT_OUT:
            outcome: Outcome = InvalidTarget("the number opted out of messages", status, "suppress", sender=sender)
            return ProviderResponse(outcome, Concern.RECIPIENT, _HEALTHY)
        case SmsConcern.NUMBER:
            return ProviderResponse(InvalidTarget(why, status), Concern.RECIPIENT, _HEALTHY)
        case SmsConcern.MESSAGE:
            return ProviderResponse(PermanentFailure(why, status), Concern.RECIPIENT, _HEALTHY)
        case SmsConcern.PROVIDER:
            # some refusals concern one route only, so they are counted; refused credentials concern every message
            kind = SignalKind.REFUSED if status in (401, 403) else SignalKind.SERVER_ERROR
            return ProviderResponse(PermanentFailure(why, status, operator_alert=True), Concern.PROVIDER, Signal(kind))
        case SmsConcern.TEMPORARY:
            outcome = policy.retry_or_give_up(why, attempt.number, attempt.now, attempt.jitter, status)
            return ProviderResponse(outcome, Concern.PROVIDER, Signal(SignalKind.SERVER_ERROR))
        case SmsConcern.RATE:
            wait = parse_retry_after(response.headers.get("retry-after"), attempt.now) or DEFAULT_RATE_WAIT
            # jitter is only added: a retry must not come before the requested time
            until = attempt.now + wait * (1 + policy.jitter_share * attempt.jitter)
            retry = RetryLater(until, why, status, counts_as_attempt=False)
            return ProviderResponse(retry, Concern.RATE, Signal(SignalKind.THROTTLED, wait))


def _build_uncertain(provider: SmsProvider, why: str, status: int | None) -> ProviderResponse:
    uncertain = Uncertain(f"{why}; {provider.name} may have sent the message", status, provider.name)
    return ProviderResponse(uncertain, Concern.UNCERTAIN, Signal(SignalKind.TIMEOUT))
