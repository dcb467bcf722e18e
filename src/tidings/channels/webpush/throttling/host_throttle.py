"""The throttle of each push host: what its answers say about single devices, this server's token and its clock."""

import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from cachetools import LRUCache
from msgspec import structs

from tidings.channels.throttling.retry_schedule import LAST_TRY_MARGIN
from tidings.channels.throttling.server_throttle import MAX_SERVERS, RECHECK_DELAY, Permit, ServerThrottle
from tidings.channels.throttling.signals import SignalKind
from tidings.channels.webpush.endpoint_allowlist import EndpointPolicy
from tidings.channels.webpush.throttling.host_signals import HostSignal, SendResult
from tidings.channels.webpush.throttling.token_refusals import TokenRefusals, TokenVerdict
from tidings.errors import ValidationFailed
from tidings.model.alert import AlertName
from tidings.model.outcome import Accepted, Outcome, PermanentFailure, RetryLater
from tidings.model.priority import Priority
from tidings.model.provider import ProviderStatus, merge_statuses
from tidings.ports.alerts import AlertSink, NoAlerts
from tidings.ports.clock import Clock

#: if more devices than this are refused for an unknown reason and none is accepted, the cause is not the devices
MASS_REFUSAL_THRESHOLD = 100
#: a clock that differs more than this from that of a push service is reported: tokens become invalid
MAX_CLOCK_OFFSET = timedelta(minutes=5)
#: how long that report is kept without another measurement
CLOCK_ALERT_LASTS = timedelta(days=1)
#: muted devices kept per host
_MAX_MUTED_TARGETS = 10_000
_NO_ALERTS = NoAlerts()


class HostThrottle(ServerThrottle):
    """The throttle of one push host. It also mutes single devices, and decides what a refused token means."""

    def __init__(self, name: str, clock: Clock, jitter: Callable[[], float], alerts: AlertSink = _NO_ALERTS) -> None:
        """`name` is the host's origin. `jitter` returns a random number, 0 ≤ n < 1. `alerts` are for operators."""
        super().__init__(name, clock, jitter)
        self._alerts = alerts
        self._token_refusals = TokenRefusals()
        #: hashes of the devices refused for an unknown reason since the last acceptance, up to the threshold
        self._suspect_targets: set[int] = set()
        #: this machine's clock minus that of the push service, as measured last
        self._clock_offset = timedelta()
        #: target hash → since when and until when the push service requested to send it nothing
        self._muted_targets: LRUCache[int, tuple[datetime, datetime]] = LRUCache(_MAX_MUTED_TARGETS)

    def acquire(self, target: str, priority: Priority, expires_at: datetime) -> Permit | RetryLater:
        """Return a permit to send to an endpoint, or when to retry; see `ServerThrottle.acquire`."""
        muted = self._muted_targets.get(hash(target)) if self._muted_targets else None
        if muted is not None and muted[0] <= self._clock.now() < muted[1]:
            return RetryLater(muted[1], f"{self.name} throttles this device", counts_as_attempt=False)
        return super().acquire(target, priority, expires_at)

    def complete(self, permit: Permit, result: SendResult, priority: Priority, expires_at: datetime) -> Outcome:
        """Record the result of a send and return the outcome for the delivery.

        A failure that the push host is responsible for becomes a retry until the message expires.
        """
        if result.signal is None:
            self.abandon(permit)
            return result.outcome
        result = self._clear_suspicion(permit, result)
        now, signal = self._clock.now(), result.signal
        assert signal is not None, "checked above"
        if signal.clock_offset is not None:
            self._check_clock(signal.clock_offset)
        if isinstance(result.outcome, Accepted):
            self._token_refusals.on_accepted(permit.target_hash, permit.started_at, now)
            self._alerts.resolve_alert(AlertName.PUSH_TOKEN_REFUSED, self.name)
            self._alerts.resolve_alert(AlertName.PUSH_MISCONFIGURED, self.name)
        is_token_refused = signal.kind is SignalKind.REFUSED
        if is_token_refused:
            verdict = self._token_refusals.on_refused(permit.target_hash, now)
            if verdict is TokenVerdict.UNCLEAR:
                self.abandon(permit)
                return result.outcome
            if verdict is TokenVerdict.TARGET_REFUSED:
                is_token_refused, signal = False, HostSignal(SignalKind.HEALTHY)
                result = SendResult(_refuse_target(result.outcome), signal)
        if signal.kind is SignalKind.THROTTLED and isinstance(result.outcome, RetryLater):
            self._muted_targets[permit.target_hash] = (now, result.outcome.until)
        outcome = self.record(permit, result.outcome, signal, priority, expires_at)
        return self._defer_after_refused_token(outcome, priority, expires_at) if is_token_refused else outcome

    def _clear_suspicion(self, permit: Permit, result: SendResult) -> SendResult:
        """Return the result without suspicion against the device if the host refuses every device."""
        outcome = result.outcome
        if isinstance(outcome, Accepted):
            self._suspect_targets.clear()
        elif isinstance(outcome, PermanentFailure) and outcome.is_target_suspect:
            if len(self._suspect_targets) < MASS_REFUSAL_THRESHOLD:
                self._suspect_targets.add(permit.target_hash)
            else:
                return SendResult(structs.replace(outcome, is_target_suspect=False), result.signal)
        return result

    def _defer_after_refused_token(self, outcome: Outcome, priority: Priority, expires_at: datetime) -> RetryLater:
        detail = f"{outcome.why}; nothing is sent to it until it accepts again, and no attempt is spent"
        if abs(self._clock_offset) > MAX_CLOCK_OFFSET:
            detail += f"; {self._describe_clock()}"
        self._alerts.raise_alert(AlertName.PUSH_TOKEN_REFUSED, self.name, detail)
        retry = self.defer(priority, expires_at)
        # later than the others, so that another device is the next probe: this one may be the reason
        later = max(retry.until, min(retry.until + RECHECK_DELAY, expires_at - LAST_TRY_MARGIN))
        return RetryLater(later, f"{outcome.why}; {retry.why}", outcome.status, counts_as_attempt=False)

    def _check_clock(self, offset: timedelta) -> None:
        self._clock_offset = offset
        subject = f"{socket.gethostname()}, {self.name}"
        if abs(offset) <= MAX_CLOCK_OFFSET:
            self._alerts.resolve_alert(AlertName.CLOCK_OFF, subject)
        else:
            detail = f"{self._describe_clock()}; push services refuse tokens with wrong times; synchronise it (NTP)"
            self._alerts.raise_alert(AlertName.CLOCK_OFF, subject, detail, lasts=CLOCK_ALERT_LASTS)

    def _describe_clock(self) -> str:
        minutes = round(abs(self._clock_offset).total_seconds() / 60)
        direction = "ahead of" if self._clock_offset > timedelta() else "behind"
        difference = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
        return f"the clock of {socket.gethostname()} is {difference} {direction} that of {self.name}"


