"""Several providers of a channel: failover, the pace of each, taking out, probing, and recovery."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from tidings.channels.providers.failover import RECOVERY_PERIOD, Concern, ProviderResponse, SendContext
from tidings.channels.providers.provider_throttle import (
    PROBE_RECHECK_DELAY,
    PROVIDER_POLICY,
    ProviderPermit,
    ProviderThrottle,
)
from tidings.channels.providers.router import ProviderRouter
from tidings.channels.throttling.signals import Signal, SignalKind
from tidings.model.alert import AlertName
from tidings.model.outcome import Accepted, InvalidTarget, PermanentFailure, RetryLater, Uncertain
from tidings.model.priority import Priority
from tidings.model.provider import ProviderState
from tidings.observability.alerts import AlertRegistry
from tidings.ports.alerts import NoAlerts
from tidings.testing.clock import START, FrozenClock

EXPIRES_AT = START + timedelta(hours=1)
ACCEPTED = ProviderResponse(Accepted(), Concern.ACCEPTED, Signal(SignalKind.HEALTHY))
DOWN = ProviderResponse(
    RetryLater(START + timedelta(seconds=10), "no connection", counts_as_attempt=False),
    Concern.PROVIDER,
    Signal(SignalKind.TIMEOUT),
)
LOGIN_REFUSED = ProviderResponse(
    PermanentFailure("535 wrong password", 535, operator_alert=True), Concern.PROVIDER, Signal(SignalKind.REFUSED)
)
UNCERTAIN = ProviderResponse(Uncertain("it hung"), Concern.UNCERTAIN, Signal(SignalKind.TIMEOUT))
NO_RECIPIENT = ProviderResponse(InvalidTarget("unknown"), Concern.RECIPIENT, Signal(SignalKind.HEALTHY))


def throttled(seconds: float) -> ProviderResponse:
    wait = timedelta(seconds=seconds)
    retry = RetryLater(START + wait, "429", 429, counts_as_attempt=False)
    return ProviderResponse(retry, Concern.RATE, Signal(SignalKind.THROTTLED, wait))


class FakeProvider:
    """Answers as told, and keeps the delivery ids and deadlines of its messages."""

    def __init__(
        self, name: str, weight: int, answer: ProviderResponse = ACCEPTED, *, is_idempotent: bool = False
    ) -> None:
        self.name = name
        self.weight = weight
        self.is_idempotent = is_idempotent
        self.answer = answer
        #: given once, before `answer`
        self.first_answers: list[ProviderResponse] = []
        self.received: list[str] = []
        self.seconds_left: list[float] = []

    async def send(self, message: str, context: SendContext, deadline: float, /) -> ProviderResponse:
        self.received.append(context.delivery_id)
        self.seconds_left.append(deadline - asyncio.get_running_loop().time())
        return self.first_answers.pop(0) if self.first_answers else self.answer


class Providers:
    """A router with a frozen clock, whose waits advance it."""

    def __init__(self, *providers: FakeProvider, shares_excess: bool = False) -> None:
        self.clock = FrozenClock()
        self.alerts = AlertRegistry(self.clock)
        self.waits: list[float] = []
        self.router: ProviderRouter[str] = ProviderRouter(
            "sms",
            providers,
            self.clock,
            self.alerts,
            max_in_flight=64,
            shares_excess=shares_excess,
            jitter=lambda: 0.0,
            sleep=self.wait,
        )

    async def wait(self, seconds: float) -> None:
        self.waits.append(seconds)

    async def send(self, number: int = 0, *, duplicate_ok: bool = False) -> object:
        context = SendContext(f"delivery-{number}", 1, EXPIRES_AT, duplicate_ok)
        return await self.router.send("text", context)

    async def send_many(self, count: int) -> list[object]:
        return [await self.send(number) for number in range(count)]

    def states(self) -> list[ProviderState]:
        return [status.state for status in self.router.list_status()]

    def active_alerts(self) -> list[tuple[AlertName, str]]:
        return [(alert.name, alert.subject) for alert in self.alerts.list_active()]


@pytest.fixture
def pair() -> tuple[FakeProvider, FakeProvider]:
    return FakeProvider("first", 100), FakeProvider("second", 0)


Pair = tuple[FakeProvider, FakeProvider]


@pytest.mark.parametrize("answer", [DOWN, LOGIN_REFUSED])
async def test_c43_what_a_provider_did_not_take_goes_to_the_next(pair: Pair, answer: ProviderResponse) -> None:
    first, second = pair
    first.answer = answer
    assert isinstance(await Providers(*pair).send(), Accepted)
    assert second.received == ["delivery-0"]


async def test_c43_what_may_have_been_taken_stays_unless_a_duplicate_is_acceptable(pair: Pair) -> None:
    first, second = pair
    first.answer = UNCERTAIN
    providers = Providers(*pair)
    assert isinstance(await providers.send(), Uncertain)
    assert second.received == []
    assert isinstance(await providers.send(1, duplicate_ok=True), Accepted)
    assert second.received == ["delivery-1"]


async def test_c43_an_idempotent_provider_is_asked_again_with_the_same_key_and_no_other_is(pair: Pair) -> None:
    first, second = pair
    first.is_idempotent = True
    first.first_answers = [UNCERTAIN]
    assert isinstance(await Providers(*pair).send(), Accepted)
    assert (first.received, second.received) == (["delivery-0"] * 2, [])
    first.answer = UNCERTAIN
    assert isinstance(await Providers(*pair).send(), Uncertain)
    assert second.received == []


async def test_c44_a_refusal_about_the_recipient_is_final(pair: Pair) -> None:
    first, second = pair
    first.answer = NO_RECIPIENT
    assert isinstance(await Providers(*pair).send(duplicate_ok=True), InvalidTarget)
    assert second.received == []


async def test_c45_every_attempt_of_a_delivery_begins_with_the_same_provider() -> None:
    first, second = FakeProvider("first", 50), FakeProvider("second", 50)
    providers = Providers(first, second)
    for _ in range(5):
        await providers.send_many(40)
    assert not set(first.received) & set(second.received)
    assert len(set(first.received) | set(second.received)) == 40
    assert min(len(first.received), len(second.received)) > 0


async def test_c46_each_provider_has_a_budget_and_the_message_ends_with_its_expiry(pair: Pair) -> None:
    first, second = pair
    first.answer = DOWN
    providers = Providers(*pair)
    await providers.send()
    assert first.seconds_left == [pytest.approx(15, abs=0.5)]
    assert second.seconds_left == [pytest.approx(18, abs=0.5)]
    providers.clock.advance(3590)
    first.answer = ACCEPTED
    await providers.send()
    assert first.seconds_left[1] == pytest.approx(7, abs=0.5)
    providers.clock.advance(10)
    assert await providers.send() == PermanentFailure("expired before it was sent", is_expired=True)
    assert len(first.received) == 2


async def test_c47_a_provider_is_taken_out_probed_with_one_message_and_returns_gradually(pair: Pair) -> None:
    first, second = pair
    first.answer = DOWN
    providers = Providers(*pair)
    with capture_logs() as logs:
        assert all(isinstance(outcome, Accepted) for outcome in await providers.send_many(50))
        assert (len(first.received), len(second.received)) == (PROVIDER_POLICY.failure_threshold, 50)
        assert providers.states() == [ProviderState.OUT, ProviderState.STANDBY]
        assert providers.active_alerts() == [(AlertName.PROVIDER_OUT, "sms first")]
        providers.clock.advance(5)
        first.answer = ACCEPTED
        await providers.send()
        assert providers.states() == [ProviderState.RECOVERING, ProviderState.STANDBY]
        assert providers.active_alerts() == []
    events = [entry["event"] for entry in logs if entry["event"].startswith("provider_")]
    assert events == ["provider_taken_out", "provider_returned"]
    received = []
    for _ in range(4):
        first.received.clear()
        await providers.send_many(400)
        received.append(len(first.received))
        providers.clock.advance(RECOVERY_PERIOD.total_seconds() / 3)
    assert received[0] == pytest.approx(40, abs=20)
    assert received == sorted(set(received))
    assert received[-1] == 400


async def test_c47_while_a_provider_is_probed_it_receives_no_other_message(pair: Pair) -> None:
    first, second = pair
    first.answer = DOWN
    providers = Providers(*pair)
    await providers.send_many(10)
    providers.clock.advance(5)
    asked = asyncio.Event()
    answer = asyncio.Event()

    async def hang(message: str, context: SendContext, deadline: float, /) -> ProviderResponse:
        asked.set()
        await answer.wait()
        return ACCEPTED

    first.send = hang  # type: ignore[method-assign]
    probe = asyncio.create_task(providers.send(0))
    await asked.wait()
    before = len(second.received)
    assert all(isinstance(outcome, Accepted) for outcome in await providers.send_many(5))
    assert len(second.received) == before + 5
    answer.set()
    assert isinstance(await probe, Accepted)


def test_messages_return_soon_after_a_probe_and_not_only_when_it_is_abandoned() -> None:
    clock = FrozenClock()
    throttle = ProviderThrottle("sms", "first", 100, clock, NoAlerts(), lambda: 0.0)
    for _ in range(PROVIDER_POLICY.failure_threshold):
        permit = throttle.try_acquire()
        assert isinstance(permit, ProviderPermit)
        throttle.complete(permit, Signal(SignalKind.TIMEOUT), "no connection")
    clock.advance(5)
    assert isinstance(throttle.try_acquire(), ProviderPermit), "the probe"
    hold_off = throttle.find_hold_off()
    assert hold_off is not None
    assert (hold_off.why, hold_off.retry_at - clock.now()) == ("first is being probed", PROBE_RECHECK_DELAY)


async def test_a_cancelled_probe_is_followed_by_another(pair: Pair) -> None:
    first, _ = pair
    first.answer = DOWN
    providers = Providers(*pair)
    await providers.send_many(10)
    providers.clock.advance(5)

    async def cancel(message: str, context: SendContext, deadline: float, /) -> ProviderResponse:
        raise asyncio.CancelledError

    original: Callable[..., object] = first.send
    first.send = cancel  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await providers.send()
    first.send = original  # type: ignore[method-assign, assignment]
    first.answer = ACCEPTED
    before = len(first.received)
    await providers.send()
    assert len(first.received) == before + 1


async def test_c58_a_throttled_provider_slows_down_and_its_messages_wait_without_an_attempt(pair: Pair) -> None:
    first, second = pair
    first.first_answers = [throttled(30)]
    providers = Providers(*pair)
    outcomes = await providers.send_many(20)
    assert (len(first.received), len(second.received)) == (1, 0)
    retries = [outcome for outcome in outcomes if isinstance(outcome, RetryLater) and not outcome.counts_as_attempt]
    assert len({retry.until for retry in retries}) == 20
    assert min(retry.until for retry in retries) >= START + timedelta(seconds=30)
    assert providers.states()[0] is ProviderState.THROTTLED
    assert providers.active_alerts() == []
    providers.clock.advance(30)
    assert isinstance(await providers.send(), Accepted)


async def test_c58_a_channel_that_shares_the_excess_sends_it_over_the_next_provider(pair: Pair) -> None:
    first, second = pair
    first.first_answers = [throttled(30)]
    outcomes = await Providers(*pair, shares_excess=True).send_many(20)
    assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    assert (len(first.received), len(second.received)) == (1, 20)


async def test_messages_that_no_provider_takes_return_in_slots_of_their_own(pair: Pair) -> None:
    first, second = pair
    first.answer = second.answer = DOWN
    providers = Providers(*pair)
    outcomes = await providers.send_many(30)
    assert providers.router.is_closed(is_full=False)
    retries = [outcome for outcome in outcomes if isinstance(outcome, RetryLater)]
    assert len({retry.until for retry in retries}) == 30
    assert not any(retry.counts_as_attempt for retry in retries)
    waiting = providers.router.defer(Priority.NORMAL, EXPIRES_AT)
    assert waiting.why == "first is taken out after failures; second is taken out after failures"


async def test_a_refused_login_is_an_alert_until_a_message_is_taken(pair: Pair) -> None:
    first, _ = pair
    first.answer = LOGIN_REFUSED
    providers = Providers(*pair)
    await providers.send()
    assert (AlertName.PROVIDER_REFUSED, "sms first") in providers.active_alerts()
    first.answer = ACCEPTED
    providers.clock.advance(5)
    await providers.send()
    assert providers.active_alerts() == []


async def test_the_status_counts_requests_and_errors(pair: Pair) -> None:
    first, _ = pair
    providers = Providers(*pair)
    await providers.send_many(8)
    first.answer = DOWN
    await providers.send()
    status = providers.router.list_status()[0]
    assert (status.channel, status.name, status.weight, status.circuit) == ("sms", "first", 100, "closed")
    assert (status.requests, status.errors, status.rate, status.rate_limit) == (9, 1, 9.0, None)
    providers.clock.advance(61)
    status = providers.router.list_status()[0]
    assert (status.requests, status.errors, status.requests_total, status.errors_total) == (0, 0, 9, 1)
