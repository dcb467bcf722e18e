"""POST /push/{device}: from request to answer. Checks in a fixed order, counts, then does what the rules ask for."""

import re
from collections.abc import Callable, Mapping
from urllib.parse import unquote

import msgspec

from tidings.errors import Invalid
from tidings.testing.mock_push.behaviour import Behaviour, Rule, fraction
from tidings.testing.mock_push.decrypt import Undecryptable, decrypt
from tidings.testing.mock_push.devices import is_device_id, receiver
from tidings.testing.mock_push.ledger import Ledger
from tidings.testing.mock_push.payload import NotDeclarative, read_payload
from tidings.testing.mock_push.plays import Answer, delayed, dripped, hang, json_response, lose, response
from tidings.testing.mock_push.refusal import Refusal
from tidings.testing.mock_push.vapid import VapidCheck

#: what a push service must take at least and this one takes at most, bytes (RFC 8030 §7.2)
MAX_BODY = 4096

_TOPIC = re.compile(rb"[A-Za-z0-9_-]{1,32}\Z")
_URGENCIES = frozenset((b"very-low", b"low", b"normal", b"high"))


class Intake:
    """Judges pushes. Headers come with lower-case names."""

    def __init__(
        self,
        *,
        origin: str,
        seed: bytes,
        vapid: VapidCheck,
        behaviour: Behaviour,
        ledger: Ledger,
        verify_share: float,
        drip_seconds: float,
        now: Callable[[], float],
    ) -> None:
        self._seed = seed
        self._vapid = vapid
        self._behaviour = behaviour
        self._ledger = ledger
        self._verify_share = verify_share
        self._drip_seconds = drip_seconds
        self._now = now
        self._location = f"Location: {origin}/message/"
        self._created = f"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n{self._location}".encode() + b"%d\r\n\r\n"

    def push(self, path: bytes, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        """Return the answer to a push; `path` is what follows `/push/`, without a query."""
        at = self._now()
        self._ledger.arrive(at)
        named = _device_of(path)
        if named is None:
            return self._refuse("", Refusal(404, "unknown_device", "the path must be /push/{device}"), at)
        spec, device = named
        rule = None
        if spec is not None or self._behaviour.active:
            try:
                rule = self._behaviour.find(device, spec)
            except Invalid as error:
                return self._refuse(device, Refusal(400, "behaviour", error.message), at)
        if rule is None:
            return self._judge(device, headers, body, at, None)
        return self._play(device, headers, body, at, rule)

    def _play(self, device: str, headers: Mapping[bytes, bytes], body: bytes, at: float, rule: Rule) -> Answer:
        if rule.hang:
            self._ledger.answered("hang")
            return hang
        if rule.status is not None and rule.status >= 300:
            self._ledger.answered(str(rule.status))
            answer = _told(rule, rule.status, "")
        else:
            answer = self._judge(device, headers, body, at, rule)
            if rule.lost:
                return lose
        if rule.drip:
            return dripped(answer, self._drip_seconds)
        return delayed(answer, rule.delay_ms) if rule.delay_ms else answer

    def _judge(self, device: str, headers: Mapping[bytes, bytes], body: bytes, at: float, rule: Rule | None) -> bytes:
        refusal = refuse_request(headers, body) or self._vapid.refuse(headers.get(b"authorization"), device, at)
        verified = False
        if refusal is None and self._is_checked(device):
            refusal = self.refuse_message(device, body)
            verified = refusal is None
        if refusal is not None:
            return self._refuse(device, refusal, at)
        topic = headers.get(b"topic", b"").decode("ascii")
        number = self._ledger.accept(device, topic, body, at, verified=verified)
        if rule is None:
            self._ledger.answered("201")
            return self._created % number
        status = rule.status or 201
        self._ledger.answered("lost" if rule.lost else str(status))
        return _told(rule, status, f"{self._location}{number}\r\n")

    def refuse_message(self, device: str, body: bytes) -> Refusal | None:
        """Return why the device could not show the message, or None if it can."""
        try:
            read_payload(decrypt(receiver(self._seed, device), body))
        except Undecryptable as error:
            return Refusal(400, "undecryptable", str(error))
        except NotDeclarative as error:
            return Refusal(400, "payload", str(error))
        return None

    def _is_checked(self, device: str) -> bool:
        share = self._verify_share
        return share >= 1 or (share > 0 and fraction(f"verify {device}") < share)

    def _refuse(self, device: str, refusal: Refusal, at: float) -> bytes:
        self._ledger.refuse(device, refusal, at)
        return json_response(refusal.status, {"reason": refusal.reason, "message": refusal.message})


def refuse_request(headers: Mapping[bytes, bytes], body: bytes) -> Refusal | None:
    """Return what is wrong with the request before anybody asks who sent it (RFC 8030 §5, RFC 8291 §4), or None."""
    if len(body) > MAX_BODY:
        return Refusal(413, "too_large", f"the body is larger than {MAX_BODY} bytes")
    ttl = headers.get(b"ttl")
    if ttl is None:
        return Refusal(400, "ttl_missing", "the TTL header is missing (RFC 8030 §5.2)")
    if not ttl.isdigit():
        return Refusal(400, "ttl_malformed", "TTL must be a number of seconds (RFC 8030 §5.2)")
    if headers.get(b"content-encoding", b"").lower() != b"aes128gcm":
        return Refusal(400, "content_encoding", "Content-Encoding must be aes128gcm (RFC 8291 §4)")
    topic = headers.get(b"topic")
    if topic is not None and not _TOPIC.match(topic):
        return Refusal(400, "topic", "Topic must be 1 to 32 base64url characters (RFC 8030 §5.4)")
    urgency = headers.get(b"urgency")
    if urgency is not None and urgency.lower() not in _URGENCIES:
        return Refusal(400, "urgency", "Urgency must be very-low, low, normal or high (RFC 8030 §5.3)")
    return None


def _device_of(path: bytes) -> tuple[str | None, str] | None:
    """Return (behaviour, device) of `!429;retry-after=3/device` or `device`; None if it is neither."""
    try:
        text = path.decode("ascii")
    except UnicodeDecodeError:
        return None
    spec: str | None = None
    if text.startswith("!"):
        spec, _, text = text[1:].partition("/")
    device = unquote(text) if "%" in text else text
    return (spec, device) if "/" not in text and is_device_id(device) else None


def _told(rule: Rule, status: int, location: str) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in rule.headers.items())
    if rule.retry_after is not None:
        lines += f"Retry-After: {rule.retry_after}\r\n"
    if isinstance(rule.body, str):
        return response(status, rule.body.encode(), lines + location, "text/plain; charset=utf-8")
    if rule.body is None and status < 300:
        return response(status, b"", lines + location)
    told = {"reason": "behaviour", "message": f"{status} as asked for"} if rule.body is None else rule.body
    return response(status, msgspec.json.encode(told), lines + location)
