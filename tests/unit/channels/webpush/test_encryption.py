"""Encryption against the vectors of the RFCs and an independent decoder."""

import http_ece
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from tidings.channels.webpush import base64url
from tidings.channels.webpush.encryption import MAX_PLAINTEXT, encrypt, encrypt_record

CURVE = ec.SECP256R1()
#: RFC 8291 Appendix A
PLAINTEXT = b"When I grow up, I want to be a watermelon"
AS_PRIVATE = "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"
UA_PUBLIC = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
SALT = "DGv6ra1nlYgDCS1FRnbzlw"
AUTH = "BTBZMqHH6r4Tts7J_aSIgg"
BODY = (
    "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_"
    "yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
)


def private_key(scalar: int) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(scalar, CURVE)


def public_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def test_rfc_8291_appendix_a() -> None:
    body = encrypt(
        PLAINTEXT,
        base64url.decode(UA_PUBLIC),
        base64url.decode(AUTH),
        salt=base64url.decode(SALT),
        private_key=private_key(int.from_bytes(base64url.decode(AS_PRIVATE), "big")),
    )
    assert base64url.encode(body) == BODY
    assert len(body) == 144


def test_rfc_8188_section_3_1() -> None:
    salt = base64url.decode("I1BsxtFttlv3u_Oo94xnmw")
    record = encrypt_record(b"I am the walrus", salt, base64url.decode("yqdlZ-tYemfogSmv7Ws5PQ"))
    header = salt + (4096).to_bytes(4, "big") + b"\x00"
    assert base64url.encode(header + record) == (
        "I1BsxtFttlv3u_Oo94xnmwAAEAAA-NAVub2qFgBEuQKRapoZu-IxkIva3MEB1PD-ly8Thjg"
    )


@settings(max_examples=60, deadline=None)
@given(
    plaintext=st.binary(max_size=MAX_PLAINTEXT),
    scalar=st.integers(1, 2**255),
    auth=st.binary(min_size=16, max_size=16),
)
def test_an_independent_decoder_reads_every_byte(plaintext: bytes, scalar: int, auth: bytes) -> None:
    device = private_key(scalar)
    body = encrypt(plaintext, public_bytes(device), auth)
    assert http_ece.decrypt(body, private_key=device, auth_secret=auth, version="aes128gcm") == plaintext


def test_each_message_has_its_own_key_pair_and_salt() -> None:
    device = public_bytes(private_key(7))
    bodies = [encrypt(b"x", device, bytes(16)) for _ in range(20)]
    assert len({body[:16] for body in bodies}) == 20
    assert len({body[21:86] for body in bodies}) == 20


def test_the_longest_message_fills_one_record_of_4096_bytes() -> None:
    body = encrypt(bytes(MAX_PLAINTEXT), public_bytes(private_key(7)), bytes(16))
    assert len(body) == 4096


def test_a_longer_message_is_refused() -> None:
    with pytest.raises(ValueError, match="3994 bytes"):
        encrypt(bytes(MAX_PLAINTEXT + 1), public_bytes(private_key(7)), bytes(16))


def test_a_point_off_the_curve_is_refused() -> None:
    off = bytearray(public_bytes(private_key(7)))
    off[-1] ^= 1
    with pytest.raises(ValueError, match=r"(?i)point|curve|key"):
        encrypt(b"x", bytes(off), bytes(16))
