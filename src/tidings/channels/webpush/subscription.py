"""What a browser sends when it subscribes, `PushSubscription.toJSON()`, checked field by field (W3C Push API §8)."""

from collections.abc import Mapping
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from tidings.channels.webpush import base64url
from tidings.channels.webpush.encryption import AUTH_LENGTH, KEY_LENGTH
from tidings.channels.webpush.endpoints import EndpointPolicy
from tidings.errors import Fault, Invalid

_CURVE = ec.SECP256R1()


class DeviceKeys(NamedTuple):
    """What is needed to push to one browser."""

    endpoint: str
    #: 65 bytes, a point of P-256
    p256dh: bytes
    #: 16 bytes
    auth: bytes


def parse_subscription(body: object, policy: EndpointPolicy) -> DeviceKeys:
    """Return endpoint and keys of a subscription's JSON; other fields are the caller's business.

    Raises Invalid with one fault per wrong field: `endpoint`, `keys.p256dh`, `keys.auth`, `expirationTime`.
    """
    if not isinstance(body, Mapping):
        raise Invalid("the body must be the JSON of PushSubscription.toJSON()", faults=[Fault("", "is not an object")])
    keys = body.get("keys")
    faults: list[Fault] = []
    endpoint = _endpoint(body.get("endpoint"), policy, faults)
    p256dh = auth = b""
    if isinstance(keys, Mapping):
        p256dh = _public_key(keys.get("p256dh"), faults)
        auth = _secret(keys.get("auth"), faults)
    else:
        faults.append(Fault("keys", "must be an object with p256dh and auth"))
    _check_expiration(body.get("expirationTime"), faults)
    if faults:
        raise Invalid.of(faults)
    return DeviceKeys(endpoint, p256dh, auth)


def _endpoint(value: object, policy: EndpointPolicy, faults: list[Fault]) -> str:
    if not isinstance(value, str):
        faults.append(Fault("endpoint", "must be the URL the browser was given"))
        return ""
    try:
        policy.check(value)
    except Invalid as invalid:
        faults.extend(invalid.faults)
    return value


def _public_key(value: object, faults: list[Fault]) -> bytes:
    raw = _bytes("keys.p256dh", value, KEY_LENGTH, faults)
    if raw:
        try:
            ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, raw)
        except ValueError:
            faults.append(Fault("keys.p256dh", "must be an uncompressed point on the curve P-256"))
    return raw


def _secret(value: object, faults: list[Fault]) -> bytes:
    return _bytes("keys.auth", value, AUTH_LENGTH, faults)


def _bytes(field: str, value: object, length: int, faults: list[Fault]) -> bytes:
    """Return the decoded bytes, empty when they are wrong."""
    if not isinstance(value, str):
        faults.append(Fault(field, f"must be a string: {length} bytes in base64url"))
        return b""
    # longer than any right answer in any padding: refused before it costs anything
    if len(value) > 2 * length:
        faults.append(Fault(field, f"must be {length} bytes in base64url"))
        return b""
    try:
        raw = base64url.decode(value)
    except ValueError as error:
        faults.append(Fault(field, f"{error}; it must be {length} bytes in base64url"))
        return b""
    if len(raw) != length:
        faults.append(Fault(field, f"must be {length} bytes in base64url, not {len(raw)}"))
        return b""
    return raw


def _check_expiration(value: object, faults: list[Fault]) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        faults.append(Fault("expirationTime", "must be null or milliseconds since 1970"))
