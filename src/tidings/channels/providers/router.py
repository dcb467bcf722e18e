"""Sends a message over the first provider that takes it: providers in order and by weight, each with its throttle."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Generic, Protocol, TypeVar

from tidings.channels.providers.failover import (
    MIN_PROVIDER_TIME,
    SEND_BUDGET,
    Concern,
    ProviderResponse,
    SendContext,
    can_fail_over,
    limit_provider_time,
    order_providers,
    select_outcome,
)
from tidings.channels.providers.provider_throttle import ProviderPermit, ProviderThrottle, Unavailable
from tidings.channels.throttling.retry_schedule import HoldOff, before_expiry, next_retry_slot
from tidings.channels.throttling.signals import SignalKind
from tidings.model.alert import AlertName
from tidings.model.outcome import Outcome, PermanentFailure, RetryLater
from tidings.model.priority import Priority
from tidings.model.provider import ProviderStatus
from tidings.ports.alerts import AlertSink, NoAlerts
from tidings.ports.clock import Clock

#: deferred messages that return per second, so that a broadcast does not return at one instant
RETRIES_PER_SECOND = 200.0
#: share of a process's send slots that the providers of a channel may use at most
MAX_SHARE = 0.75
#: how long an alert about a refused login, sender or account is kept after its last observation
ALERT_LASTS = timedelta(days=1)

_Message = TypeVar("_Message")
_MessageIn = TypeVar("_MessageIn", contravariant=True)


class Provider(Protocol[_MessageIn]):
    """One account or server that takes messages."""

    @property
    def name(self) -> str:
        """The name in outcomes, logs and metrics; unique within the channel, without a secret."""
        ...

    @property
    def weight(self) -> int:
        """Its share of the messages, relative to the other providers; 0 = it is asked only after them."""
        ...

    @property
    def is_idempotent(self) -> bool:
        """Whether it takes a message once, however often it is sent with the same key (`build_request_key`)."""
        ...

    async def send(self, message: _MessageIn, context: SendContext, deadline: float, /) -> ProviderResponse:
        """Send a message once, until `deadline` in event loop time. Expected failures are answers."""
        ...


class ProviderRouter(Generic[_Message]):
    """The providers of one channel, a `ports.channel.Destination`. Not shared between event loops."""

    def __init__(
        self,
        channel: str,
        providers: Sequence[Provider[_Message]],
        clock: Clock,
        alerts: AlertSink | None = None,
        *,
        max_in_flight: int,
        shares_excess: bool = False,
        jitter: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`providers` in the order in which they are asked. `max_in_flight`: concurrent sends over all of them.

        `shares_excess`: what a provider takes only later goes to the others at once. `jitter` returns a random number,
        0 ≤ n < 1. `sleep` waits for a number of seconds.
        """
        self.name = channel
        self._providers = tuple(providers)
        self._clock = clock
        self._alerts = alerts or NoAlerts()
        self._max_in_flight = max_in_flight
        self._shares_excess = shares_excess
        self._jitter = jitter
        self._sleep = sleep
        #: priority → the last slot of a deferred message
        self._retry_slots: dict[Priority, datetime] = {}
        self._throttles = [
            ProviderThrottle(channel, provider.name, provider.weight, clock, self._alerts, jitter)
            for provider in providers
        ]

    def list_status(self) -> Sequence[ProviderStatus]:
        """Return the state of each provider, in the configured order."""
        return [throttle.describe() for throttle in self._throttles]

    def open_circuits(self) -> Mapping[str, bool]:
        """Return per provider whether it is taken out now."""
        return {throttle.name: throttle.is_out for throttle in self._throttles}

    def share(self, slots: int) -> int:
        """Return the concurrent sends, so that hanging providers leave slots to other channels."""
        return max(1, min(self._max_in_flight, int(slots * MAX_SHARE)))

    def is_closed(self, *, is_full: bool) -> bool:  # noqa: ARG002  # all slots in use means that providers work
        """Return whether no provider receives a message now."""
        return all(throttle.find_hold_off() is not None for throttle in self._throttles)

    def defer(self, priority: Priority, expires_at: datetime) -> RetryLater:
        """Return when a message is tried again that no provider may receive now. It spends no attempt."""
        now = self._clock.now()
        hold_offs = [hold_off for throttle in self._throttles if (hold_off := throttle.find_hold_off()) is not None]
        if not hold_offs or len(hold_offs) < len(self._throttles):
            return self._defer_until(HoldOff("no provider was available until just now", now), priority, expires_at)
        first = min(hold_offs, key=lambda one: one.retry_at)
        why = "; ".join(one.why for one in hold_offs)
        rate = RETRIES_PER_SECOND if first.rate_limit is None else first.rate_limit
        return self._defer_until(HoldOff(why, first.retry_at, not first.is_out, rate), priority, expires_at)

    async def send(self, message: _Message, context: SendContext, priority: Priority = Priority.NORMAL) -> Outcome:
        """Send one message. A failure of the providers themselves spends no attempt."""
        loop = asyncio.get_running_loop()
        left = (context.expires_at - self._clock.now()).total_seconds()
        if left <= 0:
            return PermanentFailure("expired before it was sent", is_expired=True)
        deadline = loop.time() + min(SEND_BUDGET, left)
        order = self._order(context.delivery_id)
        outcomes: list[Outcome] = []
        is_asked = False
        for position, index in enumerate(order):
            if is_asked and loop.time() > deadline - MIN_PROVIDER_TIME:
                break
            permit = self._throttles[index].try_acquire()
            if isinstance(permit, Unavailable):
                outcomes.append(RetryLater(permit.retry_at, permit.why, counts_as_attempt=False))
                if permit.is_out or self._shares_excess or permit.retry_at >= context.expires_at:
                    continue
                # it works, so its messages wait for their turn
                break
            has_next = any(self._throttles[other].find_hold_off() is None for other in order[position + 1 :])
            answer = await self._ask(index, permit, message, context, limit_provider_time(deadline, has_next=has_next))
            is_asked = True
            outcomes.append(answer.outcome)
            if not can_fail_over(answer, context, shares_excess=self._shares_excess):
                outcome = select_outcome(outcomes, is_final=True)
                return self._spread(outcome, priority, context, is_requested=answer.concern is Concern.RATE)
        if not is_asked:
            return self.defer(priority, context.expires_at)
        return self._spread(select_outcome(outcomes, is_final=False), priority, context)

    def _order(self, delivery_id: str) -> Sequence[int]:
        weights = [throttle.weight for throttle in self._throttles]
        return order_providers(weights, [throttle.share for throttle in self._throttles], delivery_id)

    async def _ask(
        self, index: int, permit: ProviderPermit, message: _Message, context: SendContext, deadline: float
    ) -> ProviderResponse:
        throttle, provider = self._throttles[index], self._providers[index]
        try:
            if (wait := (permit.starts_at - self._clock.now()).total_seconds()) > 0:
                await self._sleep(wait)
            answer = await provider.send(message, context, deadline)
            has_time = asyncio.get_running_loop().time() < deadline - MIN_PROVIDER_TIME
            if answer.concern is Concern.UNCERTAIN and provider.is_idempotent and has_time:
                # with the same key: it takes the message once
                answer = await provider.send(message, context, deadline)
        except BaseException:
            throttle.abandon(permit)
            raise
        if answer.signal is None:
            throttle.abandon(permit)
        else:
            throttle.complete(permit, answer.signal, answer.outcome.why)
        self._report_refusal(provider.name, answer)
        return answer

    def _report_refusal(self, provider: str, answer: ProviderResponse) -> None:
        subject = f"{self.name} {provider}"
        if answer.concern is Concern.ACCEPTED:
            self._alerts.resolve_alert(AlertName.PROVIDER_REFUSED, subject)
        elif answer.signal is not None and answer.signal.kind is SignalKind.REFUSED:
            self._alerts.raise_alert(AlertName.PROVIDER_REFUSED, subject, answer.outcome.why, lasts=ALERT_LASTS)

    def _spread(
        self, outcome: Outcome, priority: Priority, context: SendContext, *, is_requested: bool = False
    ) -> Outcome:
        """Return the outcome, or a retry in a slot of its own: messages must not all return at one instant."""
        if not isinstance(outcome, RetryLater) or outcome.counts_as_attempt:
            return outcome
        hold_off = HoldOff(outcome.why, outcome.until, is_requested, RETRIES_PER_SECOND)
        return self._defer_until(hold_off, priority, context.expires_at, outcome.status)

    def _defer_until(
        self, hold_off: HoldOff, priority: Priority, expires_at: datetime, status: int | None = None
    ) -> RetryLater:
        slot = next_retry_slot(self._retry_slots.get(priority), hold_off, self._jitter())
        self._retry_slots[priority] = max(slot, self._retry_slots.get(priority, slot))
        until = before_expiry(slot, hold_off, expires_at, self._clock.now(), self._jitter())
        return RetryLater(until, hold_off.why, status, counts_as_attempt=False)
