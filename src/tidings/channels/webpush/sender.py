"""Sends one push: check the endpoint, sign, encrypt, post, decide the outcome."""

import asyncio
from collections.abc import Callable, Sequence, Set
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from types import TracebackType

import msgspec
from msgspec import structs

from tidings.channels.throttling.signals import SignalKind
from tidings.channels.webpush.encryption import MAX_PLAINTEXT, encrypt
from tidings.channels.webpush.endpoint_allowlist import EndpointPolicy, Origin
from tidings.channels.webpush.payload import shrink
from tidings.channels.webpush.push_exchange import NoResponse, PushRequest, PushResponse, compute_ttl
from tidings.channels.webpush.response_policy import (
    AttemptContext,
    Modification,
    RetryModified,
    decide_outcome,
    retry_or_give_up,
    retry_unprocessed,
)
from tidings.channels.webpush.size_limits import SizeLimits, select_smaller_size
from tidings.channels.webpush.throttling.host_signals import HostSignal, SendResult, classify_host
from tidings.channels.webpush.transport import Transport
from tidings.channels.webpush.vapid import VapidSigner
from tidings.errors import ValidationFailed
from tidings.model.outcome import Accepted, PermanentFailure
from tidings.model.subscription import VapidKey
from tidings.ports.clock import Clock

#: hosts whose clock is compared; their number is unbounded because of wildcard hosts
_MAX_HOSTS = 512


