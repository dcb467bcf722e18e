"""Behaviour on demand: which answer a device's push gets, chosen by path or by rules set at run time."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated
from urllib.parse import unquote

import msgspec
from msgspec import Meta

from tidings.errors import Invalid


class Rule(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """One way to answer. In JSON: `{"status": 429, "retryAfter": 2, "share": 0.2, "times": 3}`."""

    #: HTTP status; below 300 the message is taken, from 300 on it is not; None = 201
    status: Annotated[int, Meta(ge=200, le=599)] | None = None
    #: `Retry-After`: seconds, or any text such as an HTTP date
    retry_after: int | str | None = None
    #: answer body: text, or any JSON
    body: object = None
    #: more answer headers
    headers: Mapping[str, str] = {}
    #: milliseconds before the answer
    delay_ms: Annotated[int, Meta(ge=0, le=600_000)] = 0
    #: never answer; the message is not taken
    hang: bool = False
    #: answer a byte at a time
    drip: bool = False
    #: take the message, then drop the connection without an answer
    lost: bool = False
    #: only this device
    device: str | None = None
    #: only this share of the devices, 0 to 1, chosen by a hash of the device id; shares of several rules do not overlap
    share: Annotated[float, Meta(ge=0, le=1)] | None = None
    #: only the first n requests of each device
    times: Annotated[int, Meta(ge=1)] | None = None


class _Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rules: tuple[Rule, ...]


class Behaviour:
    """The rules in force. The first that fits a request decides; a behaviour in the path comes before them."""

    def __init__(self) -> None:
        self.active = False
        self._rules: tuple[tuple[Rule, float, float], ...] = ()
        self._spent: dict[tuple[str, str], int] = {}

    def set_rules(self, rules: Sequence[Rule]) -> None:
        """Replace all rules. Raises Invalid when a header cannot be sent or the shares exceed 1."""
        self._rules = tuple(_slices(rules))
        self._spent.clear()
        self.active = bool(rules)

    def clear(self) -> None:
        """Remove all rules: every good message is taken again."""
        self.set_rules(())

    def find(self, device: str, spec: str | None = None) -> Rule | None:
        """Return the rule for a request of the device; `spec` is the path's own, such as `429;retry-after=3`.

        Raises Invalid for a spec that cannot be read.
        """
        if spec is not None:
            rule = parse_spec(spec)
            return rule if self._has_turns(rule, spec, device) else None
        place: float | None = None
        for index, (rule, low, high) in enumerate(self._rules):
            if rule.device is not None and rule.device != device:
                continue
            if rule.share is not None:
                place = fraction(device) if place is None else place
                if not low <= place < high:
                    continue
            if self._has_turns(rule, str(index), device):
                return rule
        return None

    def _has_turns(self, rule: Rule, name: str, device: str) -> bool:
        if rule.times is None:
            return True
        spent = self._spent.get((name, device), 0)
        if spent >= rule.times:
            return False
        self._spent[name, device] = spent + 1
        return True


def read_rules(body: bytes) -> tuple[Rule, ...]:
    """Return the rules of `{"rules": […]}`. Raises Invalid, naming the member that is wrong."""
    try:
        return msgspec.json.decode(body, type=_Rules).rules
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid.field("rules", str(error)) from None


@lru_cache(maxsize=1024)
def parse_spec(spec: str) -> Rule:
    """Return the rule a path asks for: `410`, `429;retry-after=3`, `hang`, `drip`, `lost`, `delay-ms=50;times=2`.

    Raises Invalid for unknown words.
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
            raise Invalid.field(
                "path",
                f"{word!r} is no behaviour: use a status, hang, drip, lost, retry-after=…, delay-ms=… or times=…",
            )
    try:
        rule = msgspec.convert(members, Rule)
    except msgspec.ValidationError as error:
        raise Invalid.field("path", str(error)) from None
    _check_headers(rule)
    return rule


def fraction(text: str) -> float:
    """Return where in [0, 1) a text falls; evenly spread, and always the same for the same text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest()) / 2**56


def _slices(rules: Sequence[Rule]) -> Sequence[tuple[Rule, float, float]]:
    # Each share takes the next slice of [0, 1), so that two rules never compete for the same devices.
    sliced, low = [], 0.0
    for rule in rules:
        _check_headers(rule)
        high = low + (rule.share or 0.0)
        sliced.append((rule, low, high))
        low = high
    if low > 1.000001:
        raise Invalid.field("rules", f"the shares add up to {low:g}, at most 1 is possible")
    return sliced


def _check_headers(rule: Rule) -> None:
    for text in (*rule.headers, *rule.headers.values(), str(rule.retry_after)):
        if not text.isascii() or not text.isprintable():
            raise Invalid.field("headers", "names and values must be printable ASCII")
    if any(not name.replace("-", "").isalnum() for name in rule.headers):
        raise Invalid.field("headers", "names must be letters, digits and hyphens")
