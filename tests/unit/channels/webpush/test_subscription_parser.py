"""Parsing of a browser's push subscription."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from tidings.channels.webpush import EndpointPolicy, base64url, parse_subscription
from tidings.errors import ValidationFailed

POLICY = EndpointPolicy()
POINT = (
    ec.derive_private_key(7, ec.SECP256R1()).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
)
AUTH = bytes(range(16))
ENDPOINT = "https://fcm.googleapis.com/fcm/send/abc"


def body(**changes: object) -> dict[str, object]:
    keys: dict[str, object] = {"p256dh": base64url.encode(POINT), "auth": base64url.encode(AUTH)}
    whole: dict[str, object] = {"endpoint": ENDPOINT, "expirationTime": None, "keys": keys}
    for name, value in changes.items():
        (keys if name in keys else whole)[name] = value
    return whole


def errors(value: object) -> list[str]:
    with pytest.raises(ValidationFailed) as raised:
        parse_subscription(value, POLICY)
    return [error.field for error in raised.value.field_errors]


def test_a_browsers_json_is_parsed() -> None:
    assert parse_subscription(body(), POLICY) == (ENDPOINT, POINT, AUTH)


def test_padding_makes_no_difference() -> None:
    padded = body(p256dh=base64url.encode(POINT) + "=", auth=base64url.encode(AUTH) + "==")
    assert parse_subscription(padded, POLICY) == (ENDPOINT, POINT, AUTH)


def test_additional_fields_and_an_expiry_are_allowed() -> None:
    assert parse_subscription(body(device="Firefox", replaces=ENDPOINT, expirationTime=1.7e12), POLICY).auth == AUTH


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"endpoint": None}, "endpoint"),
        ({"endpoint": 5}, "endpoint"),
        ({"endpoint": "http://fcm.googleapis.com/x"}, "endpoint"),
        ({"endpoint": "https://evil.example/x"}, "endpoint"),
        ({"keys": None}, "keys"),
        ({"keys": [1]}, "keys"),
        ({"p256dh": None}, "keys.p256dh"),
        ({"p256dh": ""}, "keys.p256dh"),
        ({"p256dh": "ä"}, "keys.p256dh"),
        ({"p256dh": "a" * 100_000}, "keys.p256dh"),
        ({"p256dh": base64url.encode(POINT[:-1])}, "keys.p256dh"),
        ({"p256dh": base64url.encode(POINT + b"\x00")}, "keys.p256dh"),
        ({"p256dh": base64url.encode(POINT[:-1] + bytes([POINT[-1] ^ 1]))}, "keys.p256dh"),
        ({"p256dh": base64url.encode(bytes(65))}, "keys.p256dh"),
        ({"p256dh": base64url.encode(b"\x04" + bytes(64))}, "keys.p256dh"),
        ({"p256dh": base64url.encode(b"\x06" + POINT[1:])}, "keys.p256dh"),
        ({"auth": 16}, "keys.auth"),
        ({"auth": base64url.encode(AUTH[:-1])}, "keys.auth"),
        ({"auth": base64url.encode(AUTH + b"x")}, "keys.auth"),
        ({"auth": "AAECAwQFBgcICQoLDA0OD+=="}, "keys.auth"),
        ({"auth": "AAECAwQFBgcICQoLDA0OD!"}, "keys.auth"),
        ({"expirationTime": "soon"}, "expirationTime"),
        ({"expirationTime": True}, "expirationTime"),
    ],
)
def test_one_wrong_field_is_named(changes: dict[str, object], field: str) -> None:
    assert errors(body(**changes)) == [field]


def test_all_wrong_fields_are_named_at_once() -> None:
    assert errors(body(endpoint="", p256dh="x", auth="x")) == ["endpoint", "keys.p256dh", "keys.auth"]


@pytest.mark.parametrize("value", [None, [], "x", 7])
def test_a_body_that_is_no_object_is_refused(value: object) -> None:
    assert errors(value) == [""]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["endpoint", "keys", "p256dh", "auth"]), inner),
)


@given(json_values)
def test_no_json_raises_anything_but_invalid(value: object) -> None:
    with pytest.raises(ValidationFailed):
        parse_subscription(value, POLICY)


@given(st.binary(max_size=100))
def test_base64url_round_trips(raw: bytes) -> None:
    assert base64url.decode(base64url.encode(raw)) == raw
