"""One push from plain text to outcome: check, sign, encrypt, post, judge."""

from collections.abc import Callable, Sequence

import msgspec

from tidings.channels.webpush.answer import NoAnswer
from tidings.channels.webpush.encryption import MAX_PLAINTEXT, encrypt
from tidings.channels.webpush.endpoints import EndpointPolicy, Origin
from tidings.channels.webpush.in_flight import InFlight
from tidings.channels.webpush.payload import SMALL, shrink
from tidings.channels.webpush.policy import Again, Attempt, Change, decide, retry
from tidings.channels.webpush.request import PushRequest
from tidings.channels.webpush.signs import Kind, Sent, Sign, sign_of
from tidings.channels.webpush.transport import Transport
from tidings.channels.webpush.vapid import Signer
from tidings.errors import Invalid
from tidings.model.outcome import Refused
from tidings.model.subscription import VapidKey
from tidings.ports.clock import Clock


class Sender:
    """Sends pushes from this process."""

    def __init__(
        self, *, signer: Signer, policy: EndpointPolicy, transport: Transport, clock: Clock, jitter: Callable[[], float]
    ) -> None:
        """`jitter` returns a random number, 0 ≤ n < 1, for spreading retries."""
        self._signer = signer
        self._policy = policy
        self._transport = transport
        self._clock = clock
        self._jitter = jitter
        self._in_flight = InFlight()

    def set_keys(self, keys: Sequence[VapidKey]) -> None:
        """Replace the known VAPID keys."""
        self._signer.set_keys(keys)

    async def send(self, request: PushRequest) -> Sent:
        """Send one push. A refusal that one change may cure (413, Apple's topic) is repeated with it at once."""
        with self._in_flight:
            return await self._until_decided(request)

    async def close(self) -> None:
        """Let what is in flight end, then close the connections."""
        await self._in_flight.ended()
        await self._transport.close()

    async def _until_decided(self, request: PushRequest) -> Sent:
        tried: set[Change] = set()
        payload, topic = request.payload, request.topic
        while True:
            sent = await self._once(request, payload, topic, tried)
            if isinstance(sent, Sent):
                return sent
            tried.add(sent.change)
            if sent.change is Change.NO_TOPIC:
                topic = None
                continue
            smaller = shrink(payload, SMALL)
            if smaller is None:
                why = "the push service finds the message too large and it cannot be shortened"
                return Sent(Refused(why, 413), Sign(Kind.WELL))
            payload = smaller

    async def _once(self, request: PushRequest, payload: bytes, topic: str | None, tried: set[Change]) -> Sent | Again:
        sealed = self._sealed(request, payload, topic)
        if isinstance(sealed, Refused):
            return Sent(sealed)
        answer = await self._transport.post(sealed.origin, request.endpoint, sealed.headers, sealed.body)
        now = self._clock.now()
        attempt = Attempt(now, request.attempt, self._jitter(), tried)
        sign = sign_of(sealed.origin.host, answer, now)
        if isinstance(answer, NoAnswer):
            return Sent(retry(answer.why, attempt), sign)
        outcome = decide(sealed.origin.host, answer, attempt)
        return outcome if isinstance(outcome, Again) else Sent(outcome, sign)

    def _sealed(self, request: PushRequest, payload: bytes, topic: str | None) -> "_Sealed | Refused":
        try:
            # again, since the allow-list may have become stricter after this browser subscribed
            origin = self._policy.check(request.endpoint)
        except Invalid as invalid:
            return Refused(f"the endpoint is not allowed: {invalid.faults[0].message}", alert=True)
        authorization = self._signer.header(origin.text, request.key_id, self._clock.now())
        if authorization is None:
            return Refused(f"the subscription's VAPID key {request.key_id} is not known here", alert=True)
        if len(payload) > MAX_PLAINTEXT:
            return Refused(f"the message has {len(payload)} bytes, one record holds {MAX_PLAINTEXT}", alert=True)
        try:
            body = encrypt(payload, request.p256dh, request.auth)
        except ValueError:
            return Refused("the subscription's key is not a point of P-256", alert=True)
        headers = {
            "Authorization": authorization,
            "Content-Encoding": "aes128gcm",
            "Content-Type": "application/octet-stream",
            "TTL": str(request.ttl),
            "Urgency": request.urgency,
        }
        if topic is not None:
            headers["Topic"] = topic
        return _Sealed(origin, headers, body)


class _Sealed(msgspec.Struct, frozen=True):
    """A request that may leave."""

    origin: Origin
    headers: dict[str, str]
    body: bytes
