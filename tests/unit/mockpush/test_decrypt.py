"""Decryption against the vectors of RFC 8291 and against `http_ece`."""

import http_ece
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from tidings.mockpush.base64url import decode
from tidings.mockpush.decrypt import Undecryptable, decrypt
from tidings.mockpush.devices import Receiver, SimulatedDevice, load_receiver

BODY = (
    "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_"
    "yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
)


def rfc_receiver() -> Receiver:
    scalar = int.from_bytes(decode("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"))
    public = decode("BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4")
    device = SimulatedDevice(scalar, public, decode("BTBZMqHH6r4Tts7J_aSIgg"))
    return Receiver(device, ec.derive_private_key(scalar, ec.SECP256R1()))


def test_the_example_of_rfc_8291_is_read() -> None:
    assert decrypt(rfc_receiver(), decode(BODY)) == b"When I grow up, I want to be a watermelon"


# http_ece writes no record for an empty text, which RFC 8188 §2 does not allow
@given(plaintext=st.binary(min_size=1, max_size=3000))
def test_what_http_ece_encrypts_is_read(plaintext: bytes) -> None:
    target = load_receiver(b"seed", "u1-1")
    body = http_ece.encrypt(
        plaintext,
        private_key=ec.generate_private_key(ec.SECP256R1()),
        dh=target.device.p256dh,
        auth_secret=target.device.auth,
        version="aes128gcm",
    )
    assert decrypt(target, body) == plaintext


@given(st.binary(max_size=300))
def test_garbage_is_refused_and_nothing_else_happens(body: bytes) -> None:
    with pytest.raises(Undecryptable):
        decrypt(load_receiver(b"seed", "u1-1"), body)


@given(st.integers(0, 8 * 144 - 1))
def test_no_single_bit_can_be_changed(bit: int) -> None:
    body = bytearray(decode(BODY))
    body[bit // 8] ^= 1 << bit % 8
    # The record size (bytes 16 to 19) is the one part outside the authenticated data.
    if 16 <= bit // 8 < 20:
        return
    with pytest.raises(Undecryptable):
        decrypt(rfc_receiver(), bytes(body))


def test_a_point_off_the_curve_is_refused() -> None:
    body = bytearray(decode(BODY))
    body[21:86] = b"\x04" + b"\x01" * 64
    with pytest.raises(Undecryptable, match="not a point"):
        decrypt(rfc_receiver(), bytes(body))


def test_two_records_are_refused() -> None:
    target = load_receiver(b"seed", "u1-1")
    body = http_ece.encrypt(
        b"x" * 100,
        private_key=ec.generate_private_key(ec.SECP256R1()),
        dh=target.device.p256dh,
        auth_secret=target.device.auth,
        rs=64,
        version="aes128gcm",
    )
    with pytest.raises(Undecryptable, match="one record"):
        decrypt(target, body)
