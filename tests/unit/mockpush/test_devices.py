"""Simulated devices are derived from the seed and the id alone."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tidings.errors import ValidationFailed
from tidings.mockpush import derive_device, subscription_json
from tidings.mockpush.base64url import decode


def test_the_same_seed_and_id_give_the_same_keys() -> None:
    assert derive_device(b"seed", "u1-1") == derive_device(b"seed", "u1-1")


def test_known_keys_never_change_between_versions() -> None:
    device = derive_device(b"seed", "u1-1")
    assert device.p256dh.hex()[:24] == "0497f235d61adc5eaf5f4942"
    assert device.auth.hex() == "2022127e3968685e1478227a7a2715e1"


@pytest.mark.parametrize(("seed", "device_id"), [(b"other", "u1-1"), (b"seed", "u1-2"), (b"seedu", "1-1")])
def test_another_seed_or_id_gives_other_keys(seed: bytes, device_id: str) -> None:
    one, other = derive_device(b"seed", "u1-1"), derive_device(seed, device_id)
    assert one.private != other.private
    assert one.auth != other.auth


def test_keys_have_the_form_a_browser_gives_them() -> None:
    device = derive_device(b"seed", "u1-1")
    assert len(device.p256dh) == 65
    assert len(device.auth) == 16
    ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), device.p256dh)


def test_a_subscription_names_the_endpoint_and_the_keys() -> None:
    subscription = subscription_json("http://127.0.0.1:1", b"seed", "a b/c")
    assert subscription["endpoint"] == "http://127.0.0.1:1/push/a%20b%2Fc"
    assert decode(subscription["keys"]["p256dh"]) == derive_device(b"seed", "a b/c").p256dh


@pytest.mark.parametrize("device_id", ["", "x" * 201, "a\nb"])
def test_an_id_that_cannot_be_logged_is_refused(device_id: str) -> None:
    with pytest.raises(ValidationFailed):
        derive_device(b"seed", device_id)
