"""The Web Push channel: content in, declarative JSON out to browsers, from this process or from sender processes."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tidings.channels.webpush.endpoints import EndpointPolicy
from tidings.channels.webpush.frames import Setup
from tidings.channels.webpush.hosts import Host, Hosts
from tidings.channels.webpush.payload import encode
from tidings.channels.webpush.processes import SenderPool
from tidings.channels.webpush.request import request_for
from tidings.channels.webpush.sender import Sender
from tidings.channels.webpush.transport import Transport
from tidings.channels.webpush.vapid import Signer, check_subject
from tidings.errors import ConfigError
from tidings.model.delivery import Message
from tidings.model.outcome import Deferred, Outcome
from tidings.model.subscription import PushSubscription, VapidKey
from tidings.model.template import Content
from tidings.ports.clock import Clock


class WebPushChannel:
    """Implements `tidings.ports.channel.Channel` for browsers (MISSION M5, M6, M7, M10)."""

    def __init__(
        self,
        keys: Sequence[VapidKey],
        subject: str,
        policy: EndpointPolicy,
        clock: Clock,
        workers: int = 0,
        ca_file: Path | None = None,
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`subject` is a real `mailto:` or `https:` contact, `workers` the number of sender processes (0 = none).

        Sender processes read the machine's clock; `clock` then only serves what is decided here. `ca_file` is a PEM
        file with one more certificate authority. Raises ConfigError for a wrong contact.
        """
        self.name = "webpush"
        self._keys = tuple(keys)
        self._subject = check_subject(subject)
        self._policy = policy
        self._clock = clock
        self._workers = workers
        self._ca_file = ca_file
        self._jitter = jitter
        #: here and not in the sender processes, so that all of them share what one has learned
        self._hosts = Hosts(policy, clock, jitter)
        self._sender: Sender | SenderPool | None = None

    async def open(self) -> None:
        """Check keys and certificate, start sender processes. Raises ConfigError or BackendError."""
        if self._sender is not None:
            return
        ca_pem = _read(self._ca_file)
        signer, transport = Signer(self._keys, self._subject), Transport(ca_pem=ca_pem)
        if self._workers < 1:
            self._sender = Sender(
                signer=signer, policy=self._policy, transport=transport, clock=self._clock, jitter=self._jitter
            )
            return
        setup = Setup(self._subject, self._policy.extra_hosts, ca_pem, self._keys)
        pool = SenderPool(self._workers, setup, clock=self._clock, jitter=self._jitter)
        await pool.open()
        self._sender = pool

    def set_keys(self, keys: Sequence[VapidKey]) -> None:
        """Replace the known VAPID keys: all that any stored subscription was made with."""
        self._keys = tuple(keys)
        if self._sender is not None:
            self._sender.set_keys(keys)

    def encode(self, content: Content, *, notification_id: str, delivery_id: str) -> bytes:
        """Return the JSON of one message, at most 2 641 bytes."""
        return encode(content, notification_id=notification_id, delivery_id=delivery_id)

    def destination(self, target: PushSubscription) -> Host | None:
        """Return the push host of a subscription (`flow.deliver.destination.Addressing`), None if it is not allowed."""
        return self._hosts.of(target.endpoint)

    def held_back(self) -> Mapping[str, bool]:
        """Return, for each push host that was ever held back in this process, whether it is now."""
        return self._hosts.held_back()

    def pauses(self) -> Mapping[str, int]:
        """Return how often each push host was held back by this process."""
        return self._hosts.pauses()

    async def send(self, message: Message) -> Outcome:
        """Encrypt and post one message, unless its host is held back. Raises RuntimeError if it was not opened."""
        if self._sender is None:
            raise RuntimeError("the Web Push channel is not open")
        request = request_for(message, self._clock.now())
        host = self._hosts.of(request.endpoint)
        if host is None:
            return (await self._sender.send(request)).outcome
        ticket = host.begin(request.endpoint, message.priority, message.expires_at)
        if isinstance(ticket, Deferred):
            return ticket
        try:
            sent = await self._sender.send(request)
        except BaseException:
            host.broken_off(ticket)
            raise
        return host.end(ticket, sent, message.priority, message.expires_at)

    async def close(self) -> None:
        """Let what is in flight end, then close connections and processes."""
        sender, self._sender = self._sender, None
        if sender is not None:
            await sender.close()


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError("TIDINGS_PUSH_CA_FILE", f"cannot read {path}: {error.strerror}") from error


class WebPushPlugin:
    """What the entry-point group `tidings.channels` names."""

    name = "webpush"

    def create(
        self,
        keys: Sequence[VapidKey],
        subject: str,
        policy: EndpointPolicy,
        clock: Clock,
        workers: int = 0,
        ca_file: Path | None = None,
    ) -> WebPushChannel:
        """Return a channel that is not yet open; arguments as `WebPushChannel`."""
        return WebPushChannel(keys, subject, policy, clock, workers, ca_file)
