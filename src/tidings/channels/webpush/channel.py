"""The Web Push channel: encodes messages and sends them from this process or from a pool of sender processes."""

import random
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from tidings.channels.webpush.endpoint_allowlist import EndpointPolicy
from tidings.channels.webpush.key_ring import VapidKeyRing
from tidings.channels.webpush.payload import encode_payload
from tidings.channels.webpush.push_exchange import build_push_request
from tidings.channels.webpush.receipts import ReceiptPolicy
from tidings.channels.webpush.sender import PushSender
from tidings.channels.webpush.sender_pool.pool import SenderPool
from tidings.channels.webpush.sender_pool.protocol import Init
from tidings.channels.webpush.throttling.host_throttle import HostThrottle, HostThrottleRegistry
from tidings.channels.webpush.transport import Transport
from tidings.channels.webpush.vapid import VapidSigner, check_subject
from tidings.errors import ConfigError
from tidings.model.alert import AlertName
from tidings.model.delivery import OutboundMessage, Target
from tidings.model.outcome import Outcome, PermanentFailure, RetryLater
from tidings.model.provider import ProviderStatus
from tidings.model.subscription import PushSubscription, VapidKey
from tidings.model.template import RenderedMessage
from tidings.ports.alerts import AlertSink, NoAlerts
from tidings.ports.channel import ComposeContext
from tidings.ports.clock import Clock

#: how long an alert about a cause on this server is kept after its last observation
MISCONFIGURATION_ALERT_LASTS = timedelta(days=1)


class WebPushChannel:
    """Implements `tidings.ports.channel.Channel` for Web Push."""

    def __init__(
        self,
        keys: Sequence[VapidKey],
        subject: str,
        policy: EndpointPolicy,
        clock: Clock,
        sender_processes: int = 0,
        ca_file: Path | None = None,
        alerts: AlertSink | None = None,
        *,
        receipts: ReceiptPolicy | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`subject` is the VAPID contact, a `mailto:` or `https:` URL. `sender_processes`: 0 sends from this process.

        Sender processes use the system clock; `clock` is then used only for decisions in this process. `ca_file` is a
        PEM file with an additional certificate authority. `alerts` are for operators. `receipts`: what service workers
        report, default: nothing. `jitter` returns a random number, 0 ≤ n < 1.
        Raises ConfigError for an invalid contact.
        """
        self.name = "webpush"
        self._keys = tuple(keys)
        #: the keys for new subscriptions
        self.key_ring = VapidKeyRing(keys, policy)
        self.receipts = receipts or ReceiptPolicy("")
        self._subject = check_subject(subject)
        self._policy = policy
        self._clock = clock
        self._sender_processes = sender_processes
        self._ca_file = ca_file
        self._jitter = jitter
        self._alerts = alerts or NoAlerts()
        #: kept in this process, so that all sender processes share the state of a push host
        self._throttles = HostThrottleRegistry(policy, clock, jitter, self._alerts)
        self._sender: PushSender | SenderPool | None = None

    async def open(self) -> None:
        """Check keys and certificate, and start the sender processes.

        Raises ConfigError for an invalid certificate or key, BackendError if a sender process does not start.
        """
        if self._sender is not None:
            return
        ca_pem = _read_ca_file(self._ca_file)
        signer, transport = VapidSigner(self._keys, self._subject), Transport(ca_pem=ca_pem)
        if self._sender_processes < 1:
            self._sender = PushSender(
                signer=signer, policy=self._policy, transport=transport, clock=self._clock, jitter=self._jitter
            )
            return
        init = Init(self._subject, self._policy.extra_hosts, ca_pem, self._keys)
        pool = SenderPool(self._sender_processes, init, clock=self._clock, jitter=self._jitter)
        await pool.open()
        self._sender = pool

    def set_keys(self, keys: Sequence[VapidKey]) -> None:
        """Replace the VAPID keys. They must include the key of every stored subscription."""
        self._keys = tuple(keys)
        if self._sender is not None:
            self._sender.set_keys(keys)
        # after the sender, which must be able to sign before browsers receive the key
        self.key_ring.set_keys(keys)

    def compose(self, content: RenderedMessage, context: ComposeContext) -> bytes:
        """Return the JSON payload of one message, at most 2 641 bytes."""
        return encode_payload(
            content,
            notification_id=context.notification_id,
            delivery_id=context.delivery_id,
            tag=context.collapse_key,
            expires_at=context.expires_at,
            category=context.category.code,
            receipts=self.receipts,
        )

    def destination(self, target: Target) -> HostThrottle | None:
        """Return the throttle of a subscription's push host, None if its endpoint is not allowed."""
        return self._throttles.get(target.endpoint) if isinstance(target, PushSubscription) else None

    def open_circuits(self) -> Mapping[str, bool]:
        """Return whether a circuit is open now, for each built-in push service and each configured one in use."""
        return self._throttles.open_circuits()

    def list_providers(self) -> Sequence[ProviderStatus]:
        """Return the state of each push service in use."""
        return self._throttles.list_status(self.name)

    async def send(self, message: OutboundMessage) -> Outcome:
        """Encrypt and post one message, or defer it if its push host is throttled.

        Raises RuntimeError if the channel is not open.
        """
        if self._sender is None:
            raise RuntimeError("the Web Push channel is not open")
        request = build_push_request(message)
        host = self._throttles.get(request.endpoint)
        if host is None:
            outcome = (await self._sender.send(request)).outcome
            self._alert_operator(self.name, outcome)
            return outcome
        permit = host.acquire(request.endpoint, message.priority, message.expires_at)
        if isinstance(permit, RetryLater):
            return permit
        try:
            result = await self._sender.send(request)
        except BaseException:
            host.abandon(permit)
            raise
        outcome = host.complete(permit, result, message.priority, message.expires_at)
        self._alert_operator(host.name, outcome)
        return outcome

    def _alert_operator(self, subject: str, outcome: Outcome) -> None:
        # a refusal whose cause may be the device is reported when it repeats, with the suspension of the device
        if isinstance(outcome, PermanentFailure) and outcome.operator_alert and not outcome.is_target_suspect:
            self._alerts.raise_alert(
                AlertName.PUSH_MISCONFIGURED, subject, outcome.why, lasts=MISCONFIGURATION_ALERT_LASTS
            )

    async def close(self) -> None:
        """Wait for sends in flight, then close connections and stop the sender processes."""
        sender, self._sender = self._sender, None
        if sender is not None:
            await sender.close()


def _read_ca_file(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError("TIDINGS_PUSH_CA_FILE", f"cannot read {path}: {error.strerror}") from error
