"""POST /push/{device}: validates a push, records it and applies the simulated response of a rule."""

import re
from collections.abc import Callable, Mapping
from urllib.parse import unquote

import msgspec

from tidings.errors import ValidationFailed
from tidings.mockpush.behaviour import Behaviour, ResponseRule, hash_fraction
from tidings.mockpush.decrypt import Undecryptable, decrypt
from tidings.mockpush.devices import is_device_id, load_receiver
from tidings.mockpush.payload import NotDeclarative, read_payload
from tidings.mockpush.receipt_log import ReceiptLog
from tidings.mockpush.responses import (
    MockResponse,
    Refusal,
    build_json_response,
    build_response,
    delay_response,
    drip_response,
    drop_connection,
    hang,
)
from tidings.mockpush.vapid import VapidVerifier

#: maximum bytes of a body; push services must accept at least this size (RFC 8030 §7.2)
MAX_BODY = 4096

_TOPIC = re.compile(rb"[A-Za-z0-9_-]{1,32}\Z")
_URGENCIES = frozenset((b"very-low", b"low", b"normal", b"high"))


class PushRoute:
    """Handles pushes. Header names must be in lower case."""

    def __init__(
        self,
        *,
        origin: str,
        seed: bytes,
        vapid: VapidVerifier,
        behaviour: Behaviour,
        receipt_log: ReceiptLog,
        verify_share: float,
        drip_seconds: float,
        now: Callable[[], float],
    ) -> None:
        self._seed = seed
        self._vapid = vapid
        self._behaviour = behaviour
        self._receipt_log = receipt_log
        self._verify_share = verify_share
        self._drip_seconds = drip_seconds
        self._now = now
        self._location = f"Location: {origin}/message/"
        self._created = f"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n{self._location}".encode() + b"%d\r\n\r\n"

    def handle(self, path: bytes, headers: Mapping[bytes, bytes], body: bytes) -> MockResponse:
        """Return the response to a push; `path` is the part after `/push/`, without a query."""
        at = self._now()
        self._receipt_log.count_received(at)
        parsed = _parse_path(path)
        if parsed is None:
            return self._refuse("", Refusal(404, "unknown_device", "the path must be /push/{device}"), at)
        spec, device = parsed
        rule = None
        if spec is not None or self._behaviour.is_active:
            try:
                rule = self._behaviour.find(device, spec)
            except ValidationFailed as error:
                return self._refuse(device, Refusal(400, "behaviour", error.message), at)
        if rule is None:
            return self._accept_or_refuse(device, headers, body, at, None)
        return self._apply_rule(device, headers, body, at, rule)

    def _apply_rule(
        self, device: str, headers: Mapping[bytes, bytes], body: bytes, at: float, rule: ResponseRule
    ) -> MockResponse:
        if rule.hang:
            self._receipt_log.count_response("hang")
            return hang
        if rule.status is not None and rule.status >= 300:
            self._receipt_log.count_response(str(rule.status))
            response = _build_rule_response(rule, rule.status, "")
        else:
            response = self._accept_or_refuse(device, headers, body, at, rule)
            if rule.lost:
                return drop_connection
        if rule.drip:
            return drip_response(response, self._drip_seconds)
        return delay_response(response, rule.delay_ms) if rule.delay_ms else response

    def _accept_or_refuse(
        self, device: str, headers: Mapping[bytes, bytes], body: bytes, at: float, rule: ResponseRule | None
    ) -> bytes:
        refusal = check_request(headers, body) or self._vapid.check_authorization(
            headers.get(b"authorization"), device, at
        )
        verified = False
        if refusal is None and self._is_verified_device(device):
            refusal = self.check_message(device, body)
            verified = refusal is None
        if refusal is not None:
            return self._refuse(device, refusal, at)
        topic = headers.get(b"topic", b"").decode("ascii")
        number = self._receipt_log.record_accepted(device, topic, body, at, verified=verified)
        if rule is None:
            self._receipt_log.count_response("201")
            return self._created % number
        status = rule.status or 201
        self._receipt_log.count_response("lost" if rule.lost else str(status))
        return _build_rule_response(rule, status, f"{self._location}{number}\r\n")

    def check_message(self, device: str, body: bytes) -> Refusal | None:
        """Return why the device cannot show the message, or None if it can."""
        try:
            read_payload(decrypt(load_receiver(self._seed, device), body))
        except Undecryptable as error:
            return Refusal(400, "undecryptable", str(error))
        except NotDeclarative as error:
            return Refusal(400, "payload", str(error))
        return None

    def _is_verified_device(self, device: str) -> bool:
        share = self._verify_share
        return share >= 1 or (share > 0 and hash_fraction(f"verify {device}") < share)

    def _refuse(self, device: str, refusal: Refusal, at: float) -> bytes:
        self._receipt_log.record_refusal(device, refusal, at)
        return build_json_response(refusal.status, {"reason": refusal.reason, "message": refusal.message})


def check_request(headers: Mapping[bytes, bytes], body: bytes) -> Refusal | None:
    """Check everything but the sender's identity (RFC 8030 §5, RFC 8291 §4). Returns None for a valid request."""
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


def _parse_path(path: bytes) -> tuple[str | None, str] | None:
    """Return (behaviour, device) of `!429;retry-after=3/device` or `device`; None for any other path."""
    try:
        text = path.decode("ascii")
    except UnicodeDecodeError:
        return None
    spec: str | None = None
    if text.startswith("!"):
        spec, _, text = text[1:].partition("/")
    device = unquote(text) if "%" in text else text
    return (spec, device) if "/" not in text and is_device_id(device) else None


def _build_rule_response(rule: ResponseRule, status: int, location: str) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in rule.headers.items())
    if rule.retry_after is not None:
        lines += f"Retry-After: {rule.retry_after}\r\n"
    if isinstance(rule.body, str):
        return build_response(status, rule.body.encode(), lines + location, "text/plain; charset=utf-8")
    if rule.body is None and status < 300:
        return build_response(status, b"", lines + location)
    body = {"reason": "behaviour", "message": f"{status} as requested"} if rule.body is None else rule.body
    return build_response(status, msgspec.json.encode(body), lines + location)
