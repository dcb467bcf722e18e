"""HTTP control API under `/control`: counters, messages, receipts, behaviour and device keys."""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import parse_qs, unquote

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from tidings.errors import ValidationFailed
from tidings.mockpush.base64url import decode
from tidings.mockpush.behaviour import Behaviour, parse_rules
from tidings.mockpush.decrypt import Undecryptable, decrypt
from tidings.mockpush.devices import SubscriptionJson, is_device_id, load_receiver, subscription_json
from tidings.mockpush.payload import NotDeclarative, read_payload
from tidings.mockpush.receipt_log import AcceptedMessage, ReceiptLog, Stats
from tidings.mockpush.responses import (
    ClientConnection,
    MockResponse,
    SlowResponse,
    build_json_response,
    build_response,
    stream_response,
)
from tidings.mockpush.vapid import VapidVerifier

_COUNTERS = ("received", "accepted", "distinct", "verified")


class ReceivedMessage(msgspec.Struct, frozen=True, rename="camel"):
    """One accepted message, decrypted."""

    #: counts accepted messages from 1
    number: int
    device: str
    topic: str
    #: Unix time, seconds
    received_at: float
    #: what the device would show; None if it cannot be read, which is possible if it was not verified on receipt
    payload: Mapping[str, object] | None
    #: the reason if there is no payload
    problem: str | None = None


class ControlApi:
    """Routes of the control API."""

    def __init__(
        self, *, origin: str, seed: bytes, receipt_log: ReceiptLog, behaviour: Behaviour, vapid: VapidVerifier
    ) -> None:
        self._origin = origin
        self._seed = seed
        self._receipt_log = receipt_log
        self._behaviour = behaviour
        self._vapid = vapid

    def handle(self, method: str, path: str, query: str, body: bytes) -> MockResponse:
        """Return the response to a control request; `path` is the part after `/control/`."""
        name, _, argument = path.partition("/")
        argument = unquote(argument)
        try:
            match method, name, argument:
                case "GET", "stats", "":
                    return self._stats(_Query(query))
                case "GET", "messages", device:
                    return self._messages(_Query(query), device or None)
                case "GET", "receipts", "":
                    return stream_response(self._receipt_lines(), "application/x-ndjson")
                case "GET", "times", "":
                    return build_json_response(200, {"items": self._receipt_log.times()})
                case "POST", "reset", "":
                    self.reset()
                    return build_response(204)
                case "PUT", "behaviour", "":
                    self._behaviour.set_rules(parse_rules(body))
                    return build_response(204)
                case "DELETE", "behaviour", "":
                    self._behaviour.clear()
                    return build_response(204)
                case "GET", "devices", device if is_device_id(device):
                    return build_json_response(200, {"device": device, **self.subscription(device)})
                case "PUT", "devices", device if is_device_id(device):
                    self._vapid.bind(device, _read_server_key(body))
                    return build_response(204)
        except ValidationFailed as error:
            return build_json_response(400, {"reason": "invalid", "message": error.message})
        return build_json_response(404, {"reason": "unknown_route", "message": f"there is no {method} /control/{name}"})

    def subscription(self, device: str) -> SubscriptionJson:
        """Return the subscription of a simulated device of this service."""
        return subscription_json(self._origin, self._seed, device)

    def decrypt_message(self, message: AcceptedMessage) -> ReceivedMessage:
        """Return a message as the device would read it."""
        payload, problem = None, None
        try:
            payload = read_payload(decrypt(load_receiver(self._seed, message.device), message.body))
        except (Undecryptable, NotDeclarative) as error:
            problem = str(error)
        return ReceivedMessage(message.number, message.device, message.topic, message.received_at, payload, problem)

    def reset(self) -> None:
        """Delete all messages, counters, rules and bound keys."""
        self._receipt_log.reset()
        self._behaviour.clear()
        self._vapid.unbind_all()

    def _stats(self, query: "_Query") -> MockResponse:
        target = next((name for name in _COUNTERS if name in query), None)
        if target is None:
            return build_json_response(200, self._receipt_log.stats())
        reached, timeout = query.number(target, 0), query.number("timeoutMs", 10_000) / 1000
        return _respond_when_reached(self._receipt_log, target, reached, timeout)

    def _messages(self, query: "_Query", device: str | None) -> MockResponse:
        limit = query.number("limit", 100)
        after = query.number("after", 0) if "after" in query else None
        messages = [
            self.decrypt_message(m) for m in self._receipt_log.list_messages(after=after, limit=limit, device=device)
        ]
        return build_json_response(200, {"items": messages, "next": messages[-1].number if messages else after})

    def _receipt_lines(self) -> Iterator[bytes]:
        encode = msgspec.json.Encoder().encode_lines
        for chunk in self._receipt_log.receipts():
            yield encode([{"device": device, "topic": topic, "count": count} for device, topic, count in chunk])


class _Query:
    def __init__(self, text: str) -> None:
        self._values: Mapping[str, Sequence[str]] = parse_qs(text)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def number(self, name: str, default: int) -> int:
        text = self._values.get(name, [str(default)])[-1]
        if not (text.isascii() and text.isdigit() and len(text) < 16):
            raise ValidationFailed.for_field(name, "must be a whole number, 0 or more")
        return int(text)


class _ServerKey(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    application_server_key: str


def _read_server_key(body: bytes) -> bytes:
    try:
        point = decode(msgspec.json.decode(body, type=_ServerKey).application_server_key)
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise ValidationFailed.for_field(
            "applicationServerKey", f"must be a P-256 point in base64url: {error}"
        ) from None
    return point


def _respond_when_reached(receipt_log: ReceiptLog, counter: str, reached: int, timeout: float) -> SlowResponse:
    """Respond with the counters once `counter` has reached a number, or after the timeout in seconds."""

    async def respond(connection: ClientConnection) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await receipt_log.wait(counter, reached)
        stats: Stats = receipt_log.stats()
        connection.write(build_json_response(200, stats))

    return respond
