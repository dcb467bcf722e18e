"""The control API under `/control`: counters, kept messages, receipts, behaviour and device keys, over HTTP."""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import parse_qs, unquote

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from tidings.errors import Invalid
from tidings.testing.mock_push.base64url import decode
from tidings.testing.mock_push.behaviour import Behaviour, read_rules
from tidings.testing.mock_push.decrypt import Undecryptable, decrypt
from tidings.testing.mock_push.devices import SubscriptionJson, is_device_id, receiver, subscription_json
from tidings.testing.mock_push.ledger import Arrived, Ledger, Stats
from tidings.testing.mock_push.payload import NotDeclarative, read_payload
from tidings.testing.mock_push.plays import Answer, Play, Wire, json_response, response, streamed
from tidings.testing.mock_push.vapid import VapidCheck

_COUNTERS = ("received", "accepted", "distinct", "verified")


class Received(msgspec.Struct, frozen=True, rename="camel"):
    """One accepted message, opened."""

    #: counts accepted messages from 1
    number: int
    device: str
    topic: str
    #: Unix time, seconds
    received_at: float
    #: what the device would show; None when it cannot read it (possible where it was not verified on arrival)
    payload: Mapping[str, object] | None
    #: why there is no payload
    problem: str | None = None


class Control:
    """Answers what a test, a demo or a benchmark asks about the pushes."""

    def __init__(self, *, origin: str, seed: bytes, ledger: Ledger, behaviour: Behaviour, vapid: VapidCheck) -> None:
        self._origin = origin
        self._seed = seed
        self._ledger = ledger
        self._behaviour = behaviour
        self._vapid = vapid

    def answer(self, method: str, path: str, query: str, body: bytes) -> Answer:
        """Return the answer to a control request; `path` is what follows `/control/`."""
        name, _, argument = path.partition("/")
        argument = unquote(argument)
        try:
            match method, name, argument:
                case "GET", "stats", "":
                    return self._stats(_Query(query))
                case "GET", "messages", device:
                    return self._messages(_Query(query), device or None)
                case "GET", "receipts", "":
                    return streamed(self._receipt_lines(), "application/x-ndjson")
                case "GET", "times", "":
                    return json_response(200, {"items": self._ledger.times()})
                case "POST", "reset", "":
                    self.reset()
                    return response(204)
                case "PUT", "behaviour", "":
                    self._behaviour.set_rules(read_rules(body))
                    return response(204)
                case "DELETE", "behaviour", "":
                    self._behaviour.clear()
                    return response(204)
                case "GET", "devices", device if is_device_id(device):
                    return json_response(200, {"device": device, **self.subscription(device)})
                case "PUT", "devices", device if is_device_id(device):
                    self._vapid.bind(device, _read_server_key(body))
                    return response(204)
        except Invalid as error:
            return json_response(400, {"reason": "invalid", "message": error.message})
        return json_response(404, {"reason": "unknown_route", "message": f"there is no {method} /control/{name}"})

    def subscription(self, device: str) -> SubscriptionJson:
        """Return the subscription of a simulated device of this service."""
        return subscription_json(self._origin, self._seed, device)

    def open(self, arrived: Arrived) -> Received:
        """Return a message as the device reads it."""
        payload, problem = None, None
        try:
            payload = read_payload(decrypt(receiver(self._seed, arrived.device), arrived.body))
        except (Undecryptable, NotDeclarative) as error:
            problem = str(error)
        return Received(arrived.number, arrived.device, arrived.topic, arrived.received_at, payload, problem)

    def reset(self) -> None:
        """Forget all messages, counters, rules and bound keys."""
        self._ledger.reset()
        self._behaviour.clear()
        self._vapid.unbind_all()

    def _stats(self, query: "_Query") -> Answer:
        target = next((name for name in _COUNTERS if name in query), None)
        if target is None:
            return json_response(200, self._ledger.stats())
        reached, timeout = query.number(target, 0), query.number("timeoutMs", 10_000) / 1000
        return _when_reached(self._ledger, target, reached, timeout)

    def _messages(self, query: "_Query", device: str | None) -> Answer:
        limit = query.number("limit", 100)
        after = query.number("after", 0) if "after" in query else None
        found = [self.open(m) for m in self._ledger.arrived(after=after, limit=limit, device=device)]
        return json_response(200, {"items": found, "next": found[-1].number if found else after})

    def _receipt_lines(self) -> Iterator[bytes]:
        encode = msgspec.json.Encoder().encode_lines
        for chunk in self._ledger.receipts():
            yield encode([{"device": device, "topic": topic, "count": count} for device, topic, count in chunk])


class _Query:
    def __init__(self, text: str) -> None:
        self._values: Mapping[str, Sequence[str]] = parse_qs(text)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def number(self, name: str, default: int) -> int:
        text = self._values.get(name, [str(default)])[-1]
        if not (text.isascii() and text.isdigit() and len(text) < 16):
            raise Invalid.field(name, "must be a whole number, 0 or more")
        return int(text)


class _ServerKey(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    application_server_key: str


def _read_server_key(body: bytes) -> bytes:
    try:
        point = decode(msgspec.json.decode(body, type=_ServerKey).application_server_key)
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise Invalid.field("applicationServerKey", f"must be a P-256 point in base64url: {error}") from None
    return point


def _when_reached(ledger: Ledger, counter: str, reached: int, timeout: float) -> Play:
    """Answer with the counters once one of them has reached a number, or when the time is over."""

    async def play(wire: Wire) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await ledger.wait(counter, reached)
        stats: Stats = ledger.stats()
        wire.write(json_response(200, stats))

    return play