class InFlightCounter:
    """Counts sends: each one is wrapped in this context manager, and `wait_idle` waits until none is in flight."""

    def __init__(self) -> None:
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def __enter__(self) -> None:
        self._count += 1
        self._idle.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._count -= 1
        if not self._count:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until no send is in flight."""
        await self._idle.wait()


class PushSender:
    """Sends pushes from this process."""

    def __init__(
        self,
        *,
        signer: VapidSigner,
        policy: EndpointPolicy,
        transport: Transport,
        clock: Clock,
        jitter: Callable[[], float],
    ) -> None:
        """`jitter` returns a random number, 0 ≤ n < 1, to spread retries."""
        self._signer = signer
        self._policy = policy
        self._transport = transport
        self._clock = clock
        self._jitter = jitter
        self._in_flight = InFlightCounter()
        self._size_limits = SizeLimits()
        self._clocks = _HostClocks()

    def set_keys(self, keys: Sequence[VapidKey]) -> None:
        """Replace the VAPID keys."""
        self._signer.set_keys(keys)

    async def send(self, request: PushRequest) -> SendResult:
        """Send one push.

        A request rejected for its size (413), its topic (Apple) or the token is modified and repeated at once.
        """
        with self._in_flight:
            return await self._send_until_decided(request)

    async def close(self) -> None:
        """Wait for sends in flight, then close the connections."""
        await self._in_flight.wait_idle()
        await self._transport.close()

    async def _send_until_decided(self, request: PushRequest) -> SendResult:
        try:
            # checked again because the allow-list may have become stricter since this browser subscribed
            origin = self._policy.check(request.endpoint)
        except ValidationFailed as invalid:
            why = f"the endpoint is not allowed: {invalid.field_errors[0].message}"
            return SendResult(PermanentFailure(why, operator_alert=True))
        payload = self._fit_payload(origin.serialization, request.payload)
        topic = request.topic
        tried: set[Modification] = set()
        #: the size to which a 413 reduced the payload
        reduced_size: int | None = None
        while True:
            result = await self._post_once(request, origin, payload, topic, tried)
            if isinstance(result, SendResult):
                if reduced_size is not None and isinstance(result.outcome, Accepted):
                    self._size_limits.store(origin.serialization, reduced_size, self._clock.now())
                return result
            match result.modification:
                case Modification.SMALLER:
                    reduced_size, smaller = _reduce(payload)
                    if smaller is None:
                        # remembered too, so that the next message does not try every size again
                        self._size_limits.store(origin.serialization, reduced_size, self._clock.now())
                        return SendResult(_too_large(reduced_size), HostSignal(SignalKind.HEALTHY))
                    payload = smaller
                case Modification.NO_TOPIC:
                    tried.add(Modification.NO_TOPIC)
                    topic = None
                case Modification.FRESH_TOKEN:
                    tried.add(Modification.FRESH_TOKEN)

    def _fit_payload(self, host: str, payload: bytes) -> bytes:
        """Return the payload in the size that the host is known to accept."""
        limit = self._size_limits.get(host, self._clock.now())
        if limit is None or len(payload) <= limit:
            return payload
        return shrink(payload, limit) or payload

    async def _post_once(
        self, request: PushRequest, origin: Origin, payload: bytes, topic: str | None, tried: Set[Modification]
    ) -> SendResult | RetryModified:
        encrypted = self._build_request(request, origin, payload, topic)
        if isinstance(encrypted, PermanentFailure):
            return SendResult(encrypted)
        response = await self._transport.post(origin, request.endpoint, encrypted.headers, encrypted.body)
        now = self._clock.now()
        attempt = AttemptContext(now, request.attempt, self._jitter(), tried)
        if isinstance(response, NoResponse):
            if response.is_unprocessed:
                return SendResult(retry_unprocessed(response.why, attempt))
            return SendResult(retry_or_give_up(response.why, attempt), classify_host(origin.host, response, now))
        outcome = decide_outcome(origin.host, response, attempt)
        if outcome == RetryModified(Modification.FRESH_TOKEN) and not self._signer.renew(
            origin.serialization, request.key_id, encrypted.headers["Authorization"], now
        ):
            attempt = structs.replace(attempt, tried_modifications={*tried, Modification.FRESH_TOKEN})
            outcome = decide_outcome(origin.host, response, attempt)
        if isinstance(outcome, RetryModified):
            return outcome
        if isinstance(outcome, Accepted):
            self._signer.mark_accepted(origin.serialization, request.key_id)
        signal = classify_host(origin.host, response, now)
        return SendResult(outcome, structs.replace(signal, clock_offset=self._clocks.measure(origin, response, now)))

    def _build_request(
        self, request: PushRequest, origin: Origin, payload: bytes, topic: str | None
    ) -> "_EncryptedRequest | PermanentFailure":
        now = self._clock.now()
        ttl = compute_ttl(request.expires_at, now)
        if ttl < 1:
            return PermanentFailure("expired before it was sent", is_expired=True)
        authorization = self._signer.get_authorization(origin.serialization, request.key_id, now)
        if authorization is None:
            return PermanentFailure(
                f"the subscription's VAPID key {request.key_id} does not exist", operator_alert=True
            )
        if len(payload) > MAX_PLAINTEXT:
            return PermanentFailure(
                f"the payload has {len(payload)} bytes; the maximum is {MAX_PLAINTEXT}", operator_alert=True
            )
        try:
            body = encrypt(payload, request.p256dh, request.auth)
        except ValueError:
            return PermanentFailure(
                "the subscription's key is not a point of P-256", operator_alert=True, is_target_suspect=True
            )
        headers = {
            "Authorization": authorization,
            "Content-Encoding": "aes128gcm",
            "Content-Type": "application/octet-stream",
            "TTL": str(ttl),
            "Urgency": request.urgency,
        }
        if topic is not None:
            headers["Topic"] = topic
        return _EncryptedRequest(headers, body)


class _EncryptedRequest(msgspec.Struct, frozen=True):
    """A request that is ready to be posted."""

    headers: dict[str, str]
    body: bytes


class _HostClocks:
    """Compares this machine's clock with the `Date` of responses (RFC 9110 §6.6.1), once a second per host."""

    def __init__(self) -> None:
        #: the latest `Date` per host, in the order of the first; a plain dict, as each response reads it
        self._dates: dict[Origin, str] = {}

    def measure(self, origin: Origin, response: PushResponse, now: datetime) -> timedelta | None:
        """Return this machine's clock minus that of the host. None if it was measured just now or is not known."""
        date = response.headers.get("date")
        if date is None or self._dates.get(origin) == date:
            return None
        if len(self._dates) >= _MAX_HOSTS and origin not in self._dates:
            del self._dates[next(iter(self._dates))]
        self._dates[origin] = date
        try:
            at = parsedate_to_datetime(date)
        except (ValueError, OverflowError):
            return None
        return now - (at if at.tzinfo is not None else at.replace(tzinfo=UTC))


def _reduce(payload: bytes) -> tuple[int, bytes | None]:
    """Return the next smaller size, and the payload in it; None if it cannot be shortened any more."""
    size = select_smaller_size(len(payload))
    return (len(payload), None) if size is None else (size, shrink(payload, size))


def _too_large(size: int) -> PermanentFailure:
    why = f"the push service rejects the message as too large, and it cannot be shortened to {size} bytes"
    return PermanentFailure(why, 413, operator_alert=True)
