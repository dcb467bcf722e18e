"""Simulated responses: selects the response to a push by its path or by rules that are set at run time."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated
from urllib.parse import unquote

import msgspec
from msgspec import Meta

from tidings.errors import ValidationFailed


class ResponseRule(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """A simulated response. In JSON: `{"status": 429, "retryAfter": 2, "share": 0.2, "times": 3}`."""

    #: HTTP status; below 300 the message is accepted, from 300 on it is not; None = 201
    status: Annotated[int, Meta(ge=200, le=599)] | None = None
    #: `Retry-After`: seconds, or any text such as an HTTP date
    retry_after: int | str | None = None
    #: response body: text, or any JSON
    body: object = None
    #: additional response headers
    headers: Mapping[str, str] = {}
    #: milliseconds before the response
    delay_ms: Annotated[int, Meta(ge=0, le=600_000)] = 0
    #: never respond; the message is not accepted
    hang: bool = False
    #: send the response one byte at a time
    drip: bool = False
    #: accept the message, then close the connection without a response
    lost: bool = False
    #: only this device
    device: str | None = None
    #: only this share of the devices, 0 to 1, chosen by a hash of the device id; shares of several rules do not overlap
    share: Annotated[float, Meta(ge=0, le=1)] | None = None
    #: only the first n requests of each device
    times: Annotated[int, Meta(ge=1)] | None = None


class _Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rules: tuple[ResponseRule, ...]


class Behaviour:
    """The current rules. The first matching rule applies; a behaviour in the path takes precedence."""

    def __init__(self) -> None:
        self.is_active = False
        self._rules: tuple[tuple[ResponseRule, float, float], ...] = ()
        self._use_counts: dict[tuple[str, str], int] = {}

    def set_rules(self, rules: Sequence[ResponseRule]) -> None:
        """Replace all rules. Raises ValidationFailed when a header cannot be sent or the shares exceed 1."""
        self._rules = tuple(_assign_slices(rules))
        self._use_counts.clear()
        self.is_active = bool(rules)

    def clear(self) -> None:
        """Remove all rules, so that every valid message is accepted."""
        self.set_rules(())

    def find(self, device: str, spec: str | None = None) -> ResponseRule | None:
        """Return the rule for a request of the device; `spec` is a behaviour in the path, such as `429;retry-after=3`.

        Raises ValidationFailed for an invalid spec.
        """
        if spec is not None:
            rule = parse_spec(spec)
            return rule if self._consume_use(rule, spec, device) else None
        fraction: float | None = None
        for index, (rule, low, high) in enumerate(self._rules):
            if rule.device is not None and rule.device != device:
                continue
            if rule.share is not None:
                fraction = hash_fraction(device) if fraction is None else fraction
                if not low <= fraction < high:
                    continue
            if self._consume_use(rule, str(index), device):
                return rule
        return None

    def _consume_use(self, rule: ResponseRule, name: str, device: str) -> bool:
        if rule.times is None:
            return True
        use_count = self._use_counts.get((name, device), 0)
        if use_count >= rule.times:
            return False
        self._use_counts[name, device] = use_count + 1
        return True


def parse_rules(body: bytes) -> tuple[ResponseRule, ...]:
    """Return the rules of `{"rules": […]}`. Raises ValidationFailed naming the invalid member."""
    try:
        return msgspec.json.decode(body, type=_Rules).rules
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValidationFailed.for_field("rules", str(error)) from None


@lru_cache(maxsize=1024)
def parse_spec(spec: str) -> ResponseRule:
    """Return the rule of a path: `410`, `429;retry-after=3`, `hang`, `drip`, `lost`, `delay-ms=50;times=2`.

    Raises ValidationFailed for unknown words.
    """
    members: dict[str, object] = {}
    for word in unquote(spec).split(";"):
        name, _, value = word.partition("=")
        if word in ("hang", "drip", "lost"):
            members[word] = True
        elif word.isascii() and word.isdigit():
            members["status"] = int(word)
        elif name == "retry-after":
            members["retryAfter"] = value
        elif name in ("times", "delay-ms") and value.isascii() and value.isdigit():
            members["times" if name == "times" else "delayMs"] = int(value)
        else:
            raise ValidationFailed.for_field(
                "path",
                f"{word!r} is not a behaviour; use a status, hang, drip, lost, retry-after=…, delay-ms=… or times=…",
            )
    try:
        rule = msgspec.convert(members, ResponseRule)
    except msgspec.ValidationError as error:
        raise ValidationFailed.for_field("path", str(error)) from None
    _check_headers(rule)
    return rule


def hash_fraction(text: str) -> float:
    """Return a uniformly distributed hash of the text in [0, 1)."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest()) / 2**56


def _assign_slices(rules: Sequence[ResponseRule]) -> Sequence[tuple[ResponseRule, float, float]]:
    # Each share gets the next slice of [0, 1), so that the shares of two rules never overlap.
    sliced, low = [], 0.0
    for rule in rules:
        _check_headers(rule)
        high = low + (rule.share or 0.0)
        sliced.append((rule, low, high))
        low = high
    if low > 1.000001:
        raise ValidationFailed.for_field("rules", f"the sum of the shares is {low:g}, the maximum is 1")
    return sliced


def _check_headers(rule: ResponseRule) -> None:
    for text in (*rule.headers, *rule.headers.values(), str(rule.retry_after)):
        if not text.isascii() or not text.isprintable():
            raise ValidationFailed.for_field("headers", "names and values must be printable ASCII")
    if any(not name.replace("-", "").isalnum() for name in rule.headers):
        raise ValidationFailed.for_field("headers", "names must be letters, digits and hyphens")
