"""Validation of `PushSubscription.toJSON()`, which a browser sends when it subscribes (W3C Push API §8)."""

from collections.abc import Mapping
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from tidings.channels.webpush import base64url
from tidings.channels.webpush.encryption import AUTH_LENGTH, KEY_LENGTH
from tidings.channels.webpush.endpoint_allowlist import EndpointPolicy
from tidings.errors import FieldError, ValidationFailed

_CURVE = ec.SECP256R1()


class DeviceKeys(NamedTuple):
    """The endpoint and the keys of one push subscription."""

    endpoint: str
    #: 65 bytes, a point of P-256
    p256dh: bytes
    #: 16 bytes
    auth: bytes


def parse_subscription(body: object, policy: EndpointPolicy) -> DeviceKeys:
    """Return endpoint and keys of a subscription's JSON. Other fields are ignored.

    Raises ValidationFailed with one error per invalid field: `endpoint`, `keys.p256dh`, `keys.auth`, `expirationTime`.
    """
    if not isinstance(body, Mapping):
        raise ValidationFailed(
            "the body must be the JSON of PushSubscription.toJSON()", field_errors=[FieldError("", "is not an object")]
        )
    keys = body.get("keys")
    field_errors: list[FieldError] = []
    endpoint = _parse_endpoint(body.get("endpoint"), policy, field_errors)
    p256dh = auth = b""
    if isinstance(keys, Mapping):
        p256dh = _parse_public_key(keys.get("p256dh"), field_errors)
        auth = _parse_auth_secret(keys.get("auth"), field_errors)
    else:
        field_errors.append(FieldError("keys", "must be an object with p256dh and auth"))
    _check_expiration(body.get("expirationTime"), field_errors)
    if field_errors:
        raise ValidationFailed.from_errors(field_errors)
    return DeviceKeys(endpoint, p256dh, auth)


def _parse_endpoint(value: object, policy: EndpointPolicy, field_errors: list[FieldError]) -> str:
    if not isinstance(value, str):
        field_errors.append(FieldError("endpoint", "must be the endpoint URL of the push subscription"))
        return ""
    try:
        policy.check(value)
    except ValidationFailed as invalid:
        field_errors.extend(invalid.field_errors)
    return value


def _parse_public_key(value: object, field_errors: list[FieldError]) -> bytes:
    raw = _decode_bytes("keys.p256dh", value, KEY_LENGTH, field_errors)
    if raw:
        try:
            ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, raw)
        except ValueError:
            field_errors.append(FieldError("keys.p256dh", "must be an uncompressed point on the curve P-256"))
    return raw


def _parse_auth_secret(value: object, field_errors: list[FieldError]) -> bytes:
    return _decode_bytes("keys.auth", value, AUTH_LENGTH, field_errors)


def _decode_bytes(field: str, value: object, length: int, field_errors: list[FieldError]) -> bytes:
    """Return the decoded bytes, or empty bytes and a field error if they are invalid."""
    if not isinstance(value, str):
        field_errors.append(FieldError(field, f"must be a string: {length} bytes in base64url"))
        return b""
    # longer than any valid value: rejected before decoding
    if len(value) > 2 * length:
        field_errors.append(FieldError(field, f"must be {length} bytes in base64url"))
        return b""
    try:
        raw = base64url.decode(value)
    except ValueError as error:
        field_errors.append(FieldError(field, f"{error}; it must be {length} bytes in base64url"))
        return b""
    if len(raw) != length:
        field_errors.append(FieldError(field, f"must be {length} bytes in base64url, not {len(raw)}"))
        return b""
    return raw


def _check_expiration(value: object, field_errors: list[FieldError]) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        field_errors.append(FieldError("expirationTime", "must be null or milliseconds since 1970"))