def _refuse_target(outcome: Outcome) -> PermanentFailure:
    why = f"{outcome.why} for this device only"
    return PermanentFailure(why, outcome.status, operator_alert=True, is_target_suspect=True)


class HostThrottleRegistry:
    """The throttles of all push hosts, by origin."""

    def __init__(
        self, policy: EndpointPolicy, clock: Clock, jitter: Callable[[], float], alerts: AlertSink = _NO_ALERTS
    ) -> None:
        self._alerts = alerts
        self._policy = policy
        self._clock = clock
        self._jitter = jitter
        self._throttles: dict[str, HostThrottle] = {}
        #: push service → names of its hosts
        self._hosts_by_service: dict[str, set[str]] = {service: set() for service in policy.service_names}

    def get(self, endpoint: str) -> HostThrottle | None:
        """Return the throttle for an endpoint, None if the endpoint is not allowed."""
        try:
            origin = self._policy.check(endpoint)
        except ValidationFailed:
            return None
        name = origin.serialization
        throttle = self._throttles.get(name)
        if throttle is None:
            if len(self._throttles) >= MAX_SERVERS:
                self._throttles = {key: kept for key, kept in self._throttles.items() if not kept.is_idle}
                for hosts in self._hosts_by_service.values():
                    hosts.intersection_update(self._throttles)
            throttle = self._throttles[name] = HostThrottle(name, self._clock, self._jitter, self._alerts)
            self._hosts_by_service.setdefault(self._policy.get_service(origin), set()).add(name)
        return throttle

    def list_status(self, channel: str) -> Sequence[ProviderStatus]:
        """Return the state of each built-in push service and each configured one in use, of all its hosts together."""
        return [
            merge_statuses(service, [self._throttles[host].describe(channel) for host in sorted(hosts)])
            for service, hosts in sorted(self._hosts_by_service.items())
            if hosts
        ]

    def open_circuits(self) -> Mapping[str, bool]:
        """Return whether a host is closed now, for each built-in push service and each configured one in use."""
        return {
            service: any(self._throttles[host].is_closed(is_full=False) for host in hosts)
            for service, hosts in self._hosts_by_service.items()
        }
